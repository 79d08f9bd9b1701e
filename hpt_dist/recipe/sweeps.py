"""Sweeps: their shape, one point of them, and how many trials they make, which is counted first."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast, get_origin

from hpt_dist.recipe.kinds.stage import Fault, StageSpec
from hpt_dist.recipe.validation import fields_at
from hpt_dist.recipe.yaml_document import Document, KeyPath
from hpt_dist.recipe.yaml_values import shown

Axis = str | int | float | bool | None
Word = Literal["sweep", "choose"]

MOST_TRIALS = 10_000  # of a recipe
MOST_CHARACTERS = 20_000_000  # of the settings of all its trials: each has some hundreds
_FIX = "sweep over fewer values, or share the work out over several recipes"
# What makes another result that counts, instead of another try at the same one.
_COMPARED = {
    "seed": "sweep over seed: each one chooses for itself",
    "init": "sweep over init: what is started from is compared",
    "data": "sweep over data: val of each dataset is another one",
    "target": "sweep over target: val of each dataset is another one",
    "metric": "sweep over metric: values of different metrics cannot be compared",
}


def fit(document: Document, stages: Mapping[str, Any]) -> bool:
    """Return whether all combinations of each stage can be made; note the sweep that is too much.

    Args:
        document: notes the problem.
        stages: plain data as it was written.
    """
    counts = {}
    for stage, raw in stages.items():
        counts[stage] = _count(raw, "sweep") * _count(raw, "choose")
    return _fit(document, stages, counts)


def combinations(values: Mapping[str, Sequence[Axis]]) -> list[dict[str, Axis]]:
    """Return every combination of settings, the last of them the first to change."""
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


def _count(raw: Any, word: Word) -> int:
    sweep = raw.get(word) if isinstance(raw, dict) else None
    values = sweep.values() if isinstance(sweep, dict) else ()
    return math.prod(len(one) for one in values if isinstance(one, list))


def checked(
    document: Document,
    path: KeyPath,
    spec: type[StageSpec],
    raw: Any,
    settings: Mapping[str, Any],
    word: Word = "sweep",
) -> dict[str, list[Axis]] | None:
    """Return a sweep whose shape was checked; None where it has a fault, which is noted.

    Args:
        document: notes the faults.
        path: of the stage.
        spec: of its kind.
        raw: plain data as it was written.
        settings: what else the stage sets.
        word: whether its values are compared, or validation chooses one.
    """
    here = (*path, word)
    if not isinstance(raw, dict):
        document.problem(here, f"{word} is a mapping of settings to lists of values")
        return None
    if raw and word == "choose" and not spec.CHOOSES:
        what = "this kind of stage has no result on val for choose to go by"
        document.problem(here, what, fix="sweep compares")
        return None
    faults = [
        fault
        for key, values in raw.items()
        for fault in (_axis_fault(document, spec, key, settings, word), _values_fault(key, values))
        if fault
    ]
    for fault in faults:
        document.problem((*here, fault.setting), fault.what, fault.allowed, fault.fix)
    for key in settings:
        document.places.setdefault((*here, key), document.place((*path, key)))
    for key in raw:
        # A fault in a swept value is then reported at the sweep's line.
        document.places.setdefault((*path, *key.split(".")), document.place((*here, key)))
    has_unread = any(one[: len(here)] == here for one in document.unread)
    return None if faults or has_unread else raw


def _axis_fault(
    document: Document, spec: type[StageSpec], key: str, settings: Mapping[str, Any], word: Word
) -> Fault | None:
    """Return why a sweep's key is no setting, nor one inside another, that nothing else sets."""
    outer, dot, _ = key.partition(".")
    if word == "choose" and key in _COMPARED:
        return Fault(key, f"{key} is not for validation to choose", fix=_COMPARED[key])
    known = [name for name in spec.model_fields if name != "kind"]
    if dot and outer in known and (nested := fields_at(spec, [outer])) != list(spec.model_fields):
        known = [f"{outer}.{name}" for name in nested]
    elif dot and outer in known and get_origin(spec.model_fields[outer].annotation) is dict:
        known = [key]  # whatever it is called: a method of somebody else's knows
    if key not in known:
        close = document.nearest(key, known)
        return Fault(key, f"cannot {word} over {shown(key)}", ", ".join(known), close)
    if key in settings:
        what = f"{shown(key)} stands in the stage and in its {word}"
        return Fault(key, what, fix="keep one of them")
    return None


def _values_fault(key: str, values: Any) -> Fault | None:
    if not isinstance(values, list) or not values:
        return Fault(key, "a sweep needs a list of values", allowed="[value, ...]")
    if any(isinstance(value, list | dict) for value in values):
        return Fault(key, "a sweep's values are single values")
    if len(set(map(repr, values))) < len(values):
        return Fault(key, "a value stands twice", fix="keep one of them")
    return None


def substituted(
    spec: type[StageSpec], settings: dict[str, Any], axes: Mapping[str, Axis]
) -> dict[str, Any]:
    """Return a stage's plain data with the values of one point of its sweep.

    A word for a setting that is a list stands for a list of it: each value is one dataset/split.
    """
    tree = cast("dict[str, Any]", json.loads(json.dumps(settings)))
    for path, value in axes.items():
        *outer, last = path.split(".")
        inner = tree
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                break
        if isinstance(inner, dict):
            inner[last] = [value] if isinstance(value, str) and _is_list(spec, path) else value
    return tree


def _is_list(spec: type[StageSpec], setting: str) -> bool:
    field = spec.model_fields.get(setting)
    return field is not None and get_origin(field.annotation) is tuple


def check_trials(
    document: Document,
    stages: Mapping[str, Any],
    starts: Mapping[str, Sequence[tuple[Any, str]]],
    tried: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Note the stage with which a recipe has too many trials; see `plan.make` for what makes them.

    Args:
        document: notes the problem.
        stages: plain data as it was written.
        starts: (seed, parent) of each point by stage, parents first; the seed is None where the
            stage does not sweep over seeds, the parent empty where it starts from none.
        tried: the parents of the candidates that each of its trials chooses from.
    """
    made: dict[str, Counter[Any]] = {}  # trials by seed
    counts: Counter[str] = Counter()  # with the candidates
    for stage, points in starts.items():
        made[stage] = Counter()
        for seed, parent in points:
            made[stage][seed] += _starts(made[parent], seed) if parent else 1
            counts[stage] += sum(_starts(made[one], seed) for one in tried.get(stage, ()))
        counts[stage] += made[stage].total()
    _fit(document, stages, counts)


def _starts(parents: Counter[Any], seed: Any) -> int:
    """Return from how many trials a point starts: those of its seed where both sweep over seeds."""
    has_seeds = any(one is not None for one in parents)
    return parents[seed] if seed is not None and has_seeds else parents.total()


def _fit(document: Document, stages: Mapping[str, Any], counts: Mapping[str, int]) -> bool:
    """Return whether so many trials of each stage can be made; note the first that is too much."""
    trials = characters = 0
    for stage, count in counts.items():
        settings = stages[stage]
        is_swept = isinstance(settings, dict) and "sweep" in settings
        path: KeyPath = ("stages", stage, "sweep") if is_swept else ("stages", stage)
        if is_swept:
            settings = {key: value for key, value in settings.items() if key != "sweep"}
        trials += count
        characters += count * len(json.dumps(settings))
        if trials > MOST_TRIALS:
            # Many sweeps multiplied have more digits than Python writes.
            exact = f"{trials:,}" if trials < 10**12 else "more than 10**12"
            what = f"up to here, with what each stage starts from, the recipe has {exact} trials"
            document.problem(path, what, f"up to {MOST_TRIALS:,}", _FIX)
            return False
        if characters > MOST_CHARACTERS:
            what = f"its settings, repeated for {count:,} trials, are too long"
            document.problem(path, what, fix=_FIX)
            return False
    return True
