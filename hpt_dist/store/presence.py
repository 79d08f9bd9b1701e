"""Whether a store in a folder is there: an unmounted or moved one leaves an empty place behind.

Nothing may be made anew there: it would hide the store, and look as if nothing had been done.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hpt_dist.errors import RequestError, StoreAwayError

# As long as requests to S3 are tried again; HPT_STORE_PATIENCE_S changes it.
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
        StoreAwayError: it has been away for too long.
    """
    if anchor is None:
        return False
    if anchor.exists():
        _missing_since.pop(anchor, None)
        return False
    since, patience_s = _missing_since.setdefault(anchor, time.monotonic()), _patience_s()
    while not anchor.exists():
        if time.monotonic() - since > patience_s:
            raise StoreAwayError(
                f"the store is gone: there is no {anchor.name} in it any more",
                where=str(anchor.parent),
                fix="mount the folder, or move it back, and launch again: it goes on",
            )
        time.sleep(_POLL_S)
    _missing_since.pop(anchor, None)
    return True


def _patience_s() -> float:
    text = os.environ.get("HPT_STORE_PATIENCE_S") or str(PATIENCE_S)
    if not text.replace(".", "", 1).isdecimal():
        what, where = f"{text!r} is no number of seconds", "HPT_STORE_PATIENCE_S"
        raise RequestError(what, where=where, allowed="seconds from 0")
    return float(text)
