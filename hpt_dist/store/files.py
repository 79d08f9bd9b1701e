"""Files of this machine that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from hpt_dist.store.base import PIECE_BYTES, Content


def partial(path: Path) -> Path:
    """Return the draft of `replace`: the file that it writes first and then renames."""
    return path.with_name(f".{path.name}.part")


def replace(path: Path, data: Content, draft: Path | None = None) -> os.stat_result:
    """Write a file so that its name always shows the old content or the new one, on the disk.

    Its time of modification is the clock's: the kernel's own stamp may be 4 ms old, so that two
    writes could look like one.

    Args:
        path: of the file; its folder is created if needed.
        data: its content; a Path is a file to copy.
        draft: the file to write first, on the same file system; by default beside it.

    Returns:
        The status of the new file.

    Raises:
        OSError: the old file is unchanged, and no draft is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft or partial(path)
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
