"""A folder as Tiny ImageNet unpacks: classes in train, and a table of the classes of val.

`train/CLASS/images/a.jpg` names its class by its folder; `val/images/a.jpg` has a line in
`val/val_annotations.txt`: its name, its class and a box, by tabs; `test/images` has no labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hpt_dist.sources import folder_tree
from hpt_dist.sources.folder_tree import FoundFile
from hpt_dist.sources.named import holdout
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, file_sample, printable

_TABLE = "val/val_annotations.txt"
_VAL = ("val", "images")
_SHARE = 10  # percent of train


def has_table(folder: Path) -> bool:
    """Return whether a folder has this layout."""
    return (folder / _TABLE).is_file() and (folder / "train").is_dir()


def open_folder(folder: Path) -> FileSource:
    """List the images of a folder for which `has_table` is true.

    Test has no labels, so val, on which others report, tests; a share of train is val.

    Raises:
        RequestError: every mistake in the table, each with its line.
    """
    tree = folder_tree.walk(folder)
    images = tree.images()
    train = [one for one in images if one.parts[0] == "train" and len(one.parts) > 2]
    judged = [one for one in images if one.parts[:2] == _VAL]
    rest = len(images) - len(train) - len(judged)
    classes = sorted({one.parts[1] for one in train})
    ids = {name: i for i, name in enumerate(classes)}
    labels = _read(folder, ids, judged)

    def sample(one: FoundFile, split: str, label: int) -> Sample:
        return file_sample(folder.joinpath(*one.parts), one.relative, split, label)

    samples = [sample(one, "train", ids[one.parts[1]]) for one in train]
    count = holdout.percent(_SHARE, len(train))
    samples = holdout.hold_out(samples, "val", count, by_class=True)
    samples += [sample(one, "test", labels[one.parts[-1]]) for one in judged]
    notes = [
        f"read as Tiny ImageNet: classes by the folders of train and {_TABLE}; its val, on which "
        f"others report, is test, and {_SHARE} % of train, by class, are val"
    ]
    if rest:
        notes.append(f"set aside: images without a label, such as those of test: {rest:,}")
    return FileSource(
        name=folder.resolve().name,
        rule=f"{_TABLE} is test; {_SHARE} % of train by the SHA-256 of the path are val",
        classes=classes,
        files=samples,
        notes=(*notes, *tree.aside.notes()),
    )


def _read(folder: Path, ids: Mapping[str, int], judged: list[FoundFile]) -> dict[str, int]:
    """Return the class ids of the images of val, by their names."""
    problems, labels = Problems(), dict[str, int]()
    there = {one.parts[-1] for one in judged}
    for number, name, label in _rows(folder / _TABLE):
        where, at = printable(f"{folder / _TABLE}:{number}"), (_TABLE, number)
        if name not in there:
            what = f"no file val/images/{printable(name)}"
            problems.add(where, what, name, there, at)
        elif name in labels:
            problems.add(where, f"{printable(name)} has a line already", at=at)
        elif label not in ids:
            what = f"unknown class {printable(label)!r}: train has none"
            problems.add(where, what, label, ids, at)
        else:
            labels[name] = ids[label]
    if not problems:
        for name in sorted(there - labels.keys()):
            problems.add(printable(str(folder / _TABLE)), f"no line for {printable(name)}")
    problems.refuse(f"the labels of {printable(str(folder))}", "unpack the archive again")
    return labels


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line, name, class)."""
    text = table.read_bytes().decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            name, _, rest = line.partition("\t")
            yield number, name.strip(), rest.partition("\t")[0].strip()
