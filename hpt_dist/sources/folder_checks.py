"""What makes a folder's layout, its classes or its images contradict each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hpt_dist.errors import RequestError
from hpt_dist.sources import class_names, other_files
from hpt_dist.sources.folder_tree import FoundFile, Identity, Tree, may_be_image, same_image
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import printable
from hpt_dist.sources.split_names import split_of

LAYOUTS = "split/class/image, split/image or class/image; or images alone"
# Folders of images, which name no class.
IMAGES = {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "pics", "frames"}
MARKS = {
    *("labels", "label", "annotations", "annotation", "anns", "masks", "mask", "segmentations"),
    *("gt", "ground_truth", "groundtruth", "bboxes", "boxes", "xml", "xmls", "json", "jsons"),
}
_DATASET = "manifest.json"
_LISTS = {".csv", ".json", ".jsonl", ".parquet"}
_SHOWN = 5


class ClassFolder(NamedTuple):
    """A folder of a class, or with an empty path a split folder itself.

    Args:
        split: of the folder above; empty where each file's path decides it.
        path: from the root.
    """

    split: str
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the class."""
        return class_names.plain(self.path[-1])


class Placed(NamedTuple):
    """A file with its split and the id of its class."""

    file: FoundFile
    split: str
    label: int | None


Held = Mapping[ClassFolder, Sequence[FoundFile]]


def refuse_annotations(tree: Tree) -> None:
    """Raise where folders of images lie beside folders of boxes or masks, as YOLO has them."""
    inside: dict[tuple[str, ...], dict[str, str]] = {}
    for parts in tree.folders:
        if len(parts) <= 2:
            inside.setdefault(parts[:-1], {})[parts[-1].casefold()] = parts[-1]
    with_images = _folders_of(file for file in tree.files if may_be_image(file.parts[-1]))
    with_files = _folders_of(tree.files)
    for parent, names in inside.items():
        there = {one: name for one, name in names.items() if (*parent, name) in with_files}
        marks = [there[one] for one in there if one in MARKS]
        images = [names[one] for one in names if one in IMAGES]
        bare = [one for one in marks if (*parent, one) not in with_images]
        if marks and (images or (not parent and bare and with_images)):
            listed = ", ".join(map(printable, marks if images else bare))
            beside = ", ".join(map(printable, images)) or "the folders of images"
            raise RequestError(
                f"{listed} beside {beside}: so tools for boxes and masks, such as YOLO, write "
                "them; they are no classes",
                where=printable(str(tree.root.joinpath(*parent))),
                allowed=f"{LAYOUTS}; boxes and masks as COCO or Pascal VOC (docs/own_images.md)",
                fix="name their COCO file, with --root for its images, or export them as COCO or "
                "Pascal VOC; to read the images without them, name the folder of the images or "
                "move them away; or say --layout classes if these are classes",
            )


def _folders_of(files: Iterable[FoundFile]) -> set[tuple[str, ...]]:
    """Return the top folders, and those below them, that hold files at any depth."""
    return {file.parts[:depth] for file in files for depth in (1, 2) if len(file.parts) > depth}


def without_labels(held: Held) -> set[ClassFolder]:
    """Return the folders in the split `unlabeled` that are no classes.

    Raises:
        RequestError: only some of them are classes of other splits.
    """
    known = {one.name for one in held if one.path and one.split != "unlabeled"}
    there = {one for one in held if one.path and one.split == "unlabeled"}
    others = {one for one in there if one.name not in known}
    if others and others < there:
        names = ", ".join(sorted(printable("/".join(one.path)) for one in others)[:_SHOWN])
        raise RequestError(
            f"some folders in unlabeled are classes of other splits, but not {names}",
            fix="put the images of unlabeled into it without folders, or rename those folders",
        )
    return others


def refuse_splits_below(tree: Tree, labelled: Sequence[ClassFolder]) -> None:
    """Raise where the folders of the classes hold folders of splits."""
    below: dict[tuple[str, ...], set[str]] = {one.path: set() for one in labelled}
    names: set[str] = set()
    for parts in tree.folders:
        if parts[:-1] in below and (split := split_of(parts[-1])):
            below[parts[:-1]].add(split)
            names.add(parts[-1])
    if not names or not (all(below.values()) or any(len(one) > 1 for one in below.values())):
        return
    first = next(path for path, splits in below.items() if splits)
    example, inner = printable("/".join(first)), printable(min(names))
    move = f"move the splits to the top, as {inner}/{printable(first[-1])}/image"
    if len(labelled) == 1:
        move = f"name the folder {printable(str(tree.root.joinpath(*first)))}"
    raise RequestError(
        f"the class folders hold folders of splits ({', '.join(map(printable, sorted(names)))}), "
        f"such as {example}/{inner}",
        where=printable(str(tree.root)),
        allowed=LAYOUTS,
        fix=f"{move}, or name every image with its split in a .csv list; or say --layout "
        f"{'splits' if labelled[0].split else 'classes'}, where they belong to their class",
    )


def refuse_classes_below(tree: Tree, labelled: Sequence[ClassFolder], held: Held) -> None:
    """Raise where the top folders hold the same folders, such as fold1/cat and fold2/cat.

    The top folders are then splits or domains as plausibly as classes, unless they are more than
    what they hold: classes with a folder for each camera.
    """
    below: dict[ClassFolder, set[str]] = {}
    for one in labelled:
        files = [file for file in held[one] if may_be_image(file.parts[-1])]
        if any(len(file.parts) == 2 for file in files):
            return
        below[one] = {file.parts[1] for file in files}
    largest = max(below.values(), key=len, default=set())
    fewest = min(map(len, below.values()), default=0)
    if len(below) < 2 or fewest < 2 or len(below) > len(largest):
        return
    if not all(names <= largest for names in below.values()):
        return
    tops = ", ".join(printable(one.path[-1]) for one in [*below][:_SHOWN])
    inner = ", ".join(printable(name) for name in sorted(largest)[:_SHOWN])
    raise RequestError(
        f"{tops} hold folders of the same names ({inner}): these may be the classes, and the top "
        "folders splits or domains",
        where=printable(str(tree.root)),
        allowed=LAYOUTS,
        fix="name one of the top folders; or rename splits to train, val and test; or say --layout "
        "classes, where the top folders are the classes",
    )


def refuse_class_names(root: Path, labelled: Sequence[ClassFolder]) -> None:
    """Raise all names that cannot be classes, look alike, or that train does not have."""
    problems = Problems()
    train = {one.name for one in labelled if one.split == "train"}
    first: dict[tuple[str, str], ClassFolder] = {}
    for one in labelled:
        where = printable(str(root.joinpath(*one.path)))
        if what := class_names.fault(one.name):
            problems.add(where, what)
        elif (other := first.setdefault((one.split, one.name), one)) is not one:
            what = f"names the same class as {printable('/'.join(other.path))}: {one.name!r}"
            problems.add(where, what)
        elif train and one.name not in train:
            problems.add(where, f"unknown class {one.name!r}: train has none", one.name, train)
    known = train or {one.name for one in labelled}
    for names in class_names.alike(sorted(known)):
        listed = " and ".join(map(repr, names))
        problems.add(printable(str(root)), f"{listed} look like one class")
    problems.refuse(
        f"the class folders of {printable(str(root))}",
        "give a class one name in all splits, and classes names that differ by more than case "
        "and spaces; images of no class of train belong into the split unlabeled or out; names "
        "that are not UTF-8 become it by: convmv -r -f latin1 -t utf8 --notest FOLDER",
    )


def refuse_loose(root: Path, held: Held) -> None:
    """Raise where images lie beside the class folders of a split, and not in one of them."""
    problems = Problems()
    for one, files in held.items():
        loose = [file.relative for file in files if may_be_image(file.parts[-1])]
        if one.path or one.split == "unlabeled" or not loose:
            continue
        shown = ", ".join(printable(name) for name in loose[:3])
        where = printable(str(root / loose[0].partition("/")[0]))
        problems.add(where, f"images in no class folder: {len(loose):,}, such as {shown}")
    problems.refuse(
        f"the folders of {printable(str(root))}",
        "move them into folders of their classes, or into a top folder unlabeled, or remove them",
    )


def without_links(
    root: Path, placed: Sequence[Placed], classes: Sequence[str], own_splits: bool
) -> tuple[list[Placed], list[str]]:
    """Leave out links to an image that is there already.

    Args:
        root: the folder.
        placed: all images.
        classes: names of the classes.
        own_splits: the folders name the splits.

    Returns:
        The images that are left, and lines for the terminal.

    Raises:
        RequestError: links put an image into two classes, or into two of train, val and test.
    """
    problems, kept, twice = Problems(), [], []
    first: dict[Identity, Placed] = {}
    for one in placed:
        identity = one.file.identity
        other = first.setdefault(identity, one) if identity else one
        if other is one or not _are_one(root, one, other):
            kept.append(one)
            continue
        if what := _contradiction(one, other, classes, own_splits):
            problems.add(printable(str(root.joinpath(*one.file.parts))), what)
        else:
            twice.append(one.file.relative)
    problems.refuse(
        f"the images of {printable(str(root))}", "keep each image in one class and one split"
    )
    shown = ", ".join(map(printable, twice[:3]))
    notes = [f"set aside: links to images that are there already: {len(twice):,} ({shown})"]
    return kept, notes if twice else []


def _contradiction(one: Placed, other: Placed, classes: Sequence[str], own_splits: bool) -> str:
    """Return what two places of one image say differently, or an empty text."""
    what = f"is the same file as {printable(other.file.relative)}"
    if one.label != other.label:
        sides = [
            "no class" if each.label is None else repr(classes[each.label]) for each in (other, one)
        ]
        return f"{what}, of another class: {' and '.join(sides)}"
    if own_splits and one.split != other.split:
        return f"{what}, in another split: {other.split} and {one.split}"
    return ""


def _are_one(root: Path, one: Placed, other: Placed) -> bool:
    """Return whether two files are one image; one of `unlabeled` may be a link to another split."""
    paths = (root.joinpath(*each.file.parts) for each in (one, other))
    return "unlabeled" not in (one.split, other.split) and same_image(*paths)


def remarks(held: Held, labelled: Iterable[ClassFolder]) -> list[str]:
    """Return what else to say about the folders of classes."""
    known = set(labelled)
    plain = [one for one in held if one.path and one not in known]
    names = ", ".join(printable("/".join(one.path)) for one in plain[:_SHOWN])
    return [f"no classes, since they are in unlabeled: the folders {names}"] if plain else []


def no_images(tree: Tree) -> RequestError:
    """Return the error for a folder without images: what is there instead, and a way."""
    suffixes = Counter(_suffix(file.parts[-1]) for file in tree.files)
    beside = [one.parts[0] for one in tree.files if len(one.parts) == 1]
    held = [
        f"{count:,} {suffix if count > 1 else suffix.replace(' files', ' file')}"
        for suffix, count in suffixes.most_common(_SHOWN)
    ]
    files = ", ".join(held) or "no files"
    where = " in folders" if any(map(may_be_image, beside)) else ""
    what = f"no images{where}; it holds {files}"
    fix = "say --layout flat" if where else "name the folder of the images"
    folders = sorted({printable("/".join(one.parts[:-1])) for one in tree.files} - {""})
    if _DATASET in beside:
        fix = "this is a dataset already: name it in a recipe, or look at it with: data show"
    elif suffixes["parquet files"]:
        fix = f"Parquet files lie in {', '.join(folders[:_SHOWN])}: name one of these folders"
    elif suffixes["tar files"]:
        fix = "name the folder of the tars, without --layout: they have fields instead"
    else:
        packed = (one.parts for one in tree.files if other_files.holds_files(one.parts[-1]))
        fix = next((other_files.way(tree.root.joinpath(*one)) for one in packed), fix)
    return RequestError(what, where=printable(str(tree.root)), allowed=LAYOUTS, fix=fix)


def way_out(tree: Tree, fix: str, only: Iterable[ClassFolder] = ()) -> str:
    """Return a way out of a folder that cannot be read.

    Args:
        tree: the folder.
        fix: a way, unless a list in it or a folder below a class is a better one.
        only: the folders of its only class.
    """
    beside = [one.parts[0] for one in tree.files if len(one.parts) == 1]
    lists = [printable(name) for name in beside if Path(name).suffix.lower() in _LISTS]
    if lists:
        return f"name the list or annotation file that lies in it, {lists[0]}"
    paths = {one.path for one in only}
    inner = next((parts[:-1] for parts in tree.folders if parts[:-1] in paths), None)
    if inner:
        return (
            f"name {printable(str(tree.root.joinpath(*inner)))} if it holds the classes; or {fix}"
        )
    return fix


def _suffix(name: str) -> str:
    start, _, suffix = name.rpartition(".")
    return f"{printable(suffix.casefold())} files" if start else "files without a suffix"
