"""Sources of images: a folder tree, a list file, or a built-in source by its name."""

from __future__ import annotations

from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.sources import folder, listing, openmoji
from hpt_dist.sources.sample import Sample, Source

__all__ = ["Sample", "Source", "open_source"]

_ALLOWED = f"a folder of images, a .csv or .jsonl list, or one of {', '.join(openmoji.NAMES)}"


def open_source(text: str) -> Source:
    """Open the images that `text` names.

    Args:
        text: a built-in name such as `openmoji/line`, a folder or a .csv or .jsonl file.

    Raises:
        RequestError: nothing is there, its layout is not known, or a list has mistakes.
    """
    if text in openmoji.NAMES:
        return openmoji.open_domain(text)
    path = Path(text)
    if path.is_dir():
        return folder.open_folder(path)
    if path.is_file() and path.suffix in {".csv", ".jsonl"}:
        return listing.open_list(path)
    raise RequestError(
        f"{text} is no list of a known kind" if path.is_file() else f"nothing is at {text}",
        allowed=_ALLOWED,
        fix=nearest(text, openmoji.NAMES),
    )
