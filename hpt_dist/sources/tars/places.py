"""Which tars a source names: a folder, a file, or a list in braces, here or on S3."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import folder_tree
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import printable
from hpt_dist.store import FolderStore, ObjectInfo, Store, open_store
from hpt_dist.store.paths import local_path

MANIFEST = "manifest.json"
_SUFFIX = ".tar"
_PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MAX_TARS = 1_000_000
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:(?=/|curl|aws|gsutil|cat|s3)")
_DEPTH = 3  # of folders that are searched for tars
_SHOWN = 3
_ALLOWED = "a folder with tars, FILE.tar, or 'FOLDER/train-{000000..000146}.tar'; also s3://..."


@dataclass(frozen=True)
class Places:
    """The tars of a source.

    Args:
        name: of the source.
        store: the folder of all tars.
        tars: by their path from there, sorted.
        beside: the paths of other files in that folder, if it was named itself.
        links: tars that are links to one of these, with its path.
        notes: what else was set aside.
    """

    name: str
    store: Store
    tars: tuple[ObjectInfo, ...]
    beside: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def where(self, tar: str) -> str:
        """Return how messages name a tar."""
        return printable(f"{self.store.uri}/{tar}")


def is_tar(name: str) -> bool:
    """Return whether a file is a tar by its name."""
    return name.casefold().endswith((_SUFFIX, *_PACKED))


def are_named(text: str) -> bool:
    """Return whether a text names tars: a file, a list, what lies on S3, or a folder of tars.

    A single compressed tar is an archive of images as likely as not.

    Raises:
        RequestError: a folder holds tars beside images, and either may be meant.
    """
    if _is_list(text):  # its text may be too long for the name of a file
        return True
    if Path(text).is_dir():
        return _has_tars(Path(text))
    return text.casefold().endswith(_SUFFIX) or bool(_SCHEME.match(text))


def _is_list(text: str) -> bool:
    return not os.path.lexists(text) and ("::" in text or ("{" in text and "}" in text))


def _has_tars(folder: Path) -> bool:
    """Return whether a folder holds tars, and no images."""
    found = ["/".join(parts) for parts in _telling(folder)]
    tars = [name for name in found if is_tar(name)]
    images = [name for name in found if not is_tar(name)]
    # A tar that lies beside the folder that it unpacked to is not read again.
    unpacked = {name.partition("/")[0] for name in images if "/" in name}
    tars = [name for name in tars if not images or name.partition(".")[0] not in unpacked]
    if images and any(one.casefold().endswith(_SUFFIX) for one in tars):
        raise RequestError(
            f"it holds tars, such as {printable(tars[0])}, and images, such as "
            f"{printable(images[0])}",
            where=printable(str(folder)),
            allowed="a folder of tars, or one of images",
            fix="to read the tars, name them: FILE.tar, or 'FOLDER/{00000..00146}.tar'; to read "
            "the images, say --layout; or move one kind into another folder",
        )
    if images:
        return False
    return len(tars) > 1 or bool(tars and tars[0].casefold().endswith(_SUFFIX))


def _telling(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of tars and images in a folder, and of a first one of each folder below."""
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if folder_tree.is_hidden(entry.name):
                    continue
                if folder_tree.is_folder(entry):
                    folders.append(entry.name)
                elif is_tar(entry.name) or entry.name.casefold().endswith(_IMAGES):
                    yield (*above, entry.name)
                    if above:
                        break
    except OSError:
        return  # who lists the folder reports it
    if len(above) < _DEPTH:
        for name in sorted(folders):
            yield from _telling(folder / name, (*above, name))


def listed(names: Sequence[str]) -> str:
    """Return several tars as one list, such as a shell makes of `*.tar`; one name as it is.

    Raises:
        RequestError: some of several are no tars.
    """
    others = [name for name in names if not is_tar(name)]
    if len(names) > 1 and others:
        raise RequestError(
            f"several sources, of which {others[0]} is no tar",
            allowed="one SOURCE and DEST; or several tars and DEST",
            fix="shard each into a dataset of its own: a recipe can train on all of them",
        )
    return "::".join(names)


def in_short(text: str) -> str:
    """Return a source for messages; a long list by its first and last name."""
    names = text.split("::")
    return text if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names):,})"


def find(text: str) -> Places:
    """Find the tars that a text names.

    Raises:
        RequestError: nothing is there, something is missing, or the text is no list.
        StoreError: S3 refused.
    """
    if not _is_list(text) and Path(text).is_dir():
        return _in_folder(Path(text))
    scheme = _SCHEME.match(text)
    if scheme and not text.startswith(("s3://", "file://")):
        raise RequestError(
            f"tars are not read by {scheme[0]}",
            where=in_short(text),
            allowed=_ALLOWED,
            fix="download them, and name their folder",
        )
    if text.startswith("s3://") and not is_tar(text) and not _is_braced(text):
        return _in_prefix(text)
    return _listed(_expanded(text) if _is_list(text) or _is_braced(text) else [text], text)


def _is_braced(text: str) -> bool:
    return text.startswith(("s3://", "file://")) and ("{" in text or "::" in text)


def _in_folder(folder: Path) -> Places:
    tree = folder_tree.walk(folder)
    names = [file.relative for file in tree.files]
    store = FolderStore(folder.absolute())
    tars, links = _each_once(store, [name for name in names if is_tar(name)])
    beside = tuple(name for name in names if not is_tar(name))
    name = printable(folder.resolve().name)
    return Places(name, store, tars, beside, links, tuple(tree.aside.notes()))


def _each_once(
    store: FolderStore, names: Iterable[str]
) -> tuple[tuple[ObjectInfo, ...], dict[str, str]]:
    """Return the tars of a local folder, and links to one that is there already."""
    first: dict[str, str] = {}
    links: dict[str, str] = {}
    tars = []
    for name in sorted(names):
        info = store.stat(name)
        if info is None:
            raise RequestError(
                "this is a link that leads nowhere, or no file",
                where=printable(str(store.root / name)),
                fix="remove it, or restore what it leads to",
            )
        real = os.path.realpath(store.root / name)
        if real in first:
            links[name] = first[real]
            continue
        first[real] = name
        tars.append(info)
    return tuple(tars), links


def _in_prefix(text: str) -> Places:
    store = open_store(text.rstrip("/"))
    infos = [
        info
        for info in store.list()
        if not any(folder_tree.is_hidden(part) for part in info.path.split("/"))
    ]
    tars = tuple(info for info in infos if is_tar(info.path))
    if not tars:
        held = ", ".join(printable(info.path) for info in infos[:_SHOWN])
        raise RequestError(
            f"no tars are there; it holds {held} ..." if held else "nothing is there",
            where=in_short(text),
            allowed=_ALLOWED,
            fix="images on S3 are read from tars; copy loose images to a folder here",
        )
    beside = tuple(info.path for info in infos if not is_tar(info.path))
    return Places(store.uri.rpartition("/")[2], store, tars, beside)


def _expanded(text: str) -> list[str]:
    """Return the names in a list, as webdataset reads it.

    Raises:
        RequestError: it is no list, or too long.
    """
    ranges = [abs(int(end) - int(start)) + 1 for start, end in _RANGE.findall(text)]
    if math.prod(ranges) > _MAX_TARS:
        raise RequestError(
            "the list names too many tars", where=in_short(text), allowed=f"up to {_MAX_TARS:,}"
        )
    from webdataset.shardlists import expand_urls  # it imports torch

    try:
        names = expand_urls(text)
    except (AssertionError, ValueError) as error:  # a variable that is not set; braces
        raise RequestError(
            f"this is no list of tars: {error}", where=in_short(text), allowed=_ALLOWED
        ) from error
    return list(dict.fromkeys(name for name in names if name))


def _listed(names: Sequence[str], text: str) -> Places:
    """Look up the tars of a list.

    Raises:
        RequestError: all that are missing.
    """
    problems = Problems()
    remote = [name for name in names if name.startswith("s3://")]
    if remote and len(remote) < len(names):
        raise RequestError("some of these tars are on S3, and some are not", where=in_short(text))
    found = _on_s3(remote, problems) if remote else _local(names, problems)
    problems.refuse(
        f"the tars {in_short(text)}" if len(names) > 1 else "the source",
        f"correct the name, or download what is missing; allowed: {_ALLOWED}",
    )
    return found


def _on_s3(names: Sequence[str], problems: Problems) -> Places:
    buckets = {name.removeprefix("s3://").partition("/")[0] for name in names}
    if len(buckets) > 1:
        raise RequestError(f"the tars are in {len(buckets)} buckets", allowed="one bucket")
    keys = [name.removeprefix("s3://").partition("/")[2] for name in names]
    folder = os.path.commonpath([key.rpartition("/")[0] for key in keys])
    store = open_store(f"s3://{buckets.pop()}/{folder}".rstrip("/"))
    paths = [key.removeprefix(f"{folder}/") if folder else key for key in keys]
    start = os.path.commonprefix(paths)  # noqa: RUF071 - S3 lists by any beginning
    there = {info.path: info for info in store.list(start)}
    for name, path in zip(names, paths, strict=True):
        if path not in there:
            problems.add(name, "there is no such object")
    tars = tuple(there[path] for path in sorted(paths) if path in there)
    return Places(_stem(keys, store.uri.rpartition("/")[2]), store, tars)


def _local(names: Sequence[str], problems: Problems) -> Places:
    files = [local_path(name.removeprefix("file://")).absolute() for name in names]
    there = []
    for name, file in zip(names, files, strict=True):
        if file.is_file():
            there.append(file)
        else:
            problems.add(name, "no file" if file.exists() else "there is no such file")
    folder = Path(os.path.commonpath([file.parent for file in files]))
    store = FolderStore(folder)
    tars, links = _each_once(store, [file.relative_to(folder).as_posix() for file in there])
    return Places(_stem([file.name for file in files], folder.name), store, tars, links=links)


def _stem(names: Sequence[str], folder: str) -> str:
    """Return the name of a source: of its only tar, or of their folder."""
    only = names[0].rpartition("/")[2].partition(".")[0] if len(names) == 1 else ""
    return printable(only or folder or "tars")
