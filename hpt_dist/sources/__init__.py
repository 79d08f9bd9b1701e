"""Sources of images: a user's own files, or a built-in source by its name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.images import file_kinds
from hpt_dist.sources import (
    coco,
    detection,
    folder,
    image_folder,
    listing,
    named,
    openmoji,
    other_files,
    tars,
    val_annotations,
    voc,
)
from hpt_dist.sources.class_names import checked
from hpt_dist.sources.columns import OPTION
from hpt_dist.sources.columns import parse as parse_columns
from hpt_dist.sources.groups import kept_together
from hpt_dist.sources.sample import FileSource, Sample, Source, printable
from hpt_dist.sources.tars import TarOptions

__all__ = ["Sample", "Source", "TarOptions", "are_tars", "open_source"]

# How a user's file is read, by its suffix, with what `--root` and `--columns` say.
_FILES: dict[str, Callable[[Path, Path | None, Mapping[str, str]], FileSource]] = {
    **dict.fromkeys(listing.SUFFIXES, listing.open_list),
    ".json": lambda file, root, _: coco.open_file(file, root),
}
# How a user's folder is read: the first entry that recognises the layout opens it.
_FOLDERS: list[tuple[Callable[[Path], bool], Callable[[Path], FileSource]]] = [
    (val_annotations.has_table, val_annotations.open_folder),
    (voc.is_voc, voc.open_folder),
    (coco.has_splits, coco.open_splits),
]
# The same of folders with a list in them, with what `--columns` says.
_FOLDERS_WITH_LISTS: list[
    tuple[Callable[[Path], bool], Callable[[Path, Mapping[str, str]], FileSource]]
] = [
    (image_folder.has_metadata, image_folder.open_folder),
    (listing.has_parquet, listing.open_parquet_folder),
]
_HEIC = (".heic", ".heif", ".hif")
_SHOWN = 3
_ALLOWED = (
    "a folder of images, a list (.csv, .tsv, .jsonl or .parquet), a COCO file (.json), tars, "
    f"or one of {', '.join(openmoji.NAMES + named.LISTED)}"
)


def open_source(
    text: str,
    root: Path | None = None,
    *,
    layout: str = "",
    group_by: str | None = None,
    columns: str = "",
    tar_options: TarOptions | None = None,
    boxes: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Source:
    """Open the images that `text` names.

    Args:
        text: a built-in name such as `openmoji/line` or `resisc45`, a folder or a file, or tars.
        root: the folder that a dataset of the paper was unpacked to, or the folder that the paths
            in a file start from; by default it follows from the place of the file.
        layout: how a folder of images is read, one of `folder.CHOICES`; empty where it is plain.
        group_by: see `groups.kept_together`.
        columns: which columns of a list hold what, see `columns.parse`; empty where their names
            say it.
        tar_options: how tars are read, where that is not plain.
        boxes: the objects of annotations are the labels, see `detection.with_boxes`.
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
        allowed = f"tars; the columns of a list are named by {OPTION} label=NAME"
        raise RequestError(what, where="--image, --label, --classes, --split", allowed=allowed)
    if text in openmoji.NAMES:
        if group_by:
            raise RequestError(f"{text} has groups of its own", where="--group-by")
        if boxes:
            raise RequestError(f"{text} has no boxes", where=detection.OPTION)
        return openmoji.open_domain(text)
    chosen = parse_columns(columns)
    if is_tars and chosen:
        raise RequestError("only a list has columns", where=OPTION, allowed="--label, for tars")
    source = checked(
        tars.open_tars(text, tar_options, progress)
        if is_tars
        else _opened(text, root, layout, chosen)
    )
    _refuse_heic(source)
    source = kept_together(source, group_by)
    if boxes and is_tars and not source.boxes:
        fix = "shard what the tars were written from"
        raise RequestError("tars hold boxes of any form", where=detection.OPTION, fix=fix)
    return detection.with_boxes(source) if boxes else source


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


def _refuse_heic(source: FileSource) -> None:
    """Refuse HEIC images by their names at once, and not at the first that a worker decodes."""
    if file_kinds.reads_heif():
        return
    names = [one.origin for one in source.files if one.origin.casefold().endswith(_HEIC)]
    if names:
        raise RequestError(
            f"{len(names):,} of its images are HEIC, such as {names[0]}, and pillow-heif is not "
            "installed",
            where=source.name,
            fix=file_kinds.HEIF_FIX,
        )


def _opened(text: str, root: Path | None, layout: str, chosen: Mapping[str, str]) -> FileSource:
    path = Path(text)
    suffix = path.suffix.lower()
    is_named = text in named.NAMES and (root is not None or not path.exists())
    is_list = path.is_file() and suffix in listing.SUFFIXES
    if chosen and not (is_list or path.is_dir()):
        raise RequestError("only a list has columns", where=OPTION, allowed="for a list")
    if is_named:
        return named.open_named(text, root)
    if path.is_file() and suffix in _FILES:
        return _FILES[suffix](path, root, chosen)
    if root is not None:
        raise RequestError(
            f"only a file of paths has a root, not {text}",
            where="--root",
            allowed=f"a list, a COCO file, or one of {', '.join(named.LISTED)}",
            fix=nearest(text, named.NAMES),
        )
    if path.is_dir():
        return _open_folder(path, layout, chosen)
    raise RequestError(_what_is_at(path), allowed=_ALLOWED, fix=_way(path))


def _open_folder(path: Path, layout: str, chosen: Mapping[str, str]) -> FileSource:
    """Open a folder, or the one folder inside that holds everything."""
    if not os.access(path, os.R_OK | os.X_OK):
        raise RequestError(f"{path} cannot be read", fix="allow reading it")
    if opened := None if layout else _recognised(path, chosen):
        return opened
    inner = None if layout == "flat" else folder.only_folder(path)
    if inner is None:
        if chosen:
            raise RequestError("only a list has columns", where=OPTION, fix="name the list itself")
        return folder.open_folder(path, layout)
    source = _open_folder(inner, layout, chosen)
    beside = sorted(printable(one.name) for one in path.iterdir() if one.name != inner.name)
    note = f"entered {printable(inner.name)}, the only folder in {printable(str(path))}"
    note += f"; set aside beside it: {', '.join(beside[:_SHOWN])} ({len(beside)})" if beside else ""
    return dataclasses.replace(source, notes=(note, *source.notes))


def _recognised(path: Path, chosen: Mapping[str, str]) -> FileSource | None:
    """Open a folder of a known layout, or return None for plain images."""
    for is_one, opened in _FOLDERS:
        if is_one(path):
            return opened(path)
    for has_list, opened_list in _FOLDERS_WITH_LISTS:
        if has_list(path):
            return opened_list(path, chosen)
    return None


def _way(path: Path) -> str:
    """Return what to do about a source that cannot be read."""
    way = other_files.way(path) if path.is_file() else ""
    return way or nearest(str(path), openmoji.NAMES + named.NAMES)


def _what_is_at(path: Path) -> str:
    if path.is_file():
        if other_files.is_archive(path.name):
            return f"{path} is an archive, from which no images are read"
        return f"{path} is no list of a known kind"
    if path.exists():
        return f"{path} is neither a file nor a folder, but a pipe or a device"
    return f"nothing is at {path}"
