"""SVG drawings as pixels, rendered by `resvg_py` of the extra `demo`.

Equal files give equal pixels on every machine: text is not drawn, since fonts differ, and neither
are pictures in other files, which the place of rendering might have.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import NamedTuple
from xml.etree import ElementTree

from PIL import Image, ImageChops

from hpt_dist.errors import DataError, RequestError

EXTRA_FIX = "pip install hpt-dist[demo]"
_SVG = "http://www.w3.org/2000/svg"
_HREFS = ("href", "{http://www.w3.org/1999/xlink}href")
ElementTree.register_namespace("", _SVG)

# CSS pixels of each unit of a length (CSS Values and Units 3, section 6.2).
_DPI = 96
_UNITS = {"": 1.0, "px": 1.0, "pt": _DPI / 72, "pc": _DPI / 6}
_UNITS |= {"in": float(_DPI), "cm": _DPI / 2.54, "mm": _DPI / 25.4}
_LENGTH = re.compile(r"\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*([a-z]*)\s*")

_LOOK_PX = 256  # long side at which the ink of a page is looked for
_ENOUGH = 0.5  # of a look: ink that fills less of it is looked at again, from nearer
_LOOKS = 3
_FAINT = 8  # of 255: a pixel that differs less from white is no ink
_MARGIN_PX = 1  # of a look, around the ink: an edge may lie within a pixel


class _Box(NamedTuple):
    """A rectangle in the drawing's own units."""

    left: float
    top: float
    width: float
    height: float


def imported(package: str, what: str) -> ModuleType:
    """Import a package of the extra `demo`.

    Args:
        package: its name.
        what: which images need it.

    Raises:
        RequestError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise RequestError(f"{what} need {package}", fix=EXTRA_FIX) from error


def rasterise(root: ElementTree.Element, width_px: int, height_px: int) -> Image.Image:
    """Render a drawing with its whole page on white, as RGB.

    Raises:
        DataError: the renderer refuses it.
    """
    try:
        png = import_module("resvg_py").svg_to_bytes(
            svg_string=ElementTree.tostring(root, encoding="unicode"),
            width=width_px,
            height=height_px,
            background="#ffffff",
            skip_system_fonts=True,
            dpi=_DPI,
        )
    except ValueError as error:
        raise DataError(f"cannot be rendered: {error}") from error
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB")


def fitted(svg: bytes, long_side_px: int) -> Image.Image:
    """Render what is drawn on the page, without the empty paper around it.

    The page is the viewBox, or the width and height where there is none. The aspect is kept.

    Args:
        svg: the file of a trusted origin.
        long_side_px: of the image.

    Returns:
        RGB on white.

    Raises:
        DataError: it is no SVG, has no size, draws nothing on its page, or cannot be rendered.
    """
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - expat limits what entities expand to
    except ElementTree.ParseError as error:
        raise DataError(f"no SVG: {error}") from error
    for parent, child in list(_pictures(root)):
        parent.remove(child)
    box = _page(root)
    for _ in range(_LOOKS):
        box, share = _ink(root, box)
        if share > _ENOUGH:
            break
    return _part(root, box, long_side_px)


def _ink(root: ElementTree.Element, box: _Box) -> tuple[_Box, float]:
    """Return the rectangle around what is drawn in a box, and its share of the box's longer side.

    Raises:
        DataError: nothing is drawn there.
    """
    look = _part(root, box, _LOOK_PX)
    difference = ImageChops.difference(look, Image.new("RGB", look.size, "white")).convert("L")
    ink = difference.point([0] * (_FAINT + 1) + [255] * (255 - _FAINT)).getbbox()
    if ink is None:
        raise DataError("nothing is drawn on its page")
    left, top = ink[0] - _MARGIN_PX, ink[1] - _MARGIN_PX
    width, height = ink[2] + _MARGIN_PX - left, ink[3] + _MARGIN_PX - top
    unit = max(box.width, box.height) / _LOOK_PX  # the side of a pixel
    found = _Box(box.left + left * unit, box.top + top * unit, width * unit, height * unit)
    return found, max(width, height) / _LOOK_PX


def _part(root: ElementTree.Element, box: _Box, long_side_px: int) -> Image.Image:
    """Render a rectangle of a drawing, whose page becomes that."""
    scale = long_side_px / max(box.width, box.height)
    # The renderer keeps the aspect: were the shorter side rounded down, all would become smaller.
    width_px, height_px = (math.ceil(round(side * scale, 3)) or 1 for side in box[2:])
    root.set("viewBox", " ".join(map(repr, box)))
    root.set("width", str(width_px))
    root.set("height", str(height_px))
    root.attrib.pop("preserveAspectRatio", None)
    return rasterise(root, width_px, height_px)


def _page(root: ElementTree.Element) -> _Box:
    view = [_number(word) for word in re.split(r"[\s,]+", root.get("viewBox", "").strip())]
    if len(view) != len(_Box._fields):
        view = [0.0, 0.0, *(_length(root.get(side, "")) for side in ("width", "height"))]
    box = _Box(*view)
    if not (box.width > 0 and box.height > 0):
        raise DataError("it has neither a viewBox nor a width and a height")
    return box


def _length(text: str) -> float:
    """Return a length in CSS pixels; 0 where it has none, such as per cent of nothing."""
    match = _LENGTH.fullmatch(text)
    return _number(match[1]) * _UNITS.get(match[2], 0.0) if match else 0.0


def _number(text: str) -> float:
    """Return a finite number, or 0 for anything else."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _pictures(
    root: ElementTree.Element,
) -> Iterator[tuple[ElementTree.Element, ElementTree.Element]]:
    """Yield each picture that lies in another file, after the element that holds it."""
    for parent in root.iter():
        for child in parent:
            hrefs = [child.get(name, "") for name in _HREFS]
            if child.tag == f"{{{_SVG}}}image" and not any(
                one.startswith("data:") for one in hrefs
            ):
                yield parent, child
