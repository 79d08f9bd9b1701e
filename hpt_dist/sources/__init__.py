"""Sources of images: a user's own files, or a built-in source by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.sources import coco, folder, listing, named, openmoji, voc
from hpt_dist.sources.sample import Sample, Source

__all__ = ["Sample", "Source", "open_source"]

# How a user's file is read, by its suffix; the second argument is `--root`.
_FILES: dict[str, Callable[[Path, Path | None], Source]] = {
    ".csv": listing.open_list,
    ".json": coco.open_file,
    ".jsonl": listing.open_list,
    ".parquet": listing.open_list,
}
# How a user's folder is read: the first entry that recognises the layout opens it.
_FOLDERS: list[tuple[Callable[[Path], bool], Callable[[Path], Source]]] = [
    (voc.is_voc, voc.open_folder),
    (coco.has_splits, coco.open_splits),
    (listing.has_parquet, listing.open_parquet_folder),
    (Path.is_dir, folder.open_folder),
]
_ALLOWED = (
    "a folder of images, a list (.csv, .jsonl or .parquet), a COCO file (.json), "
    f"or one of {', '.join(openmoji.NAMES + named.NAMES)}"
)


def open_source(text: str, root: Path | None = None) -> Source:
    """Open the images that `text` names.

    Args:
        text: a built-in name such as `openmoji/line` or `resisc45`, a folder or a file.
        root: the folder that a dataset of the paper was unpacked to, or the folder that the paths
            in a file start from; by default it follows from the place of the file.

    Raises:
        RequestError: nothing exists there, its layout is unknown, or all mistakes in a file.
    """
    if text in openmoji.NAMES:
        return openmoji.open_domain(text)
    path = Path(text)
    if text in named.NAMES and (root is not None or not path.exists()):
        return named.open_named(text, root)
    if path.is_file() and path.suffix in _FILES:
        return _FILES[path.suffix](path, root)
    if root is not None:
        raise RequestError(
            f"only a file of paths has a root, not {text}",
            where="--root",
            allowed=f"a list, a COCO file, or one of {', '.join(named.NAMES)}",
            fix=nearest(text, named.NAMES),
        )
    for is_one, opened in _FOLDERS:
        if is_one(path):
            return opened(path)
    raise RequestError(
        f"{text} is no list of a known kind" if path.is_file() else f"nothing is at {text}",
        allowed=_ALLOWED,
        fix=nearest(text, openmoji.NAMES + named.NAMES),
    )
