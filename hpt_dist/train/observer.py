"""What a training reports to while it runs."""

from __future__ import annotations

from typing import Protocol

from hpt_dist.train.selection import Selection


class Observer(Protocol):
    """Receives the loop's reports: metrics, progress, and whether it may still write."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record metrics after `step` steps."""

    def looked(self, selection: Selection) -> None:
        """Report the looks at validation, the last of which is new."""

    def metrics_so_far(self) -> str:
        """Return all metrics so far, which a state then holds."""

    def restore_metrics(self, lines: str) -> None:
        """Go on from the metrics that a state holds."""

    def progress(self, step: int, steps: int, images_per_second: float) -> None:
        """Report how far the training is."""

    def check(self) -> None:
        """Raise if this process may no longer write (another one took over)."""
