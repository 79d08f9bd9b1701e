"""The trials of a launch as they run: a live line for each on a terminal, else a line now and then.

On a terminal: `hpt ━━━━── 120/300 loss 6.213, ridge 41.2 % at step 100 (the best), 0:01:10 left`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from hpt_dist.cli import console
from hpt_dist.cli.console import print_error, print_line
from hpt_dist.processes.output import safe
from hpt_dist.recipe.trial import Trial
from hpt_dist.trial.progress import in_words

_STOPPING = "stopping: each running trial saves its state and ends (Ctrl-C again: at once)"
_BAR_WIDTH = 12  # the words need the rest of the line


class Lines:
    """Shows trials in plain lines, at most one for each trial every few seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = 0
        self._printed: dict[str, tuple[float, int]] = {}  # (when, step) of each trial's last line

    def started(self, trial: Trial) -> None:
        """Show that a trial has a process now."""
        print_line(f"starts  {trial.name}")

    def moved(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Show how far a running trial is, if that is worth a line."""
        step = int(facts.get("step", 0))
        when, before = self._printed.get(trial.key, (0.0, 0))
        if step != before and time.monotonic() - when >= console.PLAIN_EVERY_S:
            self._printed[trial.key] = (time.monotonic(), step)
            at = f"step {step}/{int(facts.get('steps', 0))}"
            print_line(f"        {trial.name}  {at}  {in_words(facts)}")

    def noted(self, trial: Trial, lines: Sequence[str]) -> None:
        """Show what a trial understood."""
        for line in lines:
            print_line(f"        {trial.name}  {line}")

    def ended(self, trial: Trial, error: str) -> None:
        """Show that a trial ended."""
        self._ended += 1
        print_line(
            f"{'FAILED' if error else 'done'}    {trial.name}  [{self._ended}/{self._total}]"
        )
        if error:
            print_error(error)

    def stopping(self) -> None:
        """Show that running trials were asked to save."""
        print_line(_STOPPING)

    def stopped(self, trial: Trial, why: str) -> None:
        """Show that a trial was asked to stop, and ended."""
        print_line(_stopped(trial, why))


class Bars:
    """Shows trials in live lines with bars."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._all = progress.add_task("trials", total=total, words="")
        self._tasks: dict[str, TaskID] = {}

    def started(self, trial: Trial) -> None:
        """Show that a trial has a process now."""
        if trial.key not in self._tasks:
            total = trial.steps or None
            self._tasks[trial.key] = self._progress.add_task(
                safe(trial.name), total=total, words=""
            )

    def moved(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Show how far a running trial is."""
        self.started(trial)
        step = int(facts.get("step", 0))
        self._progress.update(self._tasks[trial.key], completed=step, words=in_words(facts))

    def noted(self, trial: Trial, lines: Sequence[str]) -> None:
        """Show what a trial understood."""
        for line in lines:
            print_line(f"{trial.name}  {line}")

    def ended(self, trial: Trial, error: str) -> None:
        """Show that a trial ended."""
        self._remove(trial)
        self._progress.advance(self._all)
        print_line(f"{'FAILED' if error else 'done'}  {trial.name}")
        if error:
            print_error(error)

    def stopping(self) -> None:
        """Show that running trials were asked to save."""
        print_line(_STOPPING)

    def stopped(self, trial: Trial, why: str) -> None:
        """Show that a trial was asked to stop, and ended."""
        self._remove(trial)
        print_line(_stopped(trial, why))

    def _remove(self, trial: Trial) -> None:
        if task := self._tasks.pop(trial.key, None):
            self._progress.remove_task(task)


def _stopped(trial: Trial, why: str) -> str:
    return f"stopped {trial.name}  {why.splitlines()[0].removeprefix('stopped ')}"


@contextmanager
def watching(total: int) -> Iterator[Lines | Bars]:
    """Yield an object that shows the progress of a launch's trials."""
    if not console.out.is_terminal:
        yield Lines(total)
        return
    words = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False, table_column=words),
        console=console.out,
        expand=True,
    ) as progress:
        yield Bars(progress, total)
