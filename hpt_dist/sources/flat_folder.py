"""A folder of images without classes: one split `train` without labels.

A folder is flat where the images lie directly in it, or with `--layout flat`, wherever they lie in
it. Where its folders or a file beside the images may hold labels, that option decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import boxes_beside, folder_checks
from hpt_dist.sources.folder_checks import ClassFolder, Placed
from hpt_dist.sources.folder_tree import FoundFile, Tree
from hpt_dist.sources.sample import FileSource, file_sample, printable

SPLIT = "train"
RULE = "all images in train, without labels"

_SHOWN = 3
_LISTS = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".xls", ".ods"}
_JSON = ".json"
# Folders of cameras (such as 100CANON), of phones, and of dates.
_OF_CAMERAS = re.compile(r"dcim|\d{3}[a-z_][a-z0-9_]{4}", re.IGNORECASE)
_OF_DATES = re.compile(
    r"(?:19|20)\d\d(?:[-_. ]?(?:0[1-9]|1[0-2])(?:[-_. ]?(?:0[1-9]|[12]\d|3[01]))?)?"
)
_MANY = 10


def is_flat(tree: Tree) -> bool:
    """Return whether images lie directly in a folder, and none in the folders in it."""
    images = tree.images()
    return bool(images) and all(len(one.parts) == 1 for one in images)


def source(tree: Tree, *, is_asked_for: bool = False) -> FileSource:
    """List all images of a folder in one split.

    Args:
        tree: the folder.
        is_asked_for: the option says so.

    Raises:
        RequestError: there are no images.
    """
    images = tree.images()
    if not images:
        raise folder_checks.no_images(tree)
    holding = {one.parts[0] for one in images}
    tree.note_no_images(holding)
    for parts in tree.folders:
        if len(parts) == 1 and parts[0] not in holding:
            tree.aside.add("folders without images", f"{parts[0]}/")
    placed = [Placed(file, SPLIT, None) for file in images]
    kept, links = folder_checks.without_links(tree.root, placed, [], own_splits=True)
    nested = sum(1 for one in kept if len(one.file.parts) > 1)
    how = "the option --layout" if is_asked_for else "the images lie directly in it"
    words = f"read as a flat folder ({how}): {len(kept):,} images, one split {SPLIT}, no labels"
    words += f"; {nested:,} of them in folders, whose names mean nothing" if nested else ""
    return FileSource(
        name=tree.root.resolve().name,
        rule=RULE,
        classes=[],
        files=[
            file_sample(tree.root.joinpath(*file.parts), file.relative, SPLIT, None)
            for file, _, _ in kept
        ],
        notes=(words, *links, *tree.aside.notes()),
    )


def refuse_labels_beside(tree: Tree) -> None:
    """Raise where a file or a folder beside the images of a flat folder may hold their labels.

    Raises:
        RequestError: so it is.
    """
    names = [one.parts[0] for one in tree.files if len(one.parts) == 1]
    stems = {Path(one.parts[-1]).stem for one in tree.images()}
    lists = [one for one in names if _may_be_list(tree.root / one, stems)]
    folders = sorted({one.parts[0] for one in tree.files if len(one.parts) > 1})
    marks = [one for one in folders if one.casefold() in folder_checks.MARKS]
    if not lists and not marks:
        return
    listed = ", ".join([*map(printable, lists[:_SHOWN]), *(f"{printable(one)}/" for one in marks)])
    path = printable(str(tree.root / lists[0])) if lists else ""
    way = f"name the list or annotation file, {path}; or " if lists else ""
    raise RequestError(
        f"{listed} beside the images may hold their labels",
        where=printable(str(tree.root)),
        allowed="a list, COCO or Pascal VOC (docs/own_images.md); or a folder of images alone",
        fix=f"{way}say --layout flat, to read the images without labels",
    )


def may_list(name: str) -> bool:
    """Return whether a file may list images by its name."""
    return Path(name).suffix.casefold() in {_JSON, *_LISTS}


def _may_be_list(path: Path, stems: set[str]) -> bool:
    """Return whether a file beside images may hold the labels of many of them."""
    if path.suffix.casefold() != _JSON:
        return may_list(path.name)
    # Photo programs write a.json, a.jpg.json or a.jpg.supplemental-metadata.json for a.jpg.
    of_an_image = any(str(part) in stems for part in (path.stem, path.name.partition(".")[0]))
    return not of_an_image and boxes_beside.looks_like_labels(path)


def refuse_mostly_loose(tree: Tree) -> None:
    """Raise where as many images lie directly in the folder as in the folders in it.

    Raises:
        RequestError: so it is.
    """
    images = tree.images()
    loose = [one for one in images if len(one.parts) == 1]
    if not loose or 2 * len(loose) < len(images):
        return
    tops = sorted({printable(one.parts[0]) for one in images if len(one.parts) > 1})
    raise RequestError(
        f"{len(loose):,} images lie directly in it, such as {printable(loose[0].relative)}, and "
        f"{len(images) - len(loose):,} in its folders {', '.join(tops[:_SHOWN])}",
        where=printable(str(tree.root)),
        allowed=folder_checks.LAYOUTS,
        fix="say --layout flat, to read all of them without labels; or --layout classes or splits, "
        "to read those in folders alone",
    )


def refuse_no_classes(tree: Tree, held: Mapping[ClassFolder, Sequence[FoundFile]]) -> None:
    """Raise where the top folders are those of a camera, or dates, or hold one image each.

    Raises:
        RequestError: so it is.
    """
    tops = [one.path[0] for one in held if one.path]
    shown = ", ".join(printable(one) for one in tops[:_SHOWN])
    if all(_OF_CAMERAS.fullmatch(one) or _OF_DATES.fullmatch(one) for one in tops):
        what = f"the top folders ({shown}) look like those of a camera, or like dates"
    elif len(tops) > _MANY and all(len(files) == 1 for files in held.values()):
        what = f"each of the {len(tops):,} top folders ({shown}, ...) holds one image"
    else:
        return
    raise RequestError(
        f"{what}; they may be no classes",
        where=printable(str(tree.root)),
        allowed=folder_checks.LAYOUTS,
        fix="say --layout flat, to read all images without labels; or --layout classes",
    )
