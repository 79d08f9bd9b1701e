"""Methods and backbones of other distributions, which offer them by entry points.

What is offered, by whom and in which version stands in the distributions' metadata, and nothing of
theirs is imported to read it. Only `make` imports: where a trial runs.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from hpt_dist.errors import HptError, RequestError, nearest
from hpt_dist.recipe.kinds.pretrain import METHOD_SETTINGS

Kind = Literal["method", "backbone"]

GROUPS: dict[Kind, str] = {"method": "hpt_dist.methods", "backbone": "hpt_dist.backbones"}
# A backbone's full name is this, a slash and its name, as it is timm/NAME with timm's.
LIBRARY = "plugin"


@dataclass(frozen=True)
class Plugin:
    """What a distribution offers under a name.

    Args:
        name: by which recipes call it.
        distribution: the name that it was installed by.
        version: of the distribution.
        entry: where its object is.
    """

    name: str
    distribution: str
    version: str
    entry: EntryPoint

    @property
    def origin(self) -> dict[str, str]:
        """Where it comes from, as in a trial's key."""
        return {"distribution": self.distribution, "version": self.version}

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def find(kind: Kind, name: str) -> Plugin | None:
    """Return what a recipe means by a name; None where it is ours, timm's or torchvision's.

    Args:
        kind: what is looked for.
        name: of a method; or of a backbone, `NAME` or `plugin/NAME`.

    Raises:
        RequestError: several offer it, or nobody does. A plain backbone that nobody offers may be
            timm's or torchvision's, which only they know.
    """
    owners = _offering(kind, name)
    is_ours = kind == "method" and name in METHOD_SETTINGS
    if len(owners) + is_ours > 1:
        sides = ["hpt-dist"] * is_ours + [str(owner) for owner in owners]
        raise RequestError(
            f"the {kind} {name} is offered by {' and by '.join(sides)}",
            fix="uninstall one of them, or have it rename its entry point",
        )
    if owners or is_ours or (kind == "backbone" and not name.startswith(f"{LIBRARY}/")):
        return owners[0] if owners else None
    ours = METHOD_SETTINGS if kind == "method" else ()
    known = dict.fromkeys([*ours, *(plugin.name for plugin in _offered(kind))])
    raise RequestError(
        f"there is no {kind} {name}",
        allowed=", ".join(known) or f"what packages offer in {GROUPS[kind]}; none is installed",
        fix=nearest(name, known) or "install the package that offers it",
    )


def check(document: Mapping[str, Any]) -> None:
    """Refuse to run a trial with another method or backbone than it was planned with.

    Args:
        document: the trial's, which its key is made of.

    Raises:
        HptError: what is installed here is missing, of another version or of somebody else.
    """
    settings, planned = document.get("spec", {}), document.get("plugins", {})
    names: dict[Kind, str] = {
        "method": settings.get("method", ""),
        "backbone": document.get("backbone", ""),
    }
    for kind, name in names.items():
        owners = _offering(kind, name)
        expected = [planned[kind]] if kind in planned else []
        if [owner.origin for owner in owners] != expected:
            before, here = " ".join(planned.get(kind, {}).values()), " and ".join(map(str, owners))
            raise HptError(
                f"the {kind} {name} was planned with {before or 'no other package'}, "
                f"and here {here or 'no installed package'} offers it",
                fix="install the same version where trials run, or launch again for a new key",
            )


def make(kind: Kind, name: str, /, *arguments: Any, **settings: Any) -> Any:
    """Import what a distribution offers under a name, and return what a call of it returns.

    Raises:
        RequestError: nobody offers it, or several do.
        HptError: it cannot be imported, or fails; with the lines that it failed in.
    """
    plugin = find(kind, name)
    if plugin is None:
        raise RequestError(f"no installed package offers the {kind} {name}")
    try:
        return plugin.entry.load()(*arguments, **settings)
    except HptError:
        raise
    except Exception as error:
        frames = "".join(traceback.format_tb(error.__traceback__)[1:])  # theirs
        what = f"the {kind} {plugin.name} of {plugin} failed: {type(error).__name__}: {error}"
        raise HptError(f"{what}\n{frames}".rstrip(), where=plugin.entry.value) from error


def _offering(kind: Kind, name: str) -> list[Plugin]:
    """Return what is offered under a name."""
    if kind == "backbone":
        name = name.removeprefix(f"{LIBRARY}/")
        if "/" in name:
            return []  # a library's own, whatever else is installed
    return [plugin for plugin in _offered(kind) if plugin.name == name]


def _offered(kind: Kind) -> list[Plugin]:
    """Return all that is offered, each distribution as `import` would find it."""
    return [
        Plugin(entry.name, entry.dist.name, entry.dist.version, entry)
        for entry in entry_points(group=GROUPS[kind])
        if entry.dist
    ]
