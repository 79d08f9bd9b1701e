"""What commands print where MLflow lacks a part of a launch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch


def print_lacking(store: Store, record: Launch, names: Sequence[str]) -> None:
    """Print how many trials MLflow lacks, and the command that sends them; nothing if none."""
    if not names:
        return
    own = "" if store.uri == str(Path(DEFAULT_STORE).absolute()) else f" --store {quote(store.uri)}"
    trials = f"{len(names)} trial{'s' if len(names) > 1 else ''}"
    console.print_note(f"MLflow lacks {trials}; to send them: hpt-dist sync {record.id}{own}")
