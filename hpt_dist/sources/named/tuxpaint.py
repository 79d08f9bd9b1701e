"""Tux Paint's stamps: photographs of single things, cut out on transparency.

From Debian's package `tuxpaint-stamps-default`. Drawn stamps, letters and symbols are set aside; of
the 16 road signs 10 are drawn. Files keep their bytes, so that transparency shows as white.
"""

from __future__ import annotations

from pathlib import Path

from hpt_dist.sources.named import table, unpacked
from hpt_dist.sources.sample import FileSource

PACKAGE = "tuxpaint-stamps-default"
_NOTE = "set aside: stamps that are drawn, letters and symbols"


def open_tuxpaint(root: Path) -> FileSource:
    """List the photographs of `stamps/`, the folder that the package installs.

    Raises:
        RequestError: the folder is another one, or all files that are missing or damaged.
    """
    return table.open_table(
        "tuxpaint",
        unpacked.find(root, ["animals", "food", "plants"], ["stamps"]),
        encoded=_unchanged,
        version="",
        note=_NOTE,
        reinstall=f"apt-get install --reinstall {PACKAGE}",
    )


def _unchanged(png: bytes) -> bytes:
    return png
