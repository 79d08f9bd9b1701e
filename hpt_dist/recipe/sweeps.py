"""Sweeps: their shape, one point of them, and how many trials they make, which is counted first."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast, get_origin

from hpt_dist.recipe.groups import Groups
from hpt_dist.recipe.kinds.stage import Fault, StageSpec
from hpt_dist.recipe.validation import fields_at
from hpt_dist.recipe.yaml_document import Document, KeyPath
from hpt_dist.recipe.yaml_values import shown

Axis = str | int | float | bool | None
# What varies alone or together; each of these with each of the others makes the combinations.
Sweep = Sequence[Mapping[str, list[Axis]]]
Word = Literal["sweep", "choose"]

ZIP = "zip"  # of settings that change together
_LEAST_ZIPPED = 2

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
        stages: plain data as it was written, with the groups that each stage names in its sweep.
    """
    counts = {}
    for stage, raw in stages.items():
        counts[stage] = _count(raw, "sweep") * _count(raw, "choose")
    return _fit(document, stages, counts)


def combinations(sweep: Sweep) -> list[dict[str, Axis]]:
    """Return every combination of settings, the last of them the first to change."""
    bundles = [[dict(zip(one, row, strict=True)) for row in _rows(one)] for one in sweep]
    return [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*bundles)
    ]


def settings(sweep: Sweep | None) -> dict[str, list[Axis]]:
    """Return all settings that a sweep changes, with their values."""
    return {key: values for bundle in sweep or () for key, values in bundle.items()}


def _rows(bundle: Mapping[str, Sequence[Axis]]) -> Iterable[tuple[Axis, ...]]:
    return zip(*bundle.values(), strict=True)


def _count(raw: Any, word: Word) -> int:
    sweep = raw.get(word) if isinstance(raw, dict) else None
    if not isinstance(sweep, dict):
        return 1
    zipped = sweep.get(ZIP)
    together = list(zipped.values())[:1] if isinstance(zipped, dict) else []
    values = [one for key, one in sweep.items() if key != ZIP] + together
    return math.prod(len(one) for one in values if isinstance(one, list))


def checked(
    document: Document,
    path: KeyPath,
    spec: type[StageSpec],
    raw: Any,
    beside: Mapping[str, Any],
    word: Word = "sweep",
    groups: Collection[str] = (),
) -> Sweep | None:
    """Return a sweep whose shape was checked; None where it has a fault, which is noted.

    Args:
        document: notes the faults.
        path: of the stage.
        spec: of its kind.
        raw: plain data as it was written.
        beside: what else the stage sets.
        word: whether its values are compared, or validation chooses one.
        groups: those that the stage names, which are among its axes.
    """
    here = (*path, word)
    if not isinstance(raw, dict):
        document.problem(here, f"{word} is a mapping of settings to lists of values")
        return None
    if raw and word == "choose" and not spec.CHOOSES:
        what = "this kind of stage has no result on val for choose to go by"
        document.problem(here, what, fix="sweep compares")
        return None
    zipped = raw.get(ZIP, {})
    together = zipped if isinstance(zipped, dict) else {}
    alone = {key: values for key, values in raw.items() if key != ZIP}
    faults = _zip_faults(zipped, alone) if ZIP in raw else []
    for key, values in [*alone.items(), *together.items()]:
        if key in groups:
            faults += _group_faults(spec, key)
            continue
        faults += filter(None, [_axis_fault(document, spec, key, beside, word)])
        faults += filter(None, [_values_fault(key, values, is_alone=key in alone)])
    places = {
        key: (*here, ZIP, key) if key in together else (*here, key) for key in alone | together
    }
    for fault in faults:
        place = places.get(fault.setting, (*here, fault.setting))
        document.problem(place, fault.what, fault.allowed, fault.fix)
    for key in beside:
        document.places.setdefault((*here, key), document.place((*path, key)))
    for key, place in places.items():
        # A fault in a swept value is then reported at the sweep's line.
        document.places.setdefault((*path, *key.split(".")), document.place(place))
    has_unread = any(one[: len(here)] == here for one in document.unread)
    if faults or has_unread:
        return None
    return [together if key == ZIP else {key: values} for key, values in raw.items()]


def _zip_faults(zipped: Any, alone: Mapping[str, Any]) -> list[Fault]:
    """Return why settings cannot change together."""
    if not isinstance(zipped, dict) or len(zipped) < _LEAST_ZIPPED:
        what = "zip is a mapping of two settings or more to lists of values, as many of each"
        return [Fault(ZIP, what, "zip: {steps: [50, 5000], optimizer.lr: [0.1, 0.03]}")]
    faults = [
        Fault(key, f"{shown(key)} stands in zip and beside it", fix="keep one of them")
        for key in zipped
        if key in alone
    ]
    lists = [one for one in zipped.values() if isinstance(one, list)]
    if len({len(one) for one in lists}) > 1:
        counts = ", ".join(f"{len(one)} of {key}" for key, one in zipped.items() if one in lists)
        faults.append(Fault(ZIP, f"settings that change together have as many values: {counts}"))
    elif len(lists) == len(zipped):
        rows = list(map(repr, _rows(zipped)))
        if len(set(rows)) < len(rows):
            faults.append(Fault(ZIP, "the same values stand twice", fix="keep one of them"))
    return faults


def _group_faults(spec: type[StageSpec], key: str) -> list[Fault]:
    """Return that a group has the name of a setting, so that nobody could tell them apart."""
    if key not in spec.model_fields:
        return []
    kind = spec.__name__.lower()
    return [Fault(key, f"{key} is a setting of {kind}, too", fix="give the group another name")]


def _axis_fault(
    document: Document, spec: type[StageSpec], key: str, beside: Mapping[str, Any], word: Word
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
    if key in beside:
        what = f"{shown(key)} stands in the stage and in its {word}"
        return Fault(key, what, fix="keep one of them")
    return None


def _values_fault(key: str, values: Any, *, is_alone: bool) -> Fault | None:
    if not isinstance(values, list) or not values:
        return Fault(key, "a sweep needs a list of values", allowed="[value, ...]")
    if any(isinstance(value, list | dict) for value in values):
        return Fault(key, "a sweep's values are single values")
    if is_alone and len(set(map(repr, values))) < len(values):
        return Fault(key, "a value stands twice", fix="keep one of them")
    return None


def substituted(
    spec: type[StageSpec], settings: dict[str, Any], axes: Mapping[str, Axis], groups: Groups
) -> dict[str, Any]:
    """Return a stage's plain data with the values of one point of its sweep.

    A word for a setting that is a list stands for a list of it: each value is one dataset/split.
    """
    written = cast("dict[str, Any]", json.loads(json.dumps(settings)))
    tree = cast("dict[str, Any]", groups.filled(written, axes))
    for path, swept in axes.items():
        if path in groups:
            continue
        value = groups.filled(swept, axes)
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


Paired = tuple[Axis, ...]  # seed, and the members of groups: what a child shares with its parent


def check_trials(
    document: Document,
    stages: Mapping[str, Any],
    starts: Mapping[str, Sequence[tuple[Paired, str]]],
    tried: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Note the stage with which a recipe has too many trials; see `plan.make` for what makes them.

    Args:
        document: notes the problem.
        stages: plain data as it was written.
        starts: what each point pairs by, and its parent, by stage, parents first. The seed comes
            first, then the member of each group; None where the stage does not sweep over it. The
            parent is empty where it starts from none.
        tried: the parents of the candidates that each of its trials chooses from.
    """
    made: dict[str, Counter[Paired]] = {}
    counts: Counter[str] = Counter()  # with the candidates
    for stage, points in starts.items():
        made[stage] = Counter()
        for (own, parent), count in Counter(points).items():
            for paired, parents in _starts(made[parent], own) if parent else [(own, 1)]:
                made[stage][paired] += count * parents
            for one in tried.get(stage, ()):
                counts[stage] += count * sum(n for _, n in _starts(made[one], own))
        counts[stage] += made[stage].total()
    _fit(document, stages, counts)


def _starts(parents: Counter[Paired], own: Paired) -> Iterator[tuple[Paired, int]]:
    """Yield from how many trials a point starts, and what these trials of it pair by."""
    seed, *members = own
    has_seeds = seed is not None and any(one[0] is not None for one in parents)
    for (other, *theirs), count in parents.items():
        both = list(zip(members, theirs, strict=True))
        if (has_seeds and other != seed) or any(
            a != b for a, b in both if a is not None and b is not None
        ):
            continue
        yield (seed, *(b if a is None else a for a, b in both)), count


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
