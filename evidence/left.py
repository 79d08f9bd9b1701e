"""Which trials of a unit are left to run, and what they cost. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from evidence.matrix import Unit, seedless
from evidence.records import UnitRecord
from hpt_dist.recipe import Mme, Pretrain
from hpt_dist.recipe.trial import Trial

_IMPORT = "import"
_CORES = 2  # of the machine that minutes are counted on
# CPU seconds there, of EfficientNet-Lite0 at 64 pixels: of an image forwards, which is half of one
# backwards, and of a trial beside its images.
_FORWARD_S = 0.0043
_BEGIN_S = 12.0
_BOTH_WAYS = 3
Cost = Callable[[str, str], float | None]


def of_unit(trials: Sequence[Trial], unit: Unit) -> list[Trial]:
    """Return the trials of a unit: those of its seed, and those that have none."""
    return [trial for trial in trials if trial.axes.get("seed", unit.seed) == unit.seed]


def measured(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have a result: imports read no image, and are made where needed."""
    return [trial for trial in trials if trial.spec.kind != _IMPORT]


def to_run(
    trials: Sequence[Trial], recorded: Mapping[str, str], is_done: Callable[[str], bool]
) -> list[Trial]:
    """Return the trials of a unit that have to run, parents first.

    These are all without a result under their key, and what they need that the store does not hold.
    What starts from a training that runs again runs again too: a processor of another kind trains
    other weights, and the results of a unit are of the same ones.

    Args:
        trials: of a unit, parents first.
        recorded: the keys of those that have a result, by name.
        is_done: whether the store holds what a key left.
    """
    there = {trial.key for trial in trials if is_done(trial.key)}
    without = [trial for trial in measured(trials) if recorded.get(trial.name) != trial.key]
    wanted = {trial.key for trial in without} - there
    kinds = {trial.key: trial.spec.kind for trial in trials}
    before: set[str] = set()
    while wanted != before:
        before = set(wanted)
        for trial in trials:
            if trial.key in wanted:
                wanted |= set(trial.needs) - there
            elif any(key in wanted and kinds[key] != _IMPORT for key in trial.needs):
                wanted |= {trial.key} - there
    return [trial for trial in trials if trial.key in wanted]


def costs(records: Iterable[UnitRecord]) -> Cost:
    """Return what a trial costs in CPU seconds, by its name and its target, where it is known.

    It is the mean of like trials of other seeds, of the same target where there are any.
    """
    seen: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        for name, took in record.cpu_seconds().items():
            for like in _likes(name, record.target):
                seen.setdefault(like, []).append(took)

    def cost(name: str, target: str) -> float | None:
        return next((fmean(seen[like]) for like in _likes(name, target) if like in seen), None)

    return cost


def estimated(trial: Trial | None) -> float | None:
    """Return roughly what a training costs in CPU seconds, by the passes of its images.

    Args:
        trial: of EfficientNet-Lite0 at 64 pixels; None and one that trains otherwise are unknown.
    """
    if trial is None:
        return None
    spec = trial.spec
    if isinstance(spec, Mme):
        # Weak views of consistency go forwards alone.
        weak = spec.batch_unlabelled if spec.objective == "consistency" else 0
        passes = _BOTH_WAYS * trial.images - (_BOTH_WAYS - 1) * weak * spec.steps
    elif isinstance(spec, Pretrain):
        passes = (_BOTH_WAYS + 1) * trial.images // 2  # a view of a key goes forwards alone
    else:
        return None
    judged = spec.judged_on(trial.datasets)
    return _BEGIN_S + _FORWARD_S * (passes + judged)


def minutes(cpu_seconds: Sequence[float | None]) -> float | None:
    """Return the minutes that trials take on two quiet cores; None where one is unknown."""
    known = [one for one in cpu_seconds if one is not None]
    return sum(known) / 60 / _CORES if len(known) == len(cpu_seconds) else None


def takes(
    cost: Cost, target: str, names: Iterable[str], trials: Mapping[str, Trial]
) -> tuple[float | None, bool]:
    """Return the minutes that trials take on two quiet cores, and whether all were measured.

    Args:
        cost: see `costs`.
        target: of all of them.
        names: of what is measured.
        trials: by name, those of them that a recipe has: their cost is estimated where no like one
            was measured.
    """
    measured = {name: cost(name, target) for name in names}
    found = {
        name: estimated(trials.get(name)) if spent is None else spent
        for name, spent in measured.items()
    }
    total = minutes(list(found.values()))
    return total, total is None or None not in measured.values()


def _likes(name: str, target: str) -> tuple[tuple[str, ...], ...]:
    like = seedless(name)
    return (target, like), (like,), (name.partition("/")[0],)
