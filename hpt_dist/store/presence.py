"""Whether a store in a folder is there: an unmounted or moved one leaves an empty place behind.

Nothing may be made anew there: it would hide the store, and look as if nothing had been done.
"""

from __future__ import annotations

import time
from pathlib import Path

from hpt_dist.errors import StoreError

# As long as requests to S3 are tried again.
PATIENCE_S = 30.0
_POLL_S = 0.2
# Since when anchors are missing, by the monotonic clock: threads of a process wait together.
_missing_since: dict[Path, float] = {}


def is_back(anchor: Path | None) -> bool:
    """Wait while a store is away.

    Args:
        anchor: what must exist in the store; None if nothing must.

    Returns:
        Whether it was away: look again for what was not found.

    Raises:
        StoreError: it has been away for too long.
    """
    if anchor is None:
        return False
    if anchor.exists():
        _missing_since.pop(anchor, None)
        return False
    since = _missing_since.setdefault(anchor, time.monotonic())
    while not anchor.exists():
        if time.monotonic() - since > PATIENCE_S:
            raise StoreError(
                f"the store is gone: there is no {anchor.name} in it any more",
                where=str(anchor.parent),
                fix="mount the folder, or move it back, and launch again: it goes on",
            )
        time.sleep(_POLL_S)
    _missing_since.pop(anchor, None)
    return True
