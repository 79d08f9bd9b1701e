"""What commands print where MLflow lacks a part of a launch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpt_dist.cli import console
from hpt_dist.cli.requested import command
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch


def lacking_here(count: int, total: int, work: Path) -> str:
    """Return why nothing is known here of runs that are done, and whether MLflow has them.

    Args:
        count: how many.
        total: runs of the launch.
        work: the launch's work folder.
    """
    return (
        f"{count} of {total} runs left nothing in {work}: they ran on another machine or with "
        "another --work, which sends them to MLflow, or were deleted there"
    )


def print_lacking(store: Store, record: Launch, names: Sequence[str]) -> None:
    """Print how many trials MLflow lacks, and the command that sends them; nothing if none."""
    if not names:
        return
    trials = f"{len(names)} trial{'s' if len(names) > 1 else ''}"
    send = command("sync", record.id, store=store)
    console.print_note(f"MLflow lacks {trials}; to send them: {send}")
