"""Output for people: tables and progress bars on a terminal, plain lines elsewhere.

Every text goes through `safe`: names of files, classes and keys are other people's, and no secret
is shown.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hpt_dist.errors.secrets import without_secrets
from hpt_dist.processes.output import safe

if TYPE_CHECKING:
    from rich.progress import Progress

    from hpt_dist.launch.survey import State
    from hpt_dist.recipe.facts import Facts
    from hpt_dist.recipe.numerics import Device, Numerics
    from hpt_dist.recipe.plan import Trial

PLAIN_EVERY_S = 10.0

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

_STATES = ("cached", "running", "queued", "failed", "resumes", "runs")


def print_line(text: str) -> None:
    """Print one line as it is."""
    out.print(safe(text), markup=False, soft_wrap=True)


def print_note(text: str) -> None:
    """Print one line on standard error, so that the output stays clean for programs."""
    err.print(safe(text), markup=False)


def print_error(text: str) -> None:
    """Print an error on standard error."""
    err.print(safe(text), markup=False, style="red")


def leave_line() -> None:
    """Begin a new line after Ctrl-C, which a terminal shows as ^C."""
    if err.is_terminal:
        err.print()


def print_json(value: Any) -> None:
    """Print a value for programs."""
    sys.stdout.write(without_secrets(json.dumps(value, indent=2)) + "\n")


def size(count: int) -> str:
    """Return a number of bytes in words: 12.3 MB, of powers of 1000."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:,.1f} {unit}" if unit != "B" else f"{count} B"


@contextmanager
def text_aside() -> Iterator[None]:
    """Print all text on standard error, so that standard output gets one JSON document alone."""
    global out  # noqa: PLW0603 - it is this process's
    before, out = out, err
    try:
        yield
    finally:
        out = before


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; without a terminal its columns are separated by two spaces or more."""
    rows = [[safe(cell) for cell in row] for row in rows]
    if not out.is_terminal:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print_line("  ".join(cells).rstrip())
        return
    from rich.table import Table  # it takes a while to import

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)


def print_plan(trials: Sequence[Trial], states: Mapping[str, State], facts: Facts) -> None:
    """Print each trial with its state and the reason, then totals and how the trials compute."""
    for alias, dataset in facts.datasets.items():
        images = ", ".join(f"{split} {count:,}" for split, count in dataset.images.items())
        assumed = "  (a stand-in: plan only, nothing can run)" if dataset.stand_in else ""
        labels = "no labels" if dataset.label == "none" else f"{dataset.classes} classes"
        print_line(f"{alias} = {dataset.name}: {images}; {labels}{assumed}")
    rows = [
        (trial.name, trial.key[:12], states[trial.key].name, _views(trial), states[trial.key].why)
        for trial in trials
    ]
    print_table(("trial", "key", "state", "views", "why"), rows)
    counts = {name: sum(states[trial.key].name == name for trial in trials) for name in _STATES}
    views = sum(trial.images for trial in trials if states[trial.key].name != "cached")
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    noun = "trial" if len(trials) == 1 else "trials"
    print_line(f"{len(trials)} {noun}: {summary}; {views:,} image views to train on")
    for line in dict.fromkeys(filter(None, map(_remark, trials))):
        print_line(line)
    for line in (*_numerics(trials, facts.device), *_origins(trials)):
        print_line(line)


def _numerics(trials: Sequence[Trial], device: Device) -> list[str]:
    """Return one line for each precision and memory format, with the stages that use it."""
    stages: dict[Numerics, dict[str, None]] = {}
    for trial in trials:
        if trial.numerics:
            stages.setdefault(trial.numerics, {})[trial.stage] = None
    kind = "GPUs" if device.kind == "gpu" else "CPUs"
    return [
        f"{', '.join(names)}: computes in {numerics}, on {kind} of {device.name}"
        for numerics, names in stages.items()
    ]


def _origins(trials: Sequence[Trial]) -> list[str]:
    """Return which methods and backbones come from other packages, a line for each."""
    return list(
        dict.fromkeys(
            f"{kind} {name}: from {origin['distribution']} {origin['version']}"
            for trial in trials
            for kind, origin in trial.document.get("plugins", {}).items()
            for name in [trial.backbone if kind == "backbone" else trial.document["spec"][kind]]
        )
    )


def _remark(trial: Trial) -> str:
    if not trial.candidates:
        remark = trial.spec.remark_on(trial.datasets)
    else:
        remark = f"validation chooses among {'; '.join(trial.choices)}; "
        is_backbone = trial.spec.LEAVES == "weights"
        remark += "later stages start from it" if is_backbone else "it alone reads test"
    return f"{trial.stage}: {remark}" if remark else ""


def _views(trial: Trial) -> str:
    return f"{trial.images:,}" if trial.images else "-"


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that shows the progress of long work on images.

    The first call sets the start for the speed: an earlier run did what is done by then. Everything
    goes to standard error, so that the output stays clean for programs.
    """
    what = safe(what)
    if err.is_terminal:
        with _progress(err) as progress:
            yield _Bar(progress, what).update
        return
    yield _Count(what).update


class _Speed:
    """Images per second since the first call, and the time that the rest takes at that speed."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def measure(self, done: int, total: int) -> tuple[float, float]:
        """Return images/s and the seconds left; 0 and 0 while nothing is known."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        began, before = self._first
        if done == before or now == began:
            return 0.0, 0.0
        images_per_second = (done - before) / (now - began)
        return images_per_second, (total - done) / images_per_second


class _Bar:
    """The progress bar of one piece of work."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=None, rate="")
        self._speed = _Speed()
        self._begun = False

    def update(self, done: int, total: int) -> None:
        """Move the bar."""
        if not self._begun:  # rich would count what was done before as speed
            self._progress.reset(self._task, completed=done, total=total)
            self._begun = True
        images_per_second, _ = self._speed.measure(done, total)
        rate = f"{images_per_second:,.0f} images/s" if images_per_second else ""
        self._progress.update(self._task, completed=done, total=total, rate=rate)


class _Count:
    """The plain lines of one piece of work, one every few seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last_s = time.monotonic()
        self._speed = _Speed()

    def update(self, done: int, total: int) -> None:
        """Print a line if the last one is old enough."""
        images_per_second, left_s = self._speed.measure(done, total)
        if not images_per_second or time.monotonic() - self._last_s < PLAIN_EVERY_S:
            return
        self._last_s = time.monotonic()
        left = timedelta(seconds=round(left_s))
        text = f"{done:,} of {total:,}, {images_per_second:,.0f} images/s, {left} left"
        print_note(f"{self._what}: {text}")


def _progress(console: Console) -> Progress:
    from rich.progress import (  # which take a while to import
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        console=console,
    )
