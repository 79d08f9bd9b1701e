"""Run one trial: hold its lease, do the work, commit the results, `DONE` last."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any

from hpt_dist.errors import (
    DivergedError,
    HptError,
    Interrupted,
    StoreAwayError,
    StoreError,
    TrainingError,
)
from hpt_dist.errors.secrets import without_secrets
from hpt_dist.recipe import plugins
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store, committed, files, lease, marker, open_store
from hpt_dist.store.paths import FAILURE, LEASE, stage_prefix
from hpt_dist.tracking.tracker import RunIdentity, Tracker
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial import alike, identity, starts
from hpt_dist.trial.commit import Run, as_json, clear, commit
from hpt_dist.trial.context import Context, TrialOrder
from hpt_dist.trial.progress import ReportProgress, report_nowhere
from hpt_dist.trial.result import Result

# For which whoever stopped a trial waits for MLflow; the end of the launch sends it the rest.
_STOPPED_S = 3.0

log = logging.getLogger(__name__)


# The code of a kind of stage, which also takes the settings of that kind.
Runner = Callable[[Context, Any], Result]
Together = Callable[[], AbstractContextManager[None]]


def run(
    order: TrialOrder,
    runner: Runner,
    interrupt: Interrupt,
    together: Together,
    report: ReportProgress = report_nowhere,
) -> None:
    """Run a trial to its `DONE`; return at once if it is done already.

    Args:
        order: what to run.
        runner: the code of its kind.
        interrupt: set when somebody asks the process to stop.
        together: makes the context in which its other ranks take part.
        report: called with the facts of its progress.

    Raises:
        lease.LeaseTakenError: another process is at it.
        lease.LeaseLostError: another process has taken it over.
        Interrupted: asked to stop; the state is saved.
        StoreError: what it committed is damaged, or StoreAwayError; nothing is deleted.
        HptError: the work failed; MLflow's run is marked failed.
    """
    store = marker.existing(open_store(order.store))
    root = store.at(stage_prefix(order.trial.key))
    holding = lease.hold(
        *(root, LEASE),
        silent=order.silent,
        job=order.scheduled,
        restarts=order.term,
        on_loss=lambda: interrupt.ask("the loss of its lease"),
    )
    with holding as held:
        # Before anything is deleted, all that it committed is read.
        if committed.check(store, order.trial.key):
            clear(root)  # a process was killed between the two
            return
        if interrupt:
            raise Interrupted(f"stopped by {interrupt.cause} before it began")
        root.sweep()
        root.delete(FAILURE)
        root.put("spec.json", as_json(order.trial.document))
        resume_step = max(Checkpoints(root).steps(), default=0)
        try:
            tracker = Tracker(
                order.folder, _identity(order), order.tracking_uri or None, resume_step=resume_step
            )
        except HptError as error:
            _note_failure(root, order, error)
            raise
        context = Context(order, store, root, interrupt, held, tracker, report)
        try:
            with files.in_work_folder(order.folder):
                _perform(context, tracker, runner, together, resume_step)
        except (lease.LeaseLostError, Interrupted, KeyboardInterrupt) as error:
            _leave(held, tracker, error)
            raise
        except StoreAwayError:
            # It takes no note; a scheduler starts the trial again.
            tracker.finish("KILLED" if order.scheduled else "FAILED")
            raise
        except BaseException as error:
            _note_failure(root, order, error)
            tracker.finish("FAILED")
            raise
        tracker.finish("FINISHED")


def _leave(held: lease.Lease, tracker: Tracker, error: BaseException) -> None:
    """Close the tracker of a trial that goes on later; raise if another process has taken it."""
    if held.is_lost or isinstance(error, lease.LeaseLostError):
        tracker.leave()
        held.check()
    else:
        tracker.finish("KILLED", _STOPPED_S)


def _note_failure(root: Store, order: TrialOrder, error: BaseException) -> None:
    """Note why a start failed; where the store refuses that, its error is raised all the same."""
    message = without_secrets(str(error)) or type(error).__name__
    with suppress(StoreError):
        root.put(
            FAILURE, as_json({"error": message, "job": order.scheduled, "restarts": order.term})
        )


def _perform(
    context: Context, tracker: Tracker, runner: Runner, together: Together, resume_step: int
) -> None:
    """Compute a trial's result, or take that of a trial which read the same, and commit it."""
    order, store, began = context.order, context.store, time.perf_counter()
    start = starts.note(context.root, resume_step, order.scheduled, order.requeue_limit)
    _check_needs(store, order.trial)
    plugins.check(order.trial.document)
    inputs = alike.inputs_of(store, order.trial)
    twin = alike.find(store, order.trial, inputs)
    result = _taken(context, twin) if twin else _computed(context, runner, together)
    seconds = result.seconds_before + time.perf_counter() - began
    how = Run(start.count - 1, seconds, inputs, twin[0] if twin else "")
    commit(context, tracker, result, how)
    if not twin:
        alike.note(store, inputs, order.trial.key)


def _computed(context: Context, runner: Runner, together: Together) -> Result:
    """Return what a trial computes; a candidate that diverges is out, and ends nothing else."""
    trial = context.order.trial
    try:
        with together():
            return runner(context, trial.spec)
    except DivergedError as error:
        if not trial.is_candidate:
            raise
        log.warning("this candidate is out: %s", error)
        return Result({}, {"out": error.problem.what}, out=error.problem.what)


def _taken(context: Context, found: tuple[str, Result]) -> Result:
    """Return what a trial left that read the same; its curves stay with the one that trained."""
    (key, left), trial = found, context.order.trial
    log.info("reads what trial %s has read, and takes its result", key[:12])
    # Both train, and so look at validation meanwhile.
    trains = trial.spec.TRAINS and not trial.candidates
    once = ("test/", "published/")  # read at the end, and never looked at meanwhile
    curves = tuple(name for name in left.metrics if trains and not name.startswith(once))
    return replace(left, curves=curves)


def _check_needs(store: Store, trial: Trial) -> None:
    """Refuse to start from what is not there: a scheduler takes a job that it forgot for done."""
    for key in trial.needs:
        if committed.done(store, key) is None:
            what = "starts from" if key == trial.init else "reads"
            raise TrainingError(
                f"the trial that {trial.name} {what} is not done",
                where=f"{store.uri}/{stage_prefix(key)}",
                fix="launch again: that one runs first",
            )


def follow(order: TrialOrder, runner: Runner, interrupt: Interrupt) -> None:
    """Take part in a trial as a rank that writes nothing."""
    plugins.check(order.trial.document)
    store = marker.existing(open_store(order.store))
    context = Context(order, store, store.at(stage_prefix(order.trial.key)), interrupt)
    out = (DivergedError,) if order.trial.is_candidate else ()
    with suppress(*out):  # rank 0 reports it
        runner(context, order.trial.spec)


def _identity(order: TrialOrder) -> RunIdentity:
    return identity.of_trial(
        order.trial,
        order.experiment or order.recipe,
        order.parent_run or None,
        order.artifact_location or None,
        store=order.store,
        launch=order.launch,
    )
