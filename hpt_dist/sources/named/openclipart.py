"""The Open Clip Art Library 0.18: drawings by many hands, as SVG.

From Debian's package `openclipart-svg`. A drawing is rendered on white, without the empty paper
around it, at 256 pixels for its longer side (`svg.fitted`). Colour and outline versions of a
drawing, and drawings of one series, are a family. Folders of icons, stars, flags, maps, playing
cards and the like are set aside, and so are drawings that equal another one.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from hpt_dist.images.formats import to_png
from hpt_dist.sources import svg
from hpt_dist.sources.named import table, unpacked
from hpt_dist.sources.sample import FileSource

PACKAGE = "openclipart-svg"
LONG_SIDE_PX = 256
_NOTE = (
    "set aside: folders of icons, stars, flags, maps, playing cards and the like; drawings that "
    "equal another one"
)


def open_openclipart(root: Path) -> FileSource:
    """List the drawings of `svg/`, the folder that the package installs.

    Raises:
        RequestError: the folder is another one, all files that are missing or damaged, or the
            renderer is not installed.
    """
    svg.imported("resvg_py", "the drawings of openclipart")
    return table.open_table(
        "openclipart",
        unpacked.find(root, ["animals", "food", "plants"], ["svg"]),
        encoded=_rendered,
        version=f"resvg-py {version('resvg-py')} pillow {version('pillow')}",
        note=_NOTE,
        reinstall=f"apt-get install --reinstall {PACKAGE}",
    )


def _rendered(data: bytes) -> bytes:
    return to_png(svg.fitted(data, LONG_SIDE_PX))
