"""The objects that are annotated in one image, and their one form as JSON.

```
{"width": 640, "height": 480, "labels": [2], "masks": false, "objects": [
    {"class": 2, "box": [10, 20, 30.5, 40], "crowd": false, "area": 803.25},
    {"class": 0, "box": [0, 0, 5, 5], "crowd": false, "difficult": true, "area": 25}]}
```
`box` is left, top, width and height in pixels of the image; `area`, where the annotations have
areas, is in square pixels of it; `segmentation`, where the dataset has
masks, is COCO's run-length encoding; `labels` are the classes of the objects that are no crowd;
`masks` says whether each object has one, as an image may have no object. The
sample's JSON member of a shard holds this and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, Strict, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic import dataclasses as checked

from hpt_dist.errors import DataError
from hpt_dist.images import run_lengths

# Each field is strict, and not the whole: that would take objects of Python alone, no dicts.
_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAX_CLASS = 2**31
_Number = Annotated[float, Strict()]
_Flag = Annotated[bool, Strict()]
_Side = Annotated[int, Strict(), Field(gt=0, lt=2**24)]
_Area = Annotated[float, Strict(), Field(ge=0)]
_Polygons = list[list[_Number]]
_RunLengths = dict[Literal["size", "counts"], StrictStr | list[StrictInt]]
Segmentation = _Polygons | _RunLengths


@checked.dataclass(frozen=True, slots=True, config=_CLOSED)
class _Object:
    box: Annotated[list[_Number], Field(min_length=4, max_length=4)]
    class_: Annotated[int, Strict(), Field(ge=0, lt=_MAX_CLASS, alias="class")]
    crowd: _Flag
    difficult: _Flag = False
    segmentation: Segmentation | None = None
    area: _Area | None = None


@checked.dataclass(frozen=True, slots=True, config=_CLOSED)
class _Member:
    width: _Side
    height: _Side
    objects: list[_Object]
    labels: list[StrictInt] | None = None
    masks: _Flag | None = None


_MEMBER: TypeAdapter[_Member] = TypeAdapter(_Member)


@dataclass(frozen=True)
class Boxes:
    """The n objects annotated in one image.

    Args:
        size: height and width in pixels of the image as decoded upright; corners and masks refer
            to it.
        corners: float32 [n, 4]: x1, y1, x2, y2 in pixels, 0 <= x1 < x2 <= width, and so for y.
        labels: int64 [n]: indices into the dataset's classes.
        difficult: bool [n]: VOC's flag: trained on unless settings say otherwise, not scored.
        crowd: bool [n]: COCO's flag: a region of many; never trained on, ignored by scoring.
        masks: one COCO run-length encoding (compressed counts, of `size`) per object, or None if
            the dataset has no masks.
        areas: float64 [n]: square pixels, as the annotations have them, by which scoring tells
            small objects from large ones; None if they have none. Of no object it is None.

    Raises:
        ValueError: they do not fit each other.
    """

    size: tuple[int, int]
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    masks: tuple[bytes, ...] | None
    areas: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if not count:
            object.__setattr__(self, "areas", None)
        types = {
            "corners": np.float32,
            "labels": np.int64,
            "difficult": np.bool_,
            "crowd": np.bool_,
        }
        for name, kind in (types if self.areas is None else types | {"areas": np.float64}).items():
            array, shape = getattr(self, name), (count, 4) if name == "corners" else (count,)
            if array.shape != shape or array.dtype != kind:
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {list(shape)}")
        if self.areas is not None and not ((self.areas >= 0) & np.isfinite(self.areas)).all():
            raise ValueError(f"areas {self.areas.tolist()} are not all finite and 0 or above")
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"{len(self.masks)} masks for {count} objects")
        if (wrong := _outside(self.corners, self.size)).any():
            number = int(wrong.argmax())
            raise ValueError(f"object {number}: {_in_words(self.corners[number], self.size)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Boxes):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            if isinstance(getattr(self, field.name), np.ndarray)
            else getattr(self, field.name) == getattr(other, field.name)
            for field in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def present(self) -> tuple[int, ...]:
        """The classes of the objects that are no crowd, ascending: what there is to train on."""
        return tuple(np.unique(self.labels[~self.crowd]).tolist())

    @property
    def has_masks(self) -> bool:
        """Whether each object has a mask, also where there is no object."""
        return self.masks is not None

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Return the mask of an object, bool [height, width].

        Raises:
            ValueError: its run lengths are wrong, or the dataset has no masks.
        """
        if self.masks is None:
            raise ValueError("the dataset has no masks")
        return run_lengths.decode(self.masks[number], self.size)

    def take(self, rows: NDArray[Any]) -> Boxes:
        """Return some of the objects.

        Args:
            rows: bool [n], or numbers of objects.
        """
        numbers = np.arange(len(self))[rows]
        masks = None if self.masks is None else tuple(self.masks[i] for i in numbers.tolist())
        return Boxes(
            self.size,
            self.corners[numbers],
            self.labels[numbers],
            self.difficult[numbers],
            self.crowd[numbers],
            masks,
            None if self.areas is None else self.areas[numbers],
        )

    def measured(self) -> NDArray[np.float64]:
        """Return the areas of the objects' masks, without masks of their boxes, float64 [n].

        Raises:
            ValueError: the run lengths of a mask are wrong.
        """
        if self.masks is not None:
            runs = (run_lengths.runs_in(one, self.size) for one in self.masks)
            return np.array([one[1::2].sum() for one in runs], np.float64)
        wide = self.corners.astype(np.float64)
        return np.asarray((wide[:, 2:] - wide[:, :2]).prod(axis=1), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, in which `from_json` finds the same values, bit for bit."""
        height, width = self.size
        return {
            "width": width,
            "height": height,
            "labels": list(self.present),
            "masks": self.masks is not None,
            "objects": [self._object(number) for number in range(len(self))],
        }

    def _object(self, number: int) -> dict[str, Any]:
        x1, y1, x2, y2 = self.corners[number].astype(np.float64).tolist()
        value: dict[str, Any] = {
            "class": int(self.labels[number]),
            "box": [x1, y1, x2 - x1, y2 - y1],
            "crowd": bool(self.crowd[number]),
        }
        if self.difficult[number]:
            value["difficult"] = True
        if self.masks is not None:
            counts = self.masks[number].decode("ascii")
            value["segmentation"] = {"size": list(self.size), "counts": counts}
        if self.areas is not None:
            value["area"] = float(self.areas[number])
        return value

    @classmethod
    def from_json(cls, document: Any, place: str) -> Self:
        """Return the objects that a JSON form describes.

        Args:
            document: see the module; a segmentation may also be polygons, or runs in full.
            place: how messages name the member.

        Raises:
            DataError: the form is another one, or a box or a mask does not fit the image.
            RequestError: masks are polygons, and what fills them is not installed.
        """
        try:
            member = _MEMBER.validate_python(document)
        except ValidationError as error:
            raise DataError(_first(error), where=place) from error
        size = (member.height, member.width)
        corners = _corners([one.box for one in member.objects])
        if (wrong := _outside(corners, size)).any():
            number = int(wrong.argmax())
            what = _in_words(corners[number], size)
            raise DataError(f"objects[{number}]: {what}", where=place)
        boxes = cls(
            size,
            corners,
            np.array([one.class_ for one in member.objects], np.int64),
            np.array([one.difficult for one in member.objects], np.bool_),
            np.array([one.crowd for one in member.objects], np.bool_),
            _masks(member, place),
            _areas(member, place),
        )
        if member.labels is not None and tuple(member.labels) != boxes.present:
            what = f"labels are {member.labels}, and those of its objects {list(boxes.present)}"
            raise DataError(what, where=place)
        return boxes


def counts_of(segmentation: Segmentation, size: tuple[int, int]) -> bytes:
    """Return a segmentation of COCO, polygons or run lengths, as compressed run lengths.

    Args:
        segmentation: of one object.
        size: height and width of its image, pixels.

    Raises:
        ValueError: it is no mask of this image.
        RequestError: it is polygons, and what fills them is not installed.
    """
    if isinstance(segmentation, list):
        return run_lengths.from_polygons(segmentation, size)
    if list(segmentation.get("size", ())) != list(size):
        raise ValueError(f"the size of a mask is {segmentation.get('size')}, not {list(size)}")
    counts = segmentation.get("counts", "")
    if isinstance(counts, str):
        data = counts.encode("ascii", "replace")
        run_lengths.runs_in(data, size)
        return data
    return run_lengths.checked(counts, size)


def _corners(boxes: list[list[float]]) -> NDArray[np.float32]:
    """Return the corners of boxes given as left, top, width and height."""
    left_top_size = np.array(boxes, np.float64).reshape(-1, 4)
    left_top = left_top_size[:, :2]
    return np.concatenate([left_top, left_top + left_top_size[:, 2:]], 1).astype(np.float32)


def _outside(corners: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which boxes are empty or reach out of their image, bool [n]."""
    height, width = size
    x1, y1, x2, y2 = corners.T
    fits = (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height)
    return np.asarray(~fits, np.bool_)


def _in_words(corners: NDArray[np.float32], size: tuple[int, int]) -> str:
    x1, y1, x2, y2 = corners.tolist()
    what = "is empty" if not (x1 < x2 and y1 < y2) else "reaches out of its image"
    return f"the box {x1:g}, {y1:g} to {x2:g}, {y2:g} {what} of {size[1]} x {size[0]} pixels"


def _masks(member: _Member, place: str) -> tuple[bytes, ...] | None:
    size = (member.height, member.width)
    masks = []
    for number, one in enumerate(member.objects):
        if one.segmentation:
            try:
                masks.append(counts_of(one.segmentation, size))
            except ValueError as error:
                raise DataError(f"objects[{number}]: {error}", where=place) from error
    count = len(member.objects)
    has_masks = bool(masks) if member.masks is None else member.masks
    if len(masks) != count * has_masks:
        what = f"{len(masks)} of {count} objects have a mask, and {'all' if has_masks else 'none'}"
        raise DataError(f"{what} should", where=place)
    return tuple(masks) if has_masks else None


def _areas(member: _Member, place: str) -> NDArray[np.float64] | None:
    areas = [one.area for one in member.objects if one.area is not None]
    if areas and len(areas) != len(member.objects):
        what = f"{len(areas)} of {len(member.objects)} objects have an area, and all should"
        raise DataError(what, where=place)
    return np.array(areas, np.float64) if areas else None


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    shown = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in detail["loc"])
    return f"{shown.removeprefix('.') or 'top level'}: {detail['msg']}"
