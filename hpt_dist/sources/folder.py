"""Images in folders: `split/class/image`, `split/image` (no labels) or `class/image`.

The top folders decide: where they are names of splits, the layout is by split, and a split holds
folders of classes or, unlabelled, the images themselves. Otherwise they are the classes, and each
file's path decides its split (`HASH_SPLIT_RULE`). Folders below a class belong to that class.
Every file counts as an image unless its name starts with a dot; a file that is no image is reported
when it is read. Files beside the top folders, such as a licence, are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    SPLITS,
    FileSource,
    Sample,
    file_sample,
    hash_split,
)

_LAYOUTS = "split/class/image, split/image or class/image"


def open_folder(root: Path) -> FileSource:
    """List the images below a folder.

    Raises:
        RequestError: the layout is none of the three, or there are no images.
    """
    tops = [entry.name for entry in _visible(root) if entry.is_dir()]
    named = [name for name in tops if name in SPLITS]
    if named and len(named) < len(tops):
        others = ", ".join(name for name in tops if name not in SPLITS)
        raise RequestError(
            f"{', '.join(named)} are names of splits, but {others} are not",
            where=str(root),
            allowed=f"{_LAYOUTS}; the splits are {', '.join(SPLITS)}",
            fix="rename or move the others, or name every image in a .csv list",
        )
    files = [path.relative_to(root) for top in tops for path in _files(root / top)]
    if not files:
        raise RequestError("no images in folders", where=str(root), allowed=_LAYOUTS)
    class_level = 1 if named else 0
    # The last part is the file itself: a shorter path has no class folder.
    classes = sorted({f.parts[class_level] for f in files if len(f.parts) > class_level + 1})
    ids = {name: i for i, name in enumerate(classes)}

    def sample(file: Path) -> Sample:
        relative = file.as_posix()
        labelled = len(file.parts) > class_level + 1
        split = SPLITS[file.parts[0]] if named else hash_split(relative)
        return file_sample(
            root / file, relative, split, ids[file.parts[class_level]] if labelled else None
        )

    return FileSource(
        name=root.resolve().name,
        rule="splits by the top folders" if named else HASH_SPLIT_RULE,
        classes=classes,
        files=[sample(file) for file in files],
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield every file below, through links to folders too (which `rglob` would leave out)."""
    real = folder.resolve()
    if real in above:
        raise RequestError(
            "this link leads to a folder above it, so its images would never end",
            where=str(folder),
            fix="remove the link",
        )
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _files(entry, (*above, real))
        else:
            yield entry
