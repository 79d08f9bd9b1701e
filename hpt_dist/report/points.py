"""The trials of a launch as points: axes, metrics, and how each was computed. Pure.

A trial's axes come from its name in the launch (`stage/axis=value,...`), never from its result:
another launch, with other sweeps, may have produced that result under the same key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_dist.evals.choice import Choice
from hpt_dist.evals.evidence import Axes
from hpt_dist.recipe import KINDS, Trained
from hpt_dist.trial.records import Finished

# Pairs of (kind of stage, its numerics in words).
Computed = frozenset[tuple[str, str]]

# What a reader must know of splits that are not apart.
_PROTOCOLS = {
    "published": "protocol published. Images of val are also among those that it learned from "
    "without labels and is judged on, so its numbers compare with published ones alone.",
    "transductive": "transductive. It learned from the images of test, without their labels.",
}
_REPLACED_SHOWN = 5
_NEXT_AXIS = re.compile(r",(?=[\w.-]+=)")


@dataclass(frozen=True)
class Point:
    """One trial of a launch, done or not.

    Args:
        name: `stage/axis=value,...`.
        stage: name of its stage.
        axes: its settings as text.
        finished: its record; None while it is not done.
        is_candidate: whether validation chooses it, or another.
        computed: how it and the trials that it starts from trained, by their stage's kind; trials
            that train nothing or are not done are left out.
    """

    name: str
    stage: str
    axes: Axes
    finished: Finished | None
    computed: Computed = frozenset()
    is_candidate: bool = False

    def value(self, metric: str) -> float | None:
        """Return a metric of a finished trial, or None."""
        return self.finished.result["metrics"].get(metric) if self.finished else None


@dataclass(frozen=True)
class Cost:
    """The cost of one trial; `images` are image views fed to the network in training."""

    trial: str
    key: str
    seed: int
    images: int
    seconds: float
    host: str


def read_points(
    trials: Mapping[str, str],
    done: Sequence[Finished],
    documents: Mapping[str, Any] | None = None,
) -> list[Point]:
    """Return every trial of a launch, in its order.

    Args:
        trials: names to keys.
        done: the finished trials, in any order.
        documents: the document behind each trial's key, by its name; it names the trial's parent.
    """
    by_name = {finished.name: finished for finished in done}
    parents = {name: document.get("init", "") for name, document in (documents or {}).items()}
    names = {key: name for name, key in trials.items()}
    points = []
    for name in trials:
        stage, axes = stage_and_axes(name)
        chain = _chain(name, names, parents)
        computed = (_computed(by_name[one]) for one in chain if one in by_name)
        is_candidate = (documents or {}).get(name, {}).get("role") == "candidate"
        found, how = by_name.get(name), frozenset().union(*computed)
        points.append(Point(name, stage, axes, found, how, is_candidate))
    return points


def stage_and_axes(name: str) -> tuple[str, dict[str, str]]:
    """Return a trial's stage, and its settings as text, from its name `stage/axis=value,...`."""
    stage, _, text = name.partition("/")
    pairs = (axis.partition("=") for axis in _NEXT_AXIS.split(text) if axis)
    return stage, {axis: value for axis, _, value in pairs}


def chosen_by(trial: Finished) -> Choice | None:
    """Return what a trial let validation choose; None where it chose nothing."""
    found = trial.result["details"].get("choice")
    return Choice(**found) if found else None


def leave_val_alone(points: Sequence[Point], stage: str) -> bool:
    """Return whether the trials of a stage kept their last weights without a look at validation.

    Those that are done say it; where none is done, it is not known to be so.
    """
    results = [one.finished.result for one in points if one.stage == stage and one.finished]
    return bool(results) and all(map(_kept_last_unseen, results))


def _kept_last_unseen(result: Mapping[str, Any]) -> bool:
    details = result["details"]
    kept_last = "steps" in details and details.get("selected") == {"step": details["steps"]}
    return kept_last and not any(name.startswith("val/") for name in result["metrics"])


def _chain(name: str, names: Mapping[str, str], parents: Mapping[str, str]) -> list[str]:
    """Return the names of a trial, its parent, that one's parent, and so on."""
    chain = [name]
    while (parent := names.get(parents.get(chain[-1], ""), "")) and parent not in chain:
        chain.append(parent)
    return chain


def _computed(finished: Finished) -> Computed:
    numerics = str(finished.run.get("numerics", ""))
    return frozenset({(str(finished.result["kind"]), numerics)} if numerics else ())


def single_runs(points: Sequence[Point], rows: Iterable[str]) -> tuple[str, ...]:
    """Return the rows that are a pretraining stage with one trial: its variance is unknown."""
    kinds = {p.stage: p.finished.result["kind"] for p in points if p.finished}
    trials = Counter(point.stage for point in points)
    return tuple(row for row in rows if _pretrains(kinds.get(row, "")) and trials[row] == 1)


def _pretrains(kind: str) -> bool:
    spec = KINDS.get(kind)
    return spec is not None and issubclass(spec, Trained) and spec.LEAVES == "weights"


def costs(done: Sequence[Finished]) -> list[Cost]:
    """Return the cost of each finished trial; trials with the same key count once."""
    unique = {finished.key: finished for finished in reversed(done)}
    return [
        Cost(
            trial=finished.name,
            key=finished.key,
            seed=int(finished.result["seed"]),
            images=int(finished.result["images"]) if finished.origin == finished.key else 0,
            seconds=float(finished.run["seconds"]),
            host=str(finished.run.get("host", "")),
        )
        for finished in reversed(unique.values())
    ]


def same_trials(points: Sequence[Point]) -> list[str]:
    """Return a line for each trial whose result is that of another one, which read the same."""
    done = [point.finished for point in points if point.finished]
    names = {one.key: one.name for one in done}
    first = {one.inputs: one.key for one in reversed(done) if one.origin == one.key}
    lines = []
    for one in done:
        other = first.get(one.inputs, one.origin)
        if other != one.key:
            what = f"{one.name} starts from the same weights as {names.get(other, other[:12])}"
            lines.append(f"{what}, so its result is the same.")
    return lines


def replaced_images(points: Sequence[Point]) -> list[str]:
    """Return a line for each trial that replaced damaged images; it names them."""
    lines = []
    for point in points:
        names = point.finished.result.get("replaced", []) if point.finished else []
        if names:
            shown = ", ".join(names[:_REPLACED_SHOWN])
            more = len(names) - _REPLACED_SHOWN
            rest = f" and {more} more" if more > 0 else ""
            count = f"{len(names)} image{'s' if len(names) > 1 else ''} replaced"
            lines.append(f"{count}: {shown}{rest}; {point.name} found them damaged.")
    return lines


def protocols(points: Sequence[Point]) -> list[str]:
    """Return a line for each stage that learns from, or chooses by, images that judge it."""
    lines = []
    for point in points:
        kind = point.finished.result["details"].get("protocol") if point.finished else ""
        if kind in _PROTOCOLS:
            lines.append(f"{point.stage}: {_PROTOCOLS[kind]}")
    return list(dict.fromkeys(lines))


def images_of(points: Sequence[Point], stage: str, metric: str) -> int | None:
    """Return the number of images of a metric's split, if all trials of a stage agree on it.

    Args:
        points: all trials of the launch.
        stage: the stage.
        metric: the metric, such as `test/top1`.
    """
    name = f"n_{metric.partition('/')[0]}"
    counts = {
        p.finished.result["details"].get(name) for p in points if p.stage == stage and p.finished
    }
    return int(counts.pop()) if len(counts) == 1 and None not in counts else None


def metric_of(points: Sequence[Point], stage: str, split: str) -> str:
    """Return the metric by which a stage's val chose, on a split; top1 where no result names one.

    Args:
        points: all trials of the launch.
        stage: the stage.
        split: val or test.
    """
    results = (p.finished.result for p in points if p.stage == stage and p.finished)
    names = (result.get("details", {}).get("metric") for result in results)
    return f"{split}/{next((name for name in names if isinstance(name, str)), 'top1')}"


def without_replicates(points: Sequence[Point], stage: str, metric: str) -> list[str]:
    """Return a line if numbers of a stage that its images judge have no interval over them.

    Args:
        points: all trials of the launch.
        stage: the stage.
        metric: such as `test/auroc`.
    """
    ours = [p for p in points if p.stage == stage and p.finished and p.value(metric) is not None]
    lacking = [p for p in ours if p.finished and metric not in p.finished.replicates]
    if not lacking or metric.partition("/")[0] not in ("val", "test"):
        return []
    faults = [p.finished.fault for p in lacking if p.finished and p.finished.fault]
    why = faults[0] if faults else "those left no replicates, as earlier versions did"
    count = f"{len(lacking)} of {len(ours)}" if len(lacking) < len(ours) else f"all {len(ours)}"
    return [f"{metric} of {stage} has no interval over images in {count} finished trials: {why}."]


def kind_of(points: Sequence[Point], stage: str) -> str:
    """Return the kind of a stage; empty while none of its trials is done."""
    kinds = (p.finished.result["kind"] for p in points if p.stage == stage and p.finished)
    return str(next(kinds, ""))
