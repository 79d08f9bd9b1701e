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
from dataclasses import dataclass
from typing import Any

from hpt_dist.errors import Problem, RecipeError, RequestError, nearest
from hpt_dist.recipe import fractions
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.file import Recipe
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec
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

    @property
    def numerics(self) -> Numerics | None:
        """How it trains; None where nothing is trained step by step."""
        return self.spec.numerics

    @property
    def steps(self) -> int:
        """The optimizer steps of its training; 0 where nothing is trained step by step."""
        return self.spec.steps_on(self.datasets)

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return self.spec.images_on(self.datasets)


def key_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document in canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def make(recipe: Recipe, facts: Facts) -> tuple[Trial, ...]:
    """Return every trial of a recipe, parents before children.

    A stage runs for each point of its sweep and each trial of the stage it starts from: what the
    parent sweeps over becomes an axis of the child too, except that where both sweep over `seed`
    a child starts from the parent of its own seed.

    Raises:
        RecipeError: with every trial that cannot be fed from its datasets.
    """
    trials: dict[str, list[Trial]] = {}
    problems: list[Problem] = []
    for stage, points in recipe.stages.items():
        trials[stage] = []
        for point in points:
            problems += [p for p in _unfed(recipe, stage, point.spec, facts) if p not in problems]
            try:
                spec = point.spec.decided(recipe.backbone, facts.device)
            except RequestError as error:
                problems.append(_untrainable(recipe, stage, error))
                continue
            if not spec.parent:
                trials[stage].append(_trial(recipe, facts, stage, point.axes, spec, None))
                continue
            parents = _starts(trials[spec.parent], point.axes)
            if not parents and trials[spec.parent]:
                problems.append(_no_such_seed(recipe, stage, spec))
            for parent in parents:
                trials[stage].append(_trial(recipe, facts, stage, point.axes, spec, parent))
    every = tuple(trial for stage in trials.values() for trial in stage)
    problems += _twins(recipe, every)
    if problems:
        raise RecipeError(problems)
    return every


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
        _located(recipe, trial.stage, fault)
        for trial in trials
        for fault in trial.spec.rank_faults(ranks)
    ]
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))


def _located(recipe: Recipe, stage: str, fault: Fault) -> Problem:
    where = recipe.where("stages", stage, *fault.setting.split("."))
    return Problem(fault.what, where, fault.allowed, fault.fix)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what changed between two documents, as `path: before -> after` lines."""
    old, new = _flat(before), _flat(after)
    return [
        f"{path}: {_short(old.get(path))} -> {_short(new.get(path))}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _twins(recipe: Recipe, trials: Sequence[Trial]) -> list[Problem]:
    """Return the trials that are the same one under two names."""
    problems, first = [], dict[str, Trial]()
    for trial in trials:
        twin = first.setdefault(trial.key, trial)
        if twin is not trial:
            what = f"{twin.name} and {trial.name} are the same trial: nothing that counts differs"
            problems.append(Problem(what, recipe.where("stages", trial.stage), fix="drop one"))
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
) -> Trial:
    used = {read.split.split("/")[0] for read in spec.reads()}
    datasets = {alias: facts.datasets[alias] for alias in sorted(used) if alias in facts.datasets}
    settings = result_fields(spec)
    settings.pop("init", None)
    document = {
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
    # Written and read back, so that a stored document equals this one (tuples become lists).
    document = json.loads(json.dumps(document))
    inherited = _inherited(parent, axes) if parent else {}
    axes = {**axes, **inherited}
    text = ",".join(f"{axis}={_word(value)}" for axis, value in axes.items())
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
    )


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


def _unfed(recipe: Recipe, stage: str, spec: StageSpec, facts: Facts) -> list[Problem]:
    """Return what a stage asks of its datasets that they do not hold."""
    faults = [fault for read in spec.reads() if (fault := _missing(spec, read, facts))]
    faults = faults or spec.faults(facts.datasets)
    faults += spec.backbone_faults(recipe.backbone)
    return [_located(recipe, stage, fault) for fault in dict.fromkeys(faults)]


def _missing(spec: StageSpec, read: Read, facts: Facts) -> Fault | None:
    """Return why a stage cannot read a split; None where it can."""
    alias, _, split = read.split.partition("/")
    dataset = facts.datasets[alias]
    if not split:
        return Fault(read.setting, f"{read.split} names no split", f"{alias}/SPLIT")
    if read.labelled and dataset.label == "none":
        what = f"{dataset.name} has no labels, which {spec.kind} needs here"
        return Fault(read.setting, what, fix="for images without labels see the recipe unlabeled")
    if fault := _no_share(read, dataset, split) or _no_such_split(read.setting, dataset, split):
        return fault
    if not read.labelled:
        return None
    whole = split.partition("@")[0]
    if dataset.label == "multi":
        if read.several:
            return None
        what = f"{dataset.name} has several labels an image; {spec.kind} needs one"
        fix = "knn, linear and finetune read several labels, and pretraining needs none"
        return Fault(read.setting, what, fix=fix)
    if sum(dataset.class_counts.get(whole, ())) < dataset.images[whole]:
        return Fault(read.setting, f"{dataset.name}/{whole} has images without a label")
    return None


def _no_share(read: Read, dataset: DatasetFacts, split: str) -> Fault | None:
    """Return why a split@10% is none; None where it is, and where no share is named."""
    whole, _, part = split.partition("@")
    if not fractions.is_fraction(part):
        return None
    try:
        fractions.percent(part)
    except ValueError as error:
        return Fault(read.setting, f"{read.split}: {error}")
    return _no_such_split(read.setting, dataset, whole)


def _no_such_split(setting: str, dataset: DatasetFacts, split: str) -> Fault | None:
    if dataset.images.get(split):
        return None
    known = [name for name, images in dataset.images.items() if images]
    if dataset.stand_in and "@" in split:
        what = f"the stand-in for {dataset.name} does not say how many images {split} has"
        return Fault(setting, what, ", ".join(known), f"add {split}: N to its images")
    what = f"{dataset.name} has no split {split}"
    return Fault(setting, what, ", ".join(known), nearest(split, known))


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}{key}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def _short(value: Any) -> str:
    text = _word(value)
    return f"{text[:12]}..." if len(text) > 40 else text


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
