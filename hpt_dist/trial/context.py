"""A trial in progress: what was ordered, and what the code of its kind works with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store, lease
from hpt_dist.store.paths import trial_folder
from hpt_dist.tracking.tracker import Tracker
from hpt_dist.train.averages import Average
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial.progress import Progress, ReportProgress, in_words, report_nowhere

if TYPE_CHECKING:
    from hpt_dist.train.selection import Selection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialOrder:
    """All that a process needs to run one trial anywhere.

    Args:
        recipe: name of the recipe.
        trial: what to run.
        store: URI of the store.
        work: folder for local files of all trials.
        tracking_uri: of MLflow; empty for none.
        parent_run: MLflow run of the launch; empty for none.
        artifact_location: of a new MLflow experiment; empty for MLflow's own default.
        image_size: side of the network input, pixels.
        normalize: see `recipe.Image`.
        threads: CPU threads for the network, of each rank.
        ranks: processes that share its training.
        launch: id of the launch that started it; empty for none.
        scheduled: the scheduler's name for its job; empty without a scheduler.
        term: how often the scheduler had started that job before.
        requeue_limit: restarts in a row, by the scheduler, that may lead nowhere.
        silent: the version of the trial's lease that a dead holder left; see `lease.hold`.
        experiment: MLflow's; empty for one of the recipe's name.
    """

    recipe: str
    trial: Trial
    store: str
    work: Path
    tracking_uri: str
    parent_run: str
    artifact_location: str
    image_size: int
    normalize: str
    threads: int
    ranks: int = 1
    launch: str = ""
    scheduled: str = ""
    term: int = 0
    requeue_limit: int = 0
    silent: str = ""
    experiment: str = ""

    @property
    def folder(self) -> Path:
        """The trial's local folder: metrics and what waits for MLflow."""
        return trial_folder(self.work, self.store, self.trial.key)


@dataclass(frozen=True)
class Context:
    """A trial in progress, as the code of its kind sees it.

    Args:
        order: what to run.
        store: the whole store.
        root: the store at the trial's own prefix.
        interrupt: set when somebody asks the process to stop.
        lease: proof that this process is the only writer; None on a rank that writes nothing.
        tracker: takes metrics and artifacts; None on a rank that writes nothing.
        report: called with the facts of its progress, for who started this process.
    """

    order: TrialOrder
    store: Store
    root: Store
    interrupt: Interrupt
    lease: lease.Lease | None = None
    tracker: Tracker | None = None
    report: ReportProgress = report_nowhere
    _progress: Progress = field(default_factory=Progress)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Note metrics after `step` steps."""
        self._progress.note_loss(values)
        if self.tracker:
            self.tracker.log(step, values)

    def looked(self, selection: Selection) -> None:
        """Note the looks at validation, for who watches; after those at averages no step comes."""
        self._progress.note_look(selection)
        if self.lease and isinstance(selection.history[-1][0], Average):
            self.lease.beat(**self._progress.facts)
            self.report(self._progress.facts)

    def metrics_so_far(self) -> str:
        """Return all metrics so far, for a state to hold."""
        return self.tracker.points.decode() if self.tracker else ""

    def restore_metrics(self, lines: str) -> None:
        """Go on from the metrics that a state holds."""
        if self.tracker:
            self.tracker.restore(lines.encode())

    def progress(self, step: int, steps: int, images_per_second: float) -> None:
        """Say how far the training is, for `status` and the launcher."""
        if self.lease is None:
            return
        facts = self._progress.after(step, steps, images_per_second)
        self.lease.beat(**facts)
        self.report(facts)
        log.info("step %d/%d  %s", step, steps, in_words(facts))

    def note(self, lines: Sequence[str]) -> None:
        """Tell the log and who started this process what was understood, a line for each fact."""
        for line in lines:
            log.info("%s", line)
        self.report({"notes": list(lines)})

    def check(self) -> None:
        """Raise if another process took the trial over."""
        if self.lease:
            self.lease.check()
