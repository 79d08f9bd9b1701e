"""Run one trial: hold its lease, do the work, commit the results, `DONE` last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt_dist.errors import (
    DivergedError,
    HptError,
    Interrupted,
    StoreAwayError,
    StoreError,
    TrainingError,
)
from hpt_dist.errors.secrets import public_address, without_secrets
from hpt_dist.recipe import plugins
from hpt_dist.recipe.plan import Trial
from hpt_dist.store import Store, committed, files, lease, marker, open_store
from hpt_dist.store.committed import HEAD, MODEL, REPLICATES, WEIGHTS
from hpt_dist.store.paths import DONE, FAILURE, LEASE, stage_prefix, trial_folder
from hpt_dist.tracking.tracker import METRICS, RunIdentity, Tracker
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial import alike, documents, identity, replicates, starts
from hpt_dist.trial.predictions import Predictions, file_of
from hpt_dist.trial.progress import Progress, ReportProgress, in_words, report_nowhere
from hpt_dist.weights.head import Head

if TYPE_CHECKING:
    from torch import Tensor

    from hpt_dist.train.selection import Selection

# For which whoever stopped a trial waits for MLflow; the end of the launch sends it the rest.
_STOPPED_S = 3.0

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


@dataclass
class Result:
    """What a trial leaves.

    Args:
        metrics: named as in MLflow, such as test/top1.
        details: anything else that its reader needs, in JSON.
        weights: the backbone to start other stages from; None where there is none.
        model: a whole model that is an end in itself, such as an adapted classifier.
        head: the classifier on the features that it judged; None where there is none.
        seconds_before: time that earlier, interrupted processes had put into it.
        numerics: precision, memory format and device of its training, in words; empty without one.
        curves: metrics whose points were logged in training; the value of what is kept has a name
            of its own beside them, `kept/...`.
        replaced: the names of damaged images that others stand in for.
        predictions: what its model answered about each image, by split.
        chose: the settings that validation chose, in words; empty where it chose nothing.
        pictures: what it saw and changed, WebP by file name; shown, and used for nothing.
        taken: predictions of a trial that read the same, or that validation chose: files by name,
            which it commits as they are.
        replicates: of its metrics, shares of 1, [draws]; see `evals.bootstrap`.
        out: why it is no candidate any more; empty where it has a result.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] | None = None
    model: dict[str, Tensor] | None = None
    head: Head | None = None
    seconds_before: float = 0.0
    numerics: str = ""
    curves: tuple[str, ...] = ()
    replaced: Sequence[str] = ()
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    chose: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    taken: Mapping[str, bytes] = field(default_factory=dict)
    replicates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    out: str = ""


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
        """Note the looks at validation, for who watches."""
        self._progress.note_look(selection)

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
            _clear(root)  # a process was killed between the two
            return
        if interrupt:
            raise Interrupted(f"stopped by {interrupt.cause} before it began")
        root.sweep()
        root.delete(FAILURE)
        root.put("spec.json", _json(order.trial.document))
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
        root.put(FAILURE, _json({"error": message, "job": order.scheduled, "restarts": order.term}))


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
    result = _result_of(twin, order.trial) if twin else _computed(context, runner, together)
    seconds = time.perf_counter() - began
    _commit(context, tracker, result, start.count - 1, seconds, inputs, twin.key if twin else "")
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


def _result_of(twin: alike.Alike, trial: Trial) -> Result:
    """Return a result as if this trial had computed it; its curves stay with the one that did.

    Args:
        twin: the one that did.
        trial: this one.
    """
    # Both train, and so look at validation meanwhile.
    trains = trial.spec.TRAINS and not trial.candidates
    log.info("reads what trial %s has read, and takes its result", twin.key[:12])
    metrics = twin.result["metrics"]
    return Result(
        metrics,
        twin.result["details"],
        weights=twin.weights,
        model=twin.model,
        head=twin.head,
        numerics=twin.numerics,
        curves=tuple(name for name in metrics if trains and not name.startswith("test/")),
        replaced=twin.result.get("replaced", ()),
        chose=twin.chose,
        taken=twin.predictions,
        replicates=twin.replicates,
        out=str(twin.result["details"].get("out", "")),
    )


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
    with contextlib.suppress(*out):  # rank 0 reports it
        runner(context, order.trial.spec)


def _clear(root: Store) -> None:
    """Delete what only an unfinished trial needs."""
    Checkpoints(root).clear()
    root.delete(starts.STARTS)
    root.sweep()


def _commit(
    context: Context,
    tracker: Tracker,
    result: Result,
    restarts: int,
    seconds: float,
    inputs: str,
    same_as: str,
) -> None:
    """Put every object, verify it, and only then name them all in `DONE`."""
    trial, root = context.order.trial, context.root
    same = {"same_as": same_as} if same_as else {}
    replaced = {"replaced": list(result.replaced)} if result.replaced else {}
    elsewhere = [one for one in trial.datasets.values() if one.store]
    run = documents.of_run(
        seconds=result.seconds_before + seconds,
        restarts=restarts,
        job=context.order.scheduled,
        ranks=context.order.ranks,
        threads=context.order.threads,
        numerics=result.numerics,
        stores={one.name: public_address(open_store(one.store).uri) for one in elsewhere},
    )
    objects = {
        "spec.json": _json(trial.document),
        "result.json": _json(documents.of_result(trial, result.metrics, result.details) | replaced),
        "run.json": _json(run | same | ({"inputs": inputs} if inputs else {})),
    }
    metadata = {"key": trial.key, "trial": trial.name, "backbone": trial.backbone}
    for name, state in {WEIGHTS: result.weights, MODEL: result.model}.items():
        if state is not None:
            from hpt_dist.weights import match as weights

            objects[name] = weights.save(state, metadata)
    if result.head:
        objects[HEAD] = result.head.encoded(metadata)
    objects |= result.pictures
    objects |= _predictions(result)
    if result.replicates:
        objects[REPLICATES] = replicates.encoded(result.replicates)
    # The tracker has all points before `DONE`: whoever finds it can bring them to MLflow.
    points = {
        f"kept/{name}" if name in result.curves else name: value
        for name, value in {**result.metrics, **replicates.ends(result.details)}.items()
    }
    points["active_seconds"] = result.seconds_before + seconds
    if replaced:
        points["images_replaced"] = len(result.replaced)
    tracker.log(trial.steps, points)
    for name in objects.keys() - {"run.json"}:
        tracker.artifact(name, objects[name])
    objects[METRICS] = tracker.points
    context.check()
    manifest = {name: _put(root, name, data) for name, data in objects.items()}
    context.check()
    chose = {name: text for name in ("chose", "out") if (text := getattr(result, name))}
    root.put(DONE, _json({"key": trial.key, "objects": manifest} | same | replaced | chose))
    _clear(root)


def _predictions(result: Result) -> dict[str, bytes]:
    """Return the files of what a model answered, by name."""
    found = dict(result.taken)
    if result.predictions:
        from hpt_dist.trial import predictions_file  # pyarrow takes long to import

        for split, one in result.predictions.items():
            found[file_of(split)] = predictions_file.encoded(one)
    return found


def _put(root: Store, name: str, data: bytes) -> dict[str, Any]:
    info = root.put(name, data)
    if info.bytes != len(data):
        raise StoreError(f"{root.uri}/{name} holds {info.bytes} of {len(data)} bytes")
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _identity(order: TrialOrder) -> RunIdentity:
    return identity.of_trial(
        order.trial,
        order.experiment or order.recipe,
        order.parent_run or None,
        order.artifact_location or None,
        store=order.store,
        launch=order.launch,
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
