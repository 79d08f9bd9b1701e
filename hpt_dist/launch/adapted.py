"""Which weights a launch leaves for use: those that it started from, and the adapted ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_dist.recipe import KINDS
from hpt_dist.store import Store
from hpt_dist.store.committed import WEIGHTS
from hpt_dist.store.paths import stage_prefix
from hpt_dist.trial.records import Launch

_PICTURE = "neighbours.webp"


@dataclass(frozen=True)
class Left:
    """A finished trial's backbone.

    Args:
        trial: its name.
        folder: the URI of its objects.
        backbone: model name.
        size: of the images that it saw, pixels.
    """

    trial: str
    folder: str
    backbone: str
    size: int

    @property
    def weights(self) -> str:
        """The URI of its weights."""
        return f"{self.folder}/{WEIGHTS}"

    @property
    def neighbours(self) -> str:
        """The URI of the picture of what training changed; see `has_picture`."""
        return f"{self.folder}/{_PICTURE}"

    def has_picture(self, store: Store) -> bool:
        """Return whether its training left that picture in its store."""
        return store.stat(self.neighbours.removeprefix(f"{store.uri}/")) is not None


def weights(
    store: Store, launch: Launch, done: Collection[str], row: str = ""
) -> tuple[Left | None, Left | None]:
    """Return the base and the adapted weights of a launch; None for what is not done.

    Adapted are those of the row that its report's answer is about. Where that row is no stage that
    leaves weights, they are those of the last stage that does.

    Args:
        store: of the launch.
        launch: its record.
        done: the names of its finished trials.
        row: of the answer; empty without one.
    """
    leaving = [name for name in launch.trials if _leaves_weights(launch.settings.get(name, {}))]
    imported = [name for name in leaving if _kind(launch.settings[name]) == "import"]
    trained = [name for name in leaving if name not in imported and name in done]
    of_row = [name for name in trained if row and row in (name, name.partition("/")[0])]
    chosen = of_row[0] if of_row else trained[-1] if trained else ""
    base = _start(launch, chosen, imported)
    return (
        _left(store, launch, base) if base in done else None,
        _left(store, launch, chosen) if chosen else None,
    )


def _start(launch: Launch, name: str, imported: Sequence[str]) -> str:
    """Return the import that a trial goes back to; the first one where none is known."""
    names = {key: name for name, key in launch.trials.items()}
    while name and name not in imported:
        name = names.get(launch.settings[name].get("init", ""), "")
    return name or (imported[0] if imported else "")


def _kind(document: Mapping[str, Any]) -> str:
    spec = document.get("spec")
    return str(spec.get("kind", "")) if isinstance(spec, dict) else ""


def _leaves_weights(document: Mapping[str, Any]) -> bool:
    kind = _kind(document)
    return kind in KINDS and KINDS[kind].LEAVES == "weights"


def _left(store: Store, launch: Launch, name: str) -> Left:
    document = launch.settings[name]
    size = document.get("image", {}).get("size", 0)
    folder = f"{store.uri}/{stage_prefix(launch.trials[name])}"
    return Left(name, folder, str(document.get("backbone", "")), int(size))
