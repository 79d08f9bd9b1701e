"""Drawings as pixels: the page, the ink on it, and what is not drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hpt_dist.errors import DataError, RequestError
from hpt_dist.images.formats import to_png
from hpt_dist.sources import svg

pytest.importorskip("resvg_py")

BOX = '<rect x="20" y="30" width="40" height="10" fill="#c00000"/>'


def drawing(attributes: str, inside: str = BOX) -> bytes:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {names} {attributes}>{inside}</svg>".encode()


@pytest.mark.parametrize(
    "page",
    [
        'viewBox="0 0 200 100"',
        'viewBox="0,0,200,100" width="100%" height="100%"',
        'viewBox="0 0 200 100" width="40mm" height="90mm" preserveAspectRatio="none"',
        'viewBox="-50 -20 200 100"',
        'width="210mm" height="297mm"',
        'width="300pt" height="1e2"',
        'width="7in" height="4cm"',
        'width="90pc" height="90px"',
    ],
)
def test_the_ink_fills_the_picture_on_any_page(page):
    """A box of 40 x 10 stays one, whatever page it is on, and little paper is around it."""
    picture = svg.fitted(drawing(page), 128)
    assert picture.mode == "RGB"
    assert picture.width == 128
    red = np.asarray(picture)[:, :, 1] < 128
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert width / height == pytest.approx(4, rel=0.15)
    assert width > 0.75 * picture.width


def test_the_page_cuts_what_lies_beyond():
    whole = svg.fitted(drawing('viewBox="0 0 200 100"'), 128)
    half = svg.fitted(drawing('viewBox="0 0 40 100"'), 128)
    assert whole.width / whole.height > 1.6 * half.width / half.height


def test_the_longer_side_is_as_asked_and_the_shorter_one_has_a_pixel():
    upright = '<rect x="20" y="5" width="0.1" height="90" fill="black"/>'
    picture = svg.fitted(drawing('viewBox="0 0 200 100"', upright), 64)
    assert picture.height == 64
    assert 1 <= picture.width <= 4


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<svg", "no SVG"),
        (b"\x89PNG\r\n", "no SVG"),
        (drawing(""), "neither a viewBox nor a width and a height"),
        (drawing('width="100%" height="100%"'), "neither a viewBox nor a width and a height"),
        (drawing('viewBox="0 0 0 10"'), "neither a viewBox nor a width and a height"),
        (drawing('viewBox="0 0 inf nan"'), "neither a viewBox nor a width and a height"),
        (drawing('viewBox="a b c d"'), "neither a viewBox nor a width and a height"),
        (drawing('viewBox="500 500 10 10"'), "nothing is drawn on its page"),
        (drawing('viewBox="0 0 9 9"', '<path d="M0 0h9v9z" fill="white"/>'), "nothing is drawn"),
        (b"<html width='9' height='9'/>", "cannot be rendered"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(data, why):
    with pytest.raises(DataError, match=why):
        svg.fitted(data, 64)


def test_pictures_in_other_files_and_text_are_not_drawn(tmp_path, monkeypatch):
    """Else the pixels would depend on the machine."""
    plain = svg.fitted(drawing('viewBox="0 0 99 99"'), 64)
    black = Image.new("RGB", (9, 9))
    black.save(tmp_path / "black.png")
    monkeypatch.chdir(tmp_path)
    for href in ("black.png", str(tmp_path / "black.png"), (tmp_path / "black.png").as_uri()):
        more = f'<g><image xlink:href="{href}" x="50" y="50" width="40" height="40"/></g>'
        assert svg.fitted(drawing('viewBox="0 0 99 99"', BOX + more), 64) == plain
    text = '<text x="1" y="90" font-size="30" font-family="serif">text</text>'
    assert svg.fitted(drawing('viewBox="0 0 99 99"', BOX + text), 64) == plain


def test_a_picture_inside_the_file_is_drawn():
    import base64

    png = base64.b64encode(to_png(Image.new("RGB", (8, 8), "blue"))).decode()
    more = f'<image xlink:href="data:image/png;base64,{png}" width="50" height="50"/>'
    picture = svg.fitted(drawing('viewBox="0 0 99 99"', more), 64)
    assert picture.getpixel((32, 32)) == (0, 0, 255)


def test_equal_drawings_give_equal_pixels():
    pictures = [svg.fitted(drawing('viewBox="0 0 99 99"'), 64) for _ in range(2)]
    assert to_png(pictures[0]) == to_png(pictures[1])
    assert Image.open(io.BytesIO(to_png(pictures[0]))).size == pictures[0].size


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(RequestError, match="these drawings need no_such_package") as caught:
        svg.imported("no_such_package", "these drawings")
    assert caught.value.problem.fix == "pip install hpt-dist[demo]"
