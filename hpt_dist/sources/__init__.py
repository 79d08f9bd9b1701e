"""Sources of images: a user's own files, or a built-in source by its name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.sources import coco, folder, listing, named, openmoji, tars, voc
from hpt_dist.sources.class_names import checked
from hpt_dist.sources.groups import kept_together
from hpt_dist.sources.sample import FileSource, Sample, Source, printable
from hpt_dist.sources.tars import TarOptions

__all__ = ["Sample", "Source", "TarOptions", "are_tars", "open_source"]

# How a user's file is read, by its suffix; the second argument is `--root`.
_FILES: dict[str, Callable[[Path, Path | None], FileSource]] = {
    ".csv": listing.open_list,
    ".json": coco.open_file,
    ".jsonl": listing.open_list,
    ".parquet": listing.open_list,
}
# How a user's folder is read: the first entry that recognises the layout opens it.
_FOLDERS: list[tuple[Callable[[Path], bool], Callable[[Path], FileSource]]] = [
    (voc.is_voc, voc.open_folder),
    (coco.has_splits, coco.open_splits),
    (listing.has_parquet, listing.open_parquet_folder),
    (Path.is_dir, folder.open_folder),
]
_SHOWN = 3
_ALLOWED = (
    "a folder of images, a list (.csv, .jsonl or .parquet), a COCO file (.json), tars, "
    f"or one of {', '.join(openmoji.NAMES + named.NAMES)}"
)


def open_source(
    text: str,
    root: Path | None = None,
    *,
    layout: str = "",
    group_by: str | None = None,
    tar_options: TarOptions | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Source:
    """Open the images that `text` names.

    Args:
        text: a built-in name such as `openmoji/line` or `resisc45`, a folder or a file, or tars.
        root: the folder that a dataset of the paper was unpacked to, or the folder that the paths
            in a file start from; by default it follows from the place of the file.
        layout: how a folder of images is read, one of `folder.CHOICES`; empty where it is plain.
        group_by: see `groups.kept_together`.
        tar_options: how tars are read, where that is not plain.
        progress: called while tars are read, with (samples done, samples expected).

    Raises:
        RequestError: nothing exists there, its layout is unknown, or all mistakes in a file.
    """
    if layout and (layout not in folder.CHOICES or not Path(text).is_dir()):
        raise RequestError(
            f"only a folder of images has the layout {layout!r}",
            where="--layout",
            allowed=f"{' or '.join(folder.CHOICES)}, for a folder",
        )
    is_tars = are_tars(text, root, layout)
    if tar_options and not is_tars:
        what = "tars have no --layout" if layout else f"{text} names no tars"
        raise RequestError(what, where="--image, --label, --classes, --split", allowed="tars")
    if text in openmoji.NAMES:
        if group_by:
            raise RequestError(f"{text} has groups of its own", where="--group-by")
        return openmoji.open_domain(text)
    source = tars.open_tars(text, tar_options, progress) if is_tars else _opened(text, root, layout)
    return kept_together(checked(source), group_by)


def are_tars(text: str, root: Path | None = None, layout: str = "") -> bool:
    """Return whether `open_source` reads tars.

    Raises:
        RequestError: a folder holds tars beside images, and either may be meant.
    """
    if root is not None or layout:
        return False
    is_annotated = os.path.isdir(text) and (  # noqa: PTH112 - a list may be longer than a path
        voc.is_voc(Path(text)) or coco.has_splits(Path(text))
    )
    return not is_annotated and tars.are_named(text)


def _opened(text: str, root: Path | None, layout: str) -> FileSource:
    path = Path(text)
    if text in named.NAMES and (root is not None or not path.exists()):
        return named.open_named(text, root)
    suffix = path.suffix.lower()
    if path.is_file() and suffix in _FILES:
        return _FILES[suffix](path, root)
    if root is not None:
        raise RequestError(
            f"only a file of paths has a root, not {text}",
            where="--root",
            allowed=f"a list, a COCO file, or one of {', '.join(named.NAMES)}",
            fix=nearest(text, named.NAMES),
        )
    if path.is_dir():
        return _open_folder(path, layout)
    raise RequestError(
        _what_is_at(path), allowed=_ALLOWED, fix=nearest(text, openmoji.NAMES + named.NAMES)
    )


def _open_folder(path: Path, layout: str) -> FileSource:
    """Open a folder, or the one folder inside that holds everything."""
    if not os.access(path, os.R_OK | os.X_OK):
        raise RequestError(f"{path} cannot be read", fix="allow reading it")
    opened = next(opened for is_one, opened in _FOLDERS if is_one(path))
    if opened is not folder.open_folder and not layout:
        return opened(path)
    inner = folder.only_folder(path)
    if inner is None:
        return folder.open_folder(path, layout)
    source = _open_folder(inner, layout)
    beside = sorted(printable(one.name) for one in path.iterdir() if one.name != inner.name)
    note = f"entered {printable(inner.name)}, the only folder in {printable(str(path))}"
    note += f"; set aside beside it: {', '.join(beside[:_SHOWN])} ({len(beside)})" if beside else ""
    return dataclasses.replace(source, notes=(note, *source.notes))


def _what_is_at(path: Path) -> str:
    if path.is_file():
        return f"{path} is no list of a known kind"
    if path.exists():
        return f"{path} is neither a file nor a folder, but a pipe or a device"
    return f"nothing is at {path}"
