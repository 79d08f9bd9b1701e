"""Which networks and public weights torchvision and timm have, for plans, which import neither.

The file beside this module was written by `hpt_dist.networks.catalogue`, which asked the libraries.
Where another version of a library is installed, what the file lacks may be there all the same: then
nothing is refused here, and only the library can tell.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.recipe.yaml_values import shown

FILE = Path(__file__).parent / "networks.json"
LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Network:
    """What is known of a network without building it.

    Args:
        weights: the names of its public weights; of timm's the tags, the default one first.
        shapes: a digest of the names and shapes of what it learns, without its classifier.
        step: it reads images whose side is a multiple of so many pixels; 0 is one size only.
        least: the smallest side that it reads, pixels; the only one where `step` is 0.
        batch_norm: whether it has batch-norm statistics.
    """

    weights: tuple[str, ...]
    shapes: str
    step: int
    least: int
    batch_norm: bool

    def reads(self, size: int) -> bool:
        """Return whether it reads images of a size, pixels."""
        return size == self.least if not self.step else size >= self.least and not size % self.step

    @property
    def sizes(self) -> str:
        """Which sizes it reads, in words."""
        if not self.step:
            return f"{self.least}"
        every = f", multiples of {self.step}" if self.step > 1 else ""
        return f"{self.least} and more{every}"


@dataclass(frozen=True)
class Catalogue:
    """The networks of both libraries.

    Args:
        versions: of the libraries that were asked.
        networks: by full name, such as timm/resnet50.
        renamed: timm's former names that it still takes, and what each is called now.
    """

    versions: Mapping[str, str]
    networks: Mapping[str, Network]
    renamed: Mapping[str, str]


@cache
def load() -> Catalogue:
    """Return the catalogue that comes with this package."""
    content = json.loads(FILE.read_text())
    networks = {
        name: Network(tuple(weights), shapes, step, least, batch_norm)
        for name, (shapes, step, least, batch_norm, *weights) in content["networks"].items()
    }
    return Catalogue(content["versions"], networks, content["renamed"])


def resolve(name: str) -> str:
    """Return the full name of a backbone of torchvision or timm, as `backbones.resolve` does.

    Args:
        name: `torchvision/NAME`, `timm/NAME` or `NAME`, of timm's also with the tag of weights.

    Returns:
        The full name, without a tag; empty where only the installed library can tell.

    Raises:
        RequestError: the libraries have no such network.
    """
    library, _, model = name.rpartition("/")
    if library not in ("", *LIBRARIES):
        raise RequestError(
            f"no library {shown(library)} of backbones", allowed=", ".join([*LIBRARIES, "plugin"])
        )
    if found := _known(name):
        return found
    candidates = (library,) if library else LIBRARIES
    if not all(map(is_of_installed, candidates)):
        return ""
    network, dot, tag = model.partition(".")
    if dot and (full := _found("timm", network)):
        what = f"timm's {network} has no weights of the tag {shown(tag)}"
        raise RequestError(what, allowed=", ".join(load().networks[full].weights))
    known = [one for one in load().networks if one.startswith(candidates)]
    raise RequestError(
        f"no backbone {shown(model)} in {' or '.join(candidates)}",
        allowed="what timm.list_models() and torchvision.models.list_models() print",
        fix=nearest(name.lower(), known if library else [one.partition("/")[2] for one in known]),
    )


def check_size(name: str, size: int) -> None:
    """Refuse a size of images that a network does not read.

    Args:
        name: its full name, see `resolve`.
        size: side of the images, pixels.

    Raises:
        RequestError: it does not read them.
    """
    network = load().networks[name]
    if not network.reads(size) and is_of_installed(name.partition("/")[0]):
        raise RequestError(
            f"{name} does not read images of {size} x {size} pixels", allowed=network.sizes
        )


def has_batch_norm(name: str) -> bool:
    """Return whether a network may have batch-norm statistics: it is not known to have none."""
    known = _known(name)
    return not known or load().networks[known].batch_norm


def are_alike(one: str, other: str) -> bool:
    """Return whether two networks are known to have the same names and shapes; see `resolve`."""
    names = [_known(name) for name in (one, other)]
    networks = [load().networks[name] for name in names if name]
    if len(networks) < len(names):
        return False
    return names[0] == names[1] or networks[0].shapes == networks[1].shapes


def is_of_installed(library: str) -> bool:
    """Return whether a library's networks are those of its version that is installed here."""
    try:
        installed = importlib.metadata.version(library)
        return installed.partition("+")[0] == load().versions[library]  # +cpu and the like
    except importlib.metadata.PackageNotFoundError:
        return False


def _known(name: str) -> str:
    """Return the full name that the catalogue knows, without a tag, or an empty string."""
    library, _, model = name.rpartition("/")
    candidates = (library,) if library else LIBRARIES
    return next(filter(None, (_found(one, model) for one in candidates)), "")


def _found(library: str, model: str) -> str:
    """Return the full name of a network, without a tag; empty if the catalogue has none."""
    known = load()
    name = f"{library}/{model}"
    network, dot, tag = known.renamed.get(name, name).partition(".")
    found = known.networks.get(network)
    return network if found and (not dot or tag in found.weights) else ""
