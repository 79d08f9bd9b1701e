"""What one of doctor's checks found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        name: of the check; several findings may share it.
        ok: False for a fault, None for a note.
        says: what was found, in one line.
        mend: what to do; never empty for a fault.
    """

    name: str
    ok: bool | None
    says: str
    mend: str = ""
