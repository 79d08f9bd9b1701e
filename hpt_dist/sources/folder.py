"""Images in folders: `split/class/image`, `split/image` (no labels), `class/image`, or flat.

The top folders decide: where all are names of splits (`split_names`), the layout is by split, and a
split holds folders of classes or, unlabelled, the images themselves. Where none is, they are the
classes, and each file's path decides its split (`HASH_SPLIT_RULE`). Folders below a class belong to
that class. Where no folder in it holds an image, a folder is flat (`flat_folder`). Where another
reading is plausible, nothing is read until `--layout` decides.

Litter of systems and programs is set aside (`folder_tree`), as are folders without images and files
that are no images by their names. Any other file counts as an image; one that is none is reported
when it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import boxes_beside, class_names, flat_folder, folder_checks, folder_tree
from hpt_dist.sources.folder_checks import LAYOUTS, ClassFolder
from hpt_dist.sources.folder_tree import FoundFile, Tree
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    SPLITS,
    FileSource,
    file_sample,
    hash_split,
    printable,
)
from hpt_dist.sources.split_names import split_of, split_within

CHOICES = ("classes", "splits", "flat")

_ONE_CLASS_FIX = (
    "add the folders of the other classes or name the folder above; to train without labels, say "
    "--layout flat, or leave every label of a .csv list empty"
)


@dataclass(frozen=True)
class _Layout:
    """How a folder is read.

    Args:
        tops: top folders with images.
        splits: the split of each; empty where they are classes.
        inner: the top folders that hold all in one folder of the same split.
    """

    tops: Sequence[str]
    splits: Mapping[str, str]
    inner: frozenset[str] = frozenset()

    def class_folder(self, file: FoundFile) -> ClassFolder:
        """Return the split and the path of the class folder that holds a file.

        The path is empty where the file is in none.
        """
        level = 1 + (file.parts[0] in self.inner) if self.splits else 0
        # The last part is the file itself: a shorter path has no class folder.
        path = file.parts[: level + 1] if len(file.parts) > level + 1 else ()
        return ClassFolder(self.splits.get(file.parts[0], ""), path)

    def words(self, classes: Sequence[str]) -> str:
        """Describe it for the terminal."""
        if not self.splits:
            return (
                "read as class/image: the top folders are classes; --layout flat reads the images "
                "without labels"
            )
        named = ", ".join(
            split if top == split else f"{printable(top)} ({split})"
            for top, split in self.splits.items()
        )
        form = "split/class/image" if classes else "split/image"
        return f"read as {form}: the top folders are splits: {named}"


def only_folder(root: Path) -> Path | None:
    """Return the one folder that holds everything, as an archive unpacks to, or None.

    Raises:
        RequestError: the folder cannot be read.
    """
    visible = [one for one in folder_tree.entries(root) if not folder_tree.is_hidden(one.name)]
    folders = [one.name for one in visible if folder_tree.is_folder(one)]
    if len(folders) != 1 or split_of(folders[0]):
        return None
    if any(folder_tree.may_be_image(one.name) for one in visible if one.name != folders[0]):
        return None
    inner = root / folders[0]
    if inner.resolve() in (root.resolve(), *root.resolve().parents):
        return None  # a link, which `folder_tree.walk` reports
    if folders[0].casefold() in folder_checks.IMAGES:
        return None if any(flat_folder.may_list(one.name) for one in visible) else inner
    inside = [one for one in folder_tree.entries(inner) if not folder_tree.is_hidden(one.name)]
    holds_more = any(folder_tree.is_folder(one) or one.name.endswith(".parquet") for one in inside)
    return inner if holds_more else None


def open_folder(root: Path, layout: str = "") -> FileSource:
    """List the images below a folder.

    Args:
        root: the folder.
        layout: one of `CHOICES`, or empty where the names of the folders decide.

    Raises:
        RequestError: the layout is none of the four, or may be several of them; classes or images
            contradict each other; or there are no images.
    """
    tree = folder_tree.walk(root)
    if layout == "flat":
        return flat_folder.source(tree, is_asked_for=True)
    if not layout:
        folder_checks.refuse_annotations(tree)
        boxes_beside.refuse(tree)
        if flat_folder.is_flat(tree):
            flat_folder.refuse_labels_beside(tree)
            return flat_folder.source(tree)
        flat_folder.refuse_mostly_loose(tree)
    tops = _tops(tree)
    splits = {} if layout == "classes" else _splits(tree, tops, is_forced=layout == "splits")
    read = _Layout(tops, splits, _inner(tree, splits))
    in_tops = set(tops)
    files = [file for file in tree.files if file.parts[0] in in_tops and len(file.parts) > 1]
    held: dict[ClassFolder, list[FoundFile]] = {}
    for file in files:
        held.setdefault(read.class_folder(file), []).append(file)
    _set_empty_aside(tree, held, level=1 if splits else 0)
    _take_no_images_out(held)
    tree.note_no_images({one.parts[0] for files in held.values() for one in files})
    unlabelled = folder_checks.without_labels(held)
    labelled = [one for one in held if one.path and one not in unlabelled]
    if not layout:
        folder_checks.refuse_splits_below(tree, labelled)
        if not splits:
            folder_checks.refuse_classes_below(tree, labelled, held)
            flat_folder.refuse_no_classes(tree, held)
    folder_checks.refuse_class_names(root, labelled)
    if labelled:
        folder_checks.refuse_loose(root, held)
    return _source(tree, read, held, set(labelled))


def _source(
    tree: Tree,
    read: _Layout,
    held: Mapping[ClassFolder, Sequence[FoundFile]],
    labelled: set[ClassFolder],
) -> FileSource:
    classes = sorted({one.name for one in labelled})
    ids = {name: i for i, name in enumerate(classes)}
    placed = [
        folder_checks.Placed(
            file, one.split or hash_split(file.relative), ids[one.name] if one in labelled else None
        )
        for one, files in held.items()
        for file in files
    ]
    kept, links = folder_checks.without_links(tree.root, placed, classes, bool(read.splits))
    fix = folder_checks.way_out(tree, _ONE_CLASS_FIX, labelled)
    class_names.refuse_single(classes, printable(str(tree.root)), fix)
    samples = [
        file_sample(tree.root.joinpath(*file.parts), file.relative, split, label)
        for file, split, label in kept
    ]
    return FileSource(
        name=tree.root.resolve().name,
        rule="splits by the top folders" if read.splits else HASH_SPLIT_RULE,
        classes=classes,
        files=samples,
        notes=(
            read.words(classes),
            *folder_checks.remarks(held, labelled),
            *links,
            *tree.aside.notes(),
        ),
    )


def _tops(tree: Tree) -> list[str]:
    """Return the top folders that hold images; the others, and images beside them, are set aside.

    Raises:
        RequestError: there are none.
    """
    holding = {
        file.parts[0]
        for file in tree.files
        if len(file.parts) > 1 and folder_tree.may_be_image(file.parts[-1])
    }
    tops = [parts[0] for parts in tree.folders if len(parts) == 1]
    if not holding:
        raise folder_checks.no_images(tree)
    files = Counter(file.parts[0] for file in tree.files)
    for top in tops:
        if top not in holding:
            tree.aside.add("folders without images", f"{top}/ (files: {files[top]:,})")
    for file in tree.files:
        if len(file.parts) == 1 and folder_tree.may_be_image(file.parts[0]):
            tree.aside.add("images outside of the top folders", file.parts[0])
    return [top for top in tops if top in holding]


def _splits(tree: Tree, tops: Sequence[str], *, is_forced: bool) -> dict[str, str]:
    """Return the split of each top folder, or nothing where they are classes.

    Raises:
        RequestError: only some are names of splits, or may be; or two name one split.
    """
    certain = {top: split for top in tops if (split := split_of(top))}
    possible = {top: split for top in tops if (split := split_of(top) or split_within(top))}
    named = possible if is_forced else certain
    others = [top for top in tops if top not in named]
    if is_forced and others:
        raise _undecided(tree, f"{_listed(others)} name no split", "--layout classes")
    if named and others:
        what = f"{_listed(named)} are names of splits, but {_listed(others)} are not"
        raise _undecided(tree, what, "--layout classes, where each top folder is a class")
    if not named:
        if len(tops) > 1 and len(possible) * 2 >= len(tops):
            what = f"{_listed(possible)} may be splits or classes"
            raise _undecided(tree, what, "--layout splits or --layout classes")
        return {}
    _refuse_two_of_one(tree, named)
    _refuse_empty_train(tree, named)
    return named


def _undecided(tree: Tree, what: str, option: str) -> RequestError:
    return RequestError(
        what,
        where=printable(str(tree.root)),
        allowed=f"{LAYOUTS}; the splits are {', '.join(SPLITS)}, also as Train2017 or test_images",
        fix=f"rename or move folders, or name every image in a .csv list, or say {option}",
    )


def _refuse_two_of_one(tree: Tree, splits: Mapping[str, str]) -> None:
    for top, split in splits.items():
        others = [other for other in splits if splits[other] == split and other != top]
        if others:
            raise RequestError(
                f"{_listed([top, *others])} name the same split, {split}",
                where=printable(str(tree.root)),
                fix="merge these folders, or say --layout classes, where each is a class",
            )


def _refuse_empty_train(tree: Tree, splits: Mapping[str, str]) -> None:
    tops = [parts[0] for parts in tree.folders if len(parts) == 1]
    for top in tops:
        if top not in splits and split_of(top) == "train" and "train" not in splits.values():
            raise RequestError(
                f"{printable(top)} holds no image, unlike {_listed(splits)}",
                where=printable(str(tree.root)),
                fix="put the images of train into it, or remove it",
            )


def _inner(tree: Tree, splits: Mapping[str, str]) -> frozenset[str]:
    """Return the split folders whose only content is one folder of the same split."""
    found = set()
    for top, split in splits.items():
        below = [parts[1] for parts in tree.folders if len(parts) == 2 and parts[0] == top]
        if len(below) == 1 and (split_of(below[0]) or split_within(below[0])) == split:
            found.add(top)
    return frozenset(found)


def _set_empty_aside(tree: Tree, held: dict[ClassFolder, list[FoundFile]], level: int) -> None:
    """Take class folders without an image out, and note them and those that hold nothing."""
    for one in list(held):
        if one.path and not any(folder_tree.may_be_image(file.parts[-1]) for file in held[one]):
            files = held.pop(one)
            name = f"{'/'.join(one.path)}/ (files: {len(files):,})"
            tree.aside.add("folders without images", name)
    full = {file.parts[: level + 1] for file in tree.files}
    for parts in tree.folders:
        if len(parts) == level + 1 and parts not in full:
            tree.aside.add("empty folders", "/".join(parts))


def _take_no_images_out(held: dict[ClassFolder, list[FoundFile]]) -> None:
    """Take files out that are no images by their names, and folders that hold only such files."""
    for one, files in list(held.items()):
        held[one] = [file for file in files if folder_tree.may_be_image(file.parts[-1])]
        if not held[one]:
            del held[one]


def _listed(names: Sequence[str] | Mapping[str, str]) -> str:
    """Return some of the names in one text."""
    shown = [printable(name) for name in list(names)[:8]]
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
