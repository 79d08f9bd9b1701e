"""Datasets by name that Debian packages install."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.named import fashion_mnist, openclipart, tuxpaint
from hpt_dist.sources.sample import FileSource


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A dataset of a Debian package.

    Args:
        open: lists the images below a folder.
        package: its name.
        folder: where it installs them.
        licence: of the images.
        credit: whom to credit.
    """

    open: Callable[[Path], FileSource]
    package: str
    folder: Path
    licence: str
    credit: str


DATASETS = {
    "fashion-mnist": Installed(
        open=fashion_mnist.open_fashion_mnist,
        package=fashion_mnist.PACKAGE,
        folder=Path("/usr/share/datasets/fashion-mnist"),
        licence="MIT",
        credit="Zalando SE; Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv 1708.07747",
    ),
    "openclipart": Installed(
        open=openclipart.open_openclipart,
        package=openclipart.PACKAGE,
        folder=Path("/usr/share/openclipart/svg"),
        licence="public domain",
        credit="the artists of the Open Clip Art Library, http://www.openclipart.org",
    ),
    "tuxpaint": Installed(
        open=tuxpaint.open_tuxpaint,
        package=tuxpaint.PACKAGE,
        folder=Path("/usr/share/tuxpaint/stamps"),
        licence="GPL-2 as a collection; its changelog names other licences of single photographs "
        "(GFDL, CC BY, CC BY-SA, public domain)",
        credit="Bill Kendrick and the contributors to Tux Paint's stamps, http://www.tuxpaint.org",
    ),
}


def open_installed(name: str, root: Path | None) -> FileSource:
    """Open one of `DATASETS`.

    Args:
        name: of the dataset.
        root: the folder that holds its files; None for that of the package.

    Raises:
        RequestError: the package is not installed, or the folder is another one.
        DataError: a file is damaged.
    """
    found = DATASETS[name]
    if root is None and not found.folder.is_dir():
        raise RequestError(
            f"{name} is read from Debian's package {found.package}, which is not installed",
            where=str(found.folder),
            fix=f"apt-get install {found.package}; or name the folder of its files with --root",
        )
    source = found.open(root or found.folder)
    return dataclasses.replace(source, licence=found.licence, credit=found.credit)
