"""Files of boxes that lie beside their images under the same name, as labelling tools write them.

Other files of such names, as photo programs write them, are set aside like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.folder_checks import LAYOUTS
from hpt_dist.sources.folder_tree import FoundFile, Tree, may_be_image
from hpt_dist.sources.sample import printable

_READ_BYTES = 2**16
_LOOKED_AT = 3
_XML = re.compile(rb"<(?:object|bndbox|annotation)\b", re.IGNORECASE)
_JSON = re.compile(
    rb'"(?:shapes|annotations?|objects?|bbox(?:es)?|boxes|regions|points|segmentations?|labels?'
    rb'|class(?:es)?|categor(?:y|ies))"\s*:',
    re.IGNORECASE,
)
_YOLO_LINE = rb"\s*\d+(?:\s+-?[\d.]+(?:e-?\d+)?){4,}\s*"
_YOLO = re.compile(rb"(?:%b(?:\r?\n|$))+" % _YOLO_LINE)
# Whether the first bytes of a file are those of boxes or labels, by its suffix.
_HOLDS: dict[str, Callable[[bytes], bool]] = {
    ".xml": lambda start: bool(_XML.search(start)),
    ".json": lambda start: bool(_JSON.search(start)),
    ".txt": lambda start: bool(_YOLO.match(start)),
}


def refuse(tree: Tree) -> None:
    """Raise where most images have a file of boxes beside them.

    Raises:
        RequestError: so it is.
    """
    images = {_stem(file) for file in tree.files if may_be_image(file.parts[-1])}
    for suffix, holds in _HOLDS.items():
        marks = [one for one in tree.files if one.parts[-1].casefold().endswith(suffix)]
        beside = [one for one in marks if _stem(one) in images]
        looked_at = beside[:_LOOKED_AT] if 2 * len(beside) >= len(images) else []
        if any(holds(_start(tree.root.joinpath(*one.parts))) for one in looked_at):
            raise RequestError(
                f"{len(beside):,} images have a file of boxes or labels beside them, such as "
                f"{printable(beside[0].relative)}",
                where=printable(str(tree.root)),
                allowed=f"{LAYOUTS}; boxes as COCO or Pascal VOC (docs/own_images.md)",
                fix="move the images into JPEGImages/ and the .xml into Annotations/, or export "
                "them as COCO; to read the images without their boxes, say "
                "--layout flat, splits or classes",
            )


def looks_like_labels(path: Path) -> bool:
    """Return whether a .json file may hold labels or boxes by its first bytes."""
    return _HOLDS[".json"](_start(path)) or b'"images"' in _start(path)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(_READ_BYTES)
    except OSError:
        return b""
    # The last line may be cut.
    return start.rpartition(b"\n")[0] if len(start) == _READ_BYTES else start


def _stem(file: FoundFile) -> str:
    return file.relative.rpartition(".")[0]
