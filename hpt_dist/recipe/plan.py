"""A recipe becomes a graph of trials, each under the key of what determines its result. Pure.

The key is the SHA-256 of a trial's document: its resolved settings, the keys of its parents, the
digests of its datasets, the fingerprint of imported weights, the version of the stage's code and
those of other distributions whose method or backbone it uses.
Where things lie, which machine runs them and how often states are saved are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpt_dist.errors import Problem, RecipeError, RequestError
from hpt_dist.recipe import feeding
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.file import Point, Recipe
from hpt_dist.recipe.kinds.stage import CANDIDATES, Fault, StageSpec
from hpt_dist.recipe.plugins import Kind
from hpt_dist.recipe.settings import result_fields
from hpt_dist.recipe.sweeps import Axis
from hpt_dist.recipe.trial import Trial, axes_text, key_of


def make(recipe: Recipe, facts: Facts) -> tuple[Trial, ...]:
    """Return every trial of a recipe, parents before children; `unique` are those to run.

    A stage runs for each point of its sweep and each trial of the stage it starts from: what the
    parent sweeps over becomes an axis of the child too, except that where both sweep over `seed`
    a child starts from the parent of its own seed, and where both name a group from that of its
    own member. Where validation chooses, each of these is
    preceded by its candidates.

    Raises:
        RecipeError: with every trial that cannot be fed from its datasets.
    """
    trials: dict[str, list[Trial]] = {}
    problems: list[Problem] = []
    for stage, points in recipe.stages.items():
        trials[stage] = []
        for point in points:
            found = _decided(recipe, facts, stage, point, problems)
            if found is None:
                continue
            parents: list[Trial | None] = [None]
            if parent := found.spec.parent:
                parents = [*_starts(trials[parent], found.axes, recipe.groups)]
                if not parents and trials[parent]:
                    problems.append(_no_such_seed(recipe, stage, found.spec))
            starts = {s: _starts(its, found.axes, recipe.groups) for s, its in trials.items()}
            compared = {
                one.name: [it.spec for it in one.candidates or (one,)]
                for name in found.spec.compared
                for one in starts[name]
            }
            faults = found.spec.compared_faults(compared)
            problems += [_located(recipe, stage, fault) for fault in faults]
            made = (_at(recipe, facts, stage, found, one, starts) for one in parents)
            trials[stage] += [_with_base(trial, trials) for trial in made]
    every = [t for stage in trials.values() for one in stage for t in (*one.candidates, one)]
    named = _without_shared(every)
    problems += _twins(recipe, named)
    if problems:
        raise RecipeError(problems)
    return named


def _without_shared(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Leave out candidates that an earlier stage chooses from too: they run once."""
    first = dict[str, Trial]()
    return tuple(
        trial
        for trial in trials
        if first.setdefault(trial.key, trial).stage == trial.stage
        or not (trial.is_candidate and first[trial.key].is_candidate)
    )


def _decided(
    recipe: Recipe, facts: Facts, stage: str, point: Point, problems: list[Problem]
) -> Point | None:
    """Return a point with its numerics decided; None, and its problems, where it cannot run."""
    candidates = []
    for one in point.candidates or (point,):
        faults = feeding.faults_of(one.spec, facts, recipe.backbone)
        faults += one.spec.choice_faults() if point.candidates else []
        unfit = [_located(recipe, stage, fault) for fault in faults]
        problems += [problem for problem in unfit if problem not in problems]
        try:
            spec = one.spec.decided(recipe.backbone, facts.device)
        except RequestError as error:
            problems += [p for p in [_untrainable(recipe, stage, error)] if p not in problems]
            return None
        candidates.append(Point(one.axes, spec))
    is_own = bool(point.spec.tries())
    spec = point.spec if is_own else candidates[0].spec
    return Point(point.axes, spec, tuple(candidates) if point.candidates else ())


def _at(
    recipe: Recipe,
    facts: Facts,
    stage: str,
    point: Point,
    parent: Trial | None,
    starts: Mapping[str, Sequence[Trial]],
) -> Trial:
    """Return the trial of a point that starts from a parent, with those that it chooses from.

    These start from that parent; where there is none, from those of their own stage in `starts`,
    which also has the trials that it compares.
    """
    pairs = [
        (one, start)
        for one in point.candidates
        for start in ([parent] if parent else starts[one.spec.parent])
    ]
    candidates = tuple(
        _trial(
            *(recipe, facts, f"{stage}{CANDIDATES}"),
            *({**point.axes, **one.axes}, one.spec, start),
            is_candidate=True,
        )
        for one, start in pairs
    )
    trial = _trial(
        *(recipe, facts, stage, point.axes, point.spec, parent),
        candidates=candidates,
        compared=[trial for name in point.spec.compared for trial in starts[name]],
    )
    return trial if parent else replace(trial, starts=tuple(start for _, start in pairs))


def _with_base(trial: Trial, known: Mapping[str, Sequence[Trial]]) -> Trial:
    """Return a trial with the base of those whose backbones compete in it."""
    by_key = {one.key: one for stage in known.values() for one in stage}
    bases = set()
    for start in trial.starts:
        while start.init:
            start = by_key[start.init]  # noqa: PLW2901
        bases.add(start.key)
    return replace(trial, base=bases.pop()) if len(bases) == 1 else trial


def _untrainable(recipe: Recipe, stage: str, error: RequestError) -> Problem:
    where = recipe.where("stages", stage, "precision")
    return Problem(error.problem.what, where, error.problem.allowed, error.problem.fix)


def check_ranks(recipe: Recipe, trials: Sequence[Trial], ranks: int) -> None:
    """Refuse a number of ranks over which a trial's batches cannot be shared out.

    Args:
        recipe: gives file and line of its stages.
        trials: those that are to run.
        ranks: processes that share the training of each.

    Raises:
        RecipeError: with every stage whose batches do not fit.
    """
    problems = [
        _located(recipe, trial.recipe_stage, fault)
        for trial in trials
        for fault in trial.spec.rank_faults(ranks)
    ]
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))


def _located(recipe: Recipe, stage: str, fault: Fault) -> Problem:
    where = recipe.where("stages", stage, *fault.setting.split("."))
    return Problem(fault.what, where, fault.allowed, fault.fix)


def _twins(recipe: Recipe, trials: Sequence[Trial]) -> list[Problem]:
    """Return the trials that are the same one under two names, other than as members of groups."""
    problems, first = [], dict[str, Trial]()
    for trial in trials:
        twin = first.setdefault(trial.key, trial)
        if twin is not trial and not _is_shared(twin, trial, recipe.groups):
            what = f"{twin.name} and {trial.name} are the same trial: nothing that counts differs"
            where = recipe.where("stages", trial.recipe_stage)
            problems.append(Problem(what, where, fix="drop one"))
    return problems


def _is_shared(one: Trial, other: Trial, groups: Collection[str]) -> bool:
    """Return whether several members of groups have a trial: that of a source of two targets."""
    if one.axes == other.axes:
        return False
    left, right = (
        {name: value for name, value in trial.axes.items() if name not in groups}
        for trial in (one, other)
    )
    return one.stage == other.stage and left == right


def unique(trials: Iterable[Trial]) -> list[Trial]:
    """Return each trial under the first of its names: what there is to run."""
    first = dict[str, Trial]()
    for trial in trials:
        first.setdefault(trial.key, trial)
    return list(first.values())


def _starts(
    parents: Sequence[Trial], axes: Mapping[str, Axis], groups: Collection[str]
) -> list[Trial]:
    """Return the parents of a point: those of its own seed and members, where both have them."""
    if "seed" in axes and any("seed" in parent.axes for parent in parents):
        parents = [parent for parent in parents if parent.axes["seed"] == axes["seed"]]
    own = {name: axes[name] for name in groups if name in axes}
    return [
        parent
        for parent in parents
        if all(parent.axes.get(name, member) == member for name, member in own.items())
    ]


def _no_such_seed(recipe: Recipe, stage: str, spec: StageSpec) -> Problem:
    what = f"{spec.parent} has no trial with seed {spec.seed} to start from"
    where = recipe.where("stages", stage, "sweep", "seed")
    return Problem(what, where, fix=f"sweep {spec.parent} over the same seeds, or over none")


def _inherited(parent: Trial, axes: Mapping[str, Axis], groups: Collection[str]) -> dict[str, Axis]:
    """Return the parent's axes as its child has them; groups keep their names."""
    return {
        name if name in parent.inherited or name in groups else f"{parent.stage}.{name}": value
        for name, value in parent.axes.items()
        if not (name in axes and (name == "seed" or name in groups))
    }


def _trial(
    recipe: Recipe,
    facts: Facts,
    stage: str,
    axes: Mapping[str, Axis],
    spec: StageSpec,
    parent: Trial | None,
    *,
    is_candidate: bool = False,
    candidates: tuple[Trial, ...] = (),
    compared: Sequence[Trial] = (),
) -> Trial:
    used = {read.split.split("/")[0] for read in spec.reads()}
    datasets = {alias: facts.datasets[alias] for alias in sorted(used) if alias in facts.datasets}
    settings = spec.result_fields_on(facts.datasets)
    # A key has the trials, not what a recipe calls their stages.
    for names in ("init", "candidates", *(("of",) if spec.compared else ())):
        settings.pop(names, None)
    document: dict[str, Any] = {
        "format": 1,
        "stage_version": spec.VERSION,
        "spec": settings,
        "backbone": recipe.backbone,
        "image": result_fields(recipe.image),
        "init": parent.key if parent else "",
        "datasets": {alias: dataset.digest for alias, dataset in datasets.items()},
        "weights": facts.weights[spec.imported] if spec.imported else "",
    }
    if subsets := _subsets(spec, datasets):
        document["subsets"] = subsets
    if plugged := _plugged(recipe, spec):
        document["plugins"] = plugged
    if is_candidate:
        document["role"] = "candidate"  # it leaves what one that reads test does not
    if candidates:
        if not spec.tries():
            document["spec"] = _shared([one.document["spec"] for one in candidates])
        document["candidates"] = [one.key for one in candidates]
    if compared:  # by name: a result's rows have these
        document["compared"] = {one.name: one.key for one in compared}
    # Written and read back, so that a stored document equals this one (tuples become lists).
    document = json.loads(json.dumps(document))
    inherited = _inherited(parent, axes, recipe.groups) if parent else {}
    axes = {**axes, **inherited}
    text = axes_text(axes)
    return Trial(
        name=f"{stage}/{text}" if text else stage,
        stage=stage,
        axes=axes,
        inherited=frozenset(inherited),
        spec=spec,
        init=parent.key if parent else "",
        datasets=datasets,
        backbone=recipe.backbone,
        document=document,
        key=key_of(document),
        device=facts.device.kind,
        is_candidate=is_candidate,
        candidates=candidates,
        compared={one.name: one.key for one in compared},
    )


def _shared(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that all of several have."""
    shared: dict[str, Any] = {}
    for name in settings[0]:
        values = [one.get(name) for one in settings]
        if all(value == values[0] for value in values):
            shared[name] = values[0]
        elif all(isinstance(value, Mapping) for value in values):
            shared[name] = _shared([value or {} for value in values])
    return shared


def _subsets(spec: StageSpec, datasets: Mapping[str, DatasetFacts]) -> dict[str, str]:
    """Return the digest of each subset that a spec names."""
    references = [read.split.partition("/") for read in spec.reads()]
    return {
        f"{alias}/{split}": datasets[alias].subsets[split]
        for alias, _, split in references
        if split in datasets[alias].subsets
    }


def _plugged(recipe: Recipe, spec: StageSpec) -> dict[str, dict[str, str]]:
    """Return whose method and backbone a spec uses, where they are other distributions'."""
    named: dict[Kind, str] = {"method": getattr(spec, "method", ""), "backbone": recipe.backbone}
    used = {kind: recipe.plugins.get((kind, name)) for kind, name in named.items()}
    return {kind: plugin.origin for kind, plugin in used.items() if plugin}
