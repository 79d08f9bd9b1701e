"""Files of this machine that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from hpt_dist.errors import HptError
from hpt_dist.store.base import PIECE_BYTES, Content

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What other faults of a disk and its rights are, unlike what a wrong program asks for.
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
_REFUSED |= {errno.ENOTDIR, errno.EISDIR, errno.ESTALE}


class WorkFolderError(HptError):
    """A file of the work folder cannot be read or written."""


@contextlib.contextmanager
def in_work_folder(folder: Path) -> Iterator[None]:
    """Explain the faults of the disk that a work folder is on.

    Raises:
        WorkFolderError: the disk is full or has no inode left, or refuses.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        if not full and error.errno not in _REFUSED:
            raise
        raise WorkFolderError(
            "no space in the work folder" if full else f"the work folder: {error.strerror}",
            where=str(error.filename or folder),
            fix=("free some space or inodes there (df, df -i)" if full else "check the folder")
            + ", or name another one with --work or HPT_WORK; then launch again",
        ) from error


def partial(path: Path) -> Path:
    """Return the draft of `replace`: the file that it writes first and then renames."""
    return path.with_name(f".{path.name}.part")


def replace(path: Path, data: Content, draft: Path | None = None) -> os.stat_result:
    """Write a file so that its name always shows the old content or the new one, on the disk.

    Its time of modification is the clock's: the kernel's own stamp may be 4 ms old, so that two
    writes could look like one.

    Args:
        path: of the file; without a draft its folder is created if needed.
        data: its content; a Path is a file to copy.
        draft: the file to write first, on the same file system; by default beside it.

    Returns:
        The status of the new file.

    Raises:
        OSError: the old file is unchanged, and no draft is left.
    """
    if draft is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = partial(path)
    try:
        with draft.open("wb") as target:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, target, PIECE_BYTES)
            else:
                target.write(data)
            target.flush()
            now_ns = time.time_ns()
            os.utime(target.fileno(), ns=(now_ns, now_ns))
            os.fsync(target.fileno())
            status = os.fstat(target.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return status
