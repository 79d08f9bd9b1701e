"""A recipe becomes a graph of trials, each under the key of what determines its result. Pure.

The key is the SHA-256 of a trial's document: its resolved settings, the keys of its parents, the
digests of its datasets, the fingerprint of imported weights, the version of the stage's code and
those of other distributions whose method or backbone it uses.
Where things lie, which machine runs them and how often states are saved are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpt_dist.errors import Problem, RecipeError, RequestError
from hpt_dist.recipe import feeding
from hpt_dist.recipe.differences import word
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.file import Point, Recipe
from hpt_dist.recipe.kinds.stage import CANDIDATES, Fault, StageSpec
from hpt_dist.recipe.numerics import DeviceKind, Numerics
from hpt_dist.recipe.plugins import Kind
from hpt_dist.recipe.settings import result_fields
from hpt_dist.recipe.sweeps import Axis


@dataclass(frozen=True)
class Trial:
    """One concrete point of one stage.

    Args:
        name: `stage/axis=value,...`, for people.
        stage: name of its stage.
        axes: the swept settings, those inherited from parents included.
        inherited: the names of the inherited axes, `stage.axis`.
        spec: its resolved settings; `init` names the parent stage.
        init: key of the trial whose weights it starts from; empty for imports.
        datasets: the datasets it reads, by the recipe's names.
        backbone: model name.
        document: what is hashed.
        key: SHA-256 of the document.
        device: what it computes on; a process that has no such device refuses it.
        is_candidate: whether validation chooses it, or another: it reads no test.
        candidates: those that it chooses from, in the order that breaks ties; its spec is that of
            the first. Empty where it computes its own result.
        compared: keys by name of the finished trials that it looks at; see `StageSpec.compared`.
        starts: those whose backbones its candidates judge, in their order; empty where all of them
            start from the same one, as it does itself.
        base: key of the trial that all of `starts` go back to; empty where there is none.
    """

    name: str
    stage: str
    axes: Mapping[str, Axis]
    inherited: frozenset[str]
    spec: StageSpec
    init: str
    datasets: Mapping[str, DatasetFacts]
    backbone: str
    document: Mapping[str, Any]
    key: str
    device: DeviceKind = "cpu"
    is_candidate: bool = False
    candidates: tuple[Trial, ...] = ()
    compared: Mapping[str, str] = field(default_factory=dict)
    starts: tuple[Trial, ...] = ()
    base: str = ""

    @property
    def recipe_stage(self) -> str:
        """The stage of the recipe that it belongs to, which a candidate's own name is not."""
        return self.stage.removesuffix(CANDIDATES)

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the trials that must be done before it starts."""
        started = (self.init,) if self.init else ()
        return (*started, *(one.key for one in self.candidates), *self.compared.values())

    @property
    def choices(self) -> tuple[str, ...]:
        """What tells its candidates apart, in words."""
        return tuple(
            axes_text({name: value for name, value in one.axes.items() if name not in self.axes})
            for one in self.candidates
        )

    @property
    def numerics(self) -> Numerics | None:
        """How it trains; None where nothing is trained step by step."""
        return self.spec.numerics

    @property
    def steps(self) -> int:
        """The optimizer steps of its training; 0 where nothing is trained step by step."""
        return 0 if self.candidates else self.spec.steps_on(self.datasets)

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return 0 if self.candidates else self.spec.images_on(self.datasets)


def key_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document in canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def make(recipe: Recipe, facts: Facts) -> tuple[Trial, ...]:
    """Return every trial of a recipe, parents before children.

    A stage runs for each point of its sweep and each trial of the stage it starts from: what the
    parent sweeps over becomes an axis of the child too, except that where both sweep over `seed`
    a child starts from the parent of its own seed. Where validation chooses, each of these is
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
                parents = [*_starts(trials[parent], found.axes)]
                if not parents and trials[parent]:
                    problems.append(_no_such_seed(recipe, stage, found.spec))
            starts = {s: _starts(its, found.axes) for s, its in trials.items()}
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
    unique = _without_shared(every)
    problems += _twins(recipe, unique)
    if problems:
        raise RecipeError(problems)
    return unique


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
    """Return the trials that are the same one under two names."""
    problems, first = [], dict[str, Trial]()
    for trial in trials:
        twin = first.setdefault(trial.key, trial)
        if twin is not trial:
            what = f"{twin.name} and {trial.name} are the same trial: nothing that counts differs"
            where = recipe.where("stages", trial.recipe_stage)
            problems.append(Problem(what, where, fix="drop one"))
    return problems


def _starts(parents: Sequence[Trial], axes: Mapping[str, Axis]) -> list[Trial]:
    """Return the parents of a point: those of its own seed where both sweep over seeds."""
    if "seed" in axes and any("seed" in parent.axes for parent in parents):
        return [parent for parent in parents if parent.axes["seed"] == axes["seed"]]
    return list(parents)


def _no_such_seed(recipe: Recipe, stage: str, spec: StageSpec) -> Problem:
    what = f"{spec.parent} has no trial with seed {spec.seed} to start from"
    where = recipe.where("stages", stage, "sweep", "seed")
    return Problem(what, where, fix=f"sweep {spec.parent} over the same seeds, or over none")


def _inherited(parent: Trial, axes: Mapping[str, Axis]) -> dict[str, Axis]:
    return {
        name if name in parent.inherited else f"{parent.stage}.{name}": value
        for name, value in parent.axes.items()
        if not (name == "seed" and "seed" in axes)
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
    settings = result_fields(spec)
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
    inherited = _inherited(parent, axes) if parent else {}
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


def axes_text(axes: Mapping[str, Axis]) -> str:
    """Return swept settings as they stand in a trial's name."""
    return ",".join(f"{axis}={word(value)}" for axis, value in axes.items())


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
