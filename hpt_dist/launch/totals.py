"""What a plan costs in all: images, hours and bytes, by what like trials in its store took.

Where the store holds no like trial, a cost is unknown: nothing here is guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpt_dist.errors import HptError
from hpt_dist.launch.survey import Planned, State, looked_up
from hpt_dist.recipe import plan
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store, committed
from hpt_dist.trial.records import ResultPart, RunPart, document

_MOST_LOOKS = 5  # trials that are read of each likeness, the newest ones
# Settings that do not change what an evaluation costs.
_FREE = ("seed", "crop_seed", "metric", "temperature")
_TRAINING = ("kind", "method", "train", "precision", "memory_format")


@dataclass(frozen=True)
class Known:
    """A sum over those trials of which it is known.

    Args:
        value: the sum.
        trials: how many it is over.
        unknown: the stages of the others, with how many trials each.
    """

    value: float
    trials: int
    unknown: Mapping[str, int]


@dataclass(frozen=True)
class Totals:
    """What a plan has, and what is left to do costs.

    Args:
        trials: of the recipe, those of several members of groups counted once.
        cached: of those, finished ones.
        to_run: of those, the others.
        views: image views that training feeds to the network: steps x batch x views of an image.
        evaluated: the most images that evaluations decode.
        hours: of the trials one after the other, each on the ranks of the like trial.
        result_bytes: what finished trials leave.
        state_bytes: what trainings keep until they are done, all at once.
        apart: which trainings are no beginnings of longer ones, a line for each stage.
    """

    trials: int
    cached: int
    to_run: int
    views: int
    evaluated: Known
    hours: Known
    result_bytes: Known
    state_bytes: Known
    apart: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Took:
    """What a finished trial took: views of training, seconds, bytes of results and of states."""

    views: int
    seconds: float
    result_bytes: int
    state_bytes: int | None


def of(prepared: Planned) -> Totals:
    """Return the totals of a plan.

    Raises:
        StoreError: the store cannot be read.
    """
    states, trials = prepared.states, plan.unique(prepared.trials)
    left = [trial for trial in trials if states[trial.key].name != "cached"]
    shares = {trial.key: _share_left(trial, states[trial.key]) for trial in left}
    views = {trial.key: round(trial.images * shares[trial.key]) for trial in left}
    like = _like_trials(prepared, left)

    def hours(trial: Trial) -> float | None:
        return _hours(like[trial.key], views[trial.key]) if trial.spec.reads() else 0.0

    def result_bytes(trial: Trial) -> float | None:
        return max((took.result_bytes for took in like[trial.key]), default=None)

    def state_bytes(trial: Trial) -> float | None:
        kept = (took.state_bytes for took in like[trial.key])
        known = [one for one in kept if one is not None]
        return max(known, default=None) if trial.spec.TRAINS and not trial.candidates else 0

    return Totals(
        trials=len(trials),
        cached=len(trials) - len(left),
        to_run=len(left),
        views=sum(views.values()),
        evaluated=_summed(left, _evaluated),
        hours=_summed(left, hours),
        result_bytes=_summed(left, result_bytes),
        state_bytes=_summed(left, state_bytes),
        apart=tuple(_apart(trials)),
    )


def _evaluated(trial: Trial) -> int | None:
    """Return the images that a trial's evaluations decode, without those of its candidates."""
    return trial.spec.judged_on(trial.datasets) if trial.spec.reads() else 0


def _hours(like: Sequence[_Took], views: int) -> float | None:
    """Return the hours of a trial at the rate of the slowest like one; None without any.

    Args:
        like: what like trials took.
        views: that it feeds to the network in training; 0 for an evaluation.
    """
    taken = [
        took.seconds * (views / took.views if views else 1.0)
        for took in like
        if took.views or not views
    ]
    return max(taken) / 3600 if taken else None


def _share_left(trial: Trial, state: State) -> float:
    """Return which share of a training is left after the step that it is known to have reached."""
    return 1 - min(state.step / trial.steps, 1) if trial.steps else 1.0


def _summed(trials: Sequence[Trial], of_one: Callable[[Trial], float | None]) -> Known:
    found = [(trial, of_one(trial)) for trial in trials]
    known = [value for _, value in found if value is not None]
    unknown = Counter(trial.stage for trial, value in found if value is None)
    return Known(sum(known), len(known), dict(unknown))


def _likeness(settings: Mapping[str, Any]) -> str:
    """Return what trials have in common that take as long, for each image or in all.

    Args:
        settings: the document of a trial, maybe one that somebody else wrote.

    Returns:
        It as text; empty where the document does not tell.
    """
    spec, image = settings.get("spec"), settings.get("image")
    if not isinstance(spec, dict) or not isinstance(image, dict):
        return ""
    if "precision" in spec:  # it trains step by step
        parts = {name: spec.get(name) for name in _TRAINING}
        parts["anchored"] = spec.get("anchor") is not None  # one more pass, whatever its weight
    else:
        parts = {name: value for name, value in spec.items() if name not in _FREE}
        parts["datasets"] = settings.get("datasets")
    parts |= {"backbone": settings.get("backbone"), "size": image.get("size")}
    parts["decides"] = "candidates" in settings  # it reads test, and trains nothing
    return json.dumps(parts, sort_keys=True)


def _like_trials(prepared: Planned, left: Sequence[Trial]) -> dict[str, list[_Took]]:
    """Return what like trials took, by the key of each trial that is left."""
    devices = {_likeness(trial.document): trial.device for trial in left}
    keys: dict[str, dict[str, None]] = {likeness: {} for likeness in devices}
    for launch in reversed(prepared.launches):
        for name, settings in launch.settings.items():
            alike = keys.get(_likeness(settings))
            if alike is not None and len(alike) < _MOST_LOOKS and name in launch.trials:
                alike[launch.trials[name]] = None
    pairs = [(likeness, key) for likeness, alike in keys.items() for key in alike]
    looks = looked_up(lambda pair: _took(prepared.store, pair[1], devices[pair[0]]), pairs)
    took: dict[str, list[_Took]] = {likeness: [] for likeness in devices}
    for (likeness, _), found in zip(pairs, looks, strict=True):
        took[likeness] += [found] if found else []
    return {trial.key: took[_likeness(trial.document)] for trial in left}


def _took(store: Store, key: str, device: str) -> _Took | None:
    """Return what a trial took; None if it is not done, or was done elsewhere or by another."""
    try:
        done = committed.done(store, key)
        if done is None or done.same_as:
            return None
        run = document(store, key, "run.json", RunPart)
        result = document(store, key, committed.RESULT, ResultPart)
    except HptError:  # its own states and reports say that it is damaged
        return None
    if run.get("device") != device:  # older ones do not say
        return None
    size = sum(entry.bytes for entry in done.objects.values())
    return _Took(result["images"], float(run["seconds"]), size, run.get("state_bytes"))


def _apart(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield which trainings of a stage differ in the length of their schedule alone."""
    lengths: dict[str, dict[str, dict[int, None]]] = {}
    for trial in trials:
        spec = trial.document["spec"]
        if spec.get("schedule") == "cosine":
            rest = {**trial.document, "spec": {**spec, "steps": 0}}
            of_stage = lengths.setdefault(trial.stage, {})
            of_stage.setdefault(json.dumps(rest, sort_keys=True), {})[spec["steps"]] = None
    for stage, groups in lengths.items():
        if steps := sorted({one for group in groups.values() if len(group) > 1 for one in group}):
            names = " and ".join(f"{stage}@{one}" for one in steps)
            yield f"{names} are trained apart: a cosine schedule depends on its length"
