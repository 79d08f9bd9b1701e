"""A file in COCO's JSON: what is in it, and every entry that is not as COCO has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import from_json, to_json

from hpt_dist.errors import RequestError
from hpt_dist.sources.problems import Problems

_BOM = b"\xef\xbb\xbf"
# Other fields of COCO, such as licences, are ignored.
_STRICT = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
_Polygons = list[list[float]]
_RunLengths = dict[Literal["counts", "size"], str | list[int]]


@dataclass(frozen=True, slots=True, config=_STRICT)
class CocoImage:
    """An image, and the size that its boxes refer to."""

    id: int | str
    file_name: str
    width: PositiveInt
    height: PositiveInt


@dataclass(frozen=True, slots=True, config=_STRICT)
class CocoCategory:
    """A category."""

    id: int
    name: str
    supercategory: Any = None


@dataclass(frozen=True, slots=True, config=_STRICT)
class CocoBox:
    """An annotation: an object in an image, `bbox` as [left, top, width, height] in pixels.

    `area` is in square pixels; COCO's is that of the object's polygons, and some exports have none.
    """

    image_id: int | str
    category_id: int
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]
    iscrowd: Literal[0, 1] = 0
    segmentation: _Polygons | _RunLengths | None = None
    area: Annotated[float, Field(ge=0)] | None = None
    id: int | str | None = None


@dataclass(frozen=True, slots=True, config=_STRICT)
class _Content:
    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoBox] | None = None


_CONTENT: TypeAdapter[_Content] = TypeAdapter(_Content)
_LISTS = ("images", "categories", "annotations")


class CocoFile(NamedTuple):
    """The sound entries of a file.

    Args:
        images: all images.
        categories: all categories.
        annotations: all objects, or None for a file without any, such as COCO's test sets.
        image_places: of the images in the file's list.
        box_places: of the annotations in the file's list.
        lost: ids of wrong images and of wrong categories; annotations of them are no mistakes.
    """

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoBox] | None
    image_places: Sequence[int]
    box_places: Sequence[int]
    lost: tuple[Set[Any], Set[Any]] = (frozenset(), frozenset())


def read(file: Path, problems: Problems) -> CocoFile:
    """Read a file.

    Args:
        file: the .json file.
        problems: receives each entry that is not as COCO has it.

    Raises:
        RequestError: the file cannot be read, is no JSON, or has none of COCO's lists.
    """
    try:
        data = file.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(file)) from error
    try:
        content = _CONTENT.validate_json(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    else:
        boxes = content.annotations
        places = range(len(content.images)), range(len(boxes or ()))
        return CocoFile(content.images, content.categories, boxes, *places)
    for detail in details:
        if detail["type"] == "json_invalid":
            raise RequestError(f"not JSON: {detail['ctx']['error']}", where=str(file))
    wrong = _note(file, details, problems)
    if wrong.keys() - set(_LISTS):
        problems.refuse(f"the COCO file {file}", _way(data))
    return _without(from_json(data), wrong)


def _note(file: Path, details: Sequence[Any], problems: Problems) -> dict[str, set[int]]:
    """Note each wrong field once, and return the numbers of the wrong entries of each list.

    What is wrong with the file itself is under an empty name.
    """
    wrong: dict[str, set[int]] = {}
    texts: dict[tuple[Any, ...], tuple[str, list[str]]] = {}
    for detail in details:
        place = detail["loc"]
        is_entry = len(place) > 1 and place[0] in _LISTS
        wrong.setdefault(place[0] if is_entry else "", set()).add(place[1] if is_entry else 0)
        path = place[:3] + tuple(one for one in place[3:] if isinstance(one, int))
        shown = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)
        # A field of several types has a message for each.
        messages = texts.setdefault(place[:3], (shown.removeprefix(".") or "top level", []))[1]
        if detail["msg"] not in messages:
            messages.append(detail["msg"])
    for shown, messages in texts.values():
        problems.add(f"{file}: {shown}", ", or: ".join(messages))
    return wrong


def _without(raw: Mapping[str, Any], wrong: Mapping[str, set[int]]) -> CocoFile:
    """Return a file without its wrong entries."""
    kept = {
        name: [i for i in range(len(raw.get(name) or ())) if i not in wrong.get(name, set())]
        for name in _LISTS
    }
    lost = {
        name: {
            one["id"]
            for i in wrong.get(name, ())
            if isinstance(one := raw[name][i], dict) and isinstance(one.get("id"), int | str)
        }
        for name in _LISTS
    }
    sound = {name: [raw[name][i] for i in places] for name, places in kept.items() if name in raw}
    if raw.get("annotations") is None:
        sound.pop("annotations", None)
    content = _CONTENT.validate_json(to_json(sound))
    return CocoFile(
        content.images,
        content.categories,
        content.annotations,
        kept["images"],
        kept["annotations"],
        (lost["images"], lost["categories"]),
    )


def _way(data: bytes) -> str:
    """Return what to do about JSON that is no COCO file."""
    if data.lstrip().startswith(b"["):
        return "a list of images as objects is read as .jsonl, with one object a line"
    if b'"images"' not in data:
        return "a list of images and labels is read as .csv or .jsonl (docs/own_images.md)"
    return ""
