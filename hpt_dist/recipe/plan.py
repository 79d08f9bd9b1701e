"""A recipe becomes a graph of trials, each under the key of what determines its result. Pure.

The key is the SHA-256 of a trial's document: its resolved settings, the keys of its parents, the
digests of its datasets, the fingerprint of imported weights and the version of the stage's code.
Where things lie, which machine runs them and how often states are saved are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpt_dist.errors import Problem, RecipeError, RequestError, nearest
from hpt_dist.recipe.file import Axis, Recipe, data_of
from hpt_dist.recipe.numerics import THIS_CPU, Device, DeviceKind, Numerics, decide
from hpt_dist.recipe.specs import (
    Import,
    Knn,
    Linear,
    Mme,
    Pretrain,
    StageKind,
    Trained,
    result_fields,
)

# Raised by hand when a kind's code gives another result for the same settings.
STAGE_VERSIONS = {"import": 1, "pretrain": 3, "knn": 2, "linear": 2, "mme": 3}


@dataclass(frozen=True)
class Dataset:
    """What a plan needs to know of a dataset.

    Args:
        name: its name in its store, such as openmoji/line.
        store: URI of the store that holds it; empty for the recipe's own.
        digest: of its manifest.
        classes: how many classes; 0 without labels.
        label: single, multi or none; see `manifest.Manifest`.
        class_names: a digest of the names of its classes in order; empty if unknown.
        class_counts: images of each class, by split.
        images: images by split, and by `split@subset` of the subsets that the recipe names.
        stand_in: whether it is only assumed, so that nothing can run on it.
        subsets: digests of the subsets that the recipe names, by `split@subset`.
    """

    name: str
    store: str
    digest: str
    classes: int
    images: Mapping[str, int]
    class_counts: Mapping[str, Sequence[int]]
    label: str = "single"
    class_names: str = ""
    stand_in: bool = False
    subsets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What the world outside says.

    Args:
        datasets: by the recipe's names.
        weights: fingerprints by their source.
        device: where the trials will compute.
    """

    datasets: Mapping[str, Dataset]
    weights: Mapping[str, str]
    device: Device = THIS_CPU


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
    spec: StageKind
    init: str
    datasets: Mapping[str, Dataset]
    backbone: str
    document: Mapping[str, Any]
    key: str
    device: DeviceKind = "cpu"

    @property
    def numerics(self) -> Numerics | None:
        """How it trains; None where nothing is trained step by step."""
        return numerics_of(self.spec) if isinstance(self.spec, Trained) else None

    @property
    def steps(self) -> int:
        """The optimizer steps of its training; 0 where nothing is trained step by step."""
        return int(getattr(self.spec, "steps", 0))

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return images_of(self.spec)


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
                spec = _decided(point.spec, recipe.backbone, facts.device)
            except RequestError as error:
                problems.append(_untrainable(recipe, stage, error))
                continue
            if isinstance(spec, Import):
                trials[stage].append(_trial(recipe, facts, stage, point.axes, spec, None))
                continue
            parents = _starts(trials[spec.init], point.axes)
            if not parents and trials[spec.init]:
                problems.append(_no_such_seed(recipe, stage, spec))
            for parent in parents:
                trials[stage].append(_trial(recipe, facts, stage, point.axes, spec, parent))
    every = tuple(trial for stage in trials.values() for trial in stage)
    problems += _twins(recipe, every)
    if problems:
        raise RecipeError(problems)
    return every


def numerics_of(spec: Trained) -> Numerics:
    """Return how a stage of a plan trains.

    Raises:
        ValueError: its spec is one that a recipe was read into, in which nothing is decided yet.
    """
    if spec.precision == "auto" or spec.memory_format == "auto":
        raise ValueError("the numerics of this spec are not decided yet")
    return Numerics(spec.precision, spec.memory_format)


def _decided(spec: StageKind, backbone: str, device: Device) -> StageKind:
    """Return a spec with its numerics decided: its document then says how it computes."""
    if not isinstance(spec, Trained):
        return spec
    chosen = decide(spec.precision, spec.memory_format, backbone, device)
    decided = {"precision": chosen.precision, "memory_format": chosen.memory_format}
    return spec.model_copy(update=decided)


def _untrainable(recipe: Recipe, stage: str, error: RequestError) -> Problem:
    where = recipe.where("stages", stage, "precision")
    return Problem(error.problem.what, where, error.problem.allowed, error.problem.fix)


def images_of(spec: StageKind) -> int:
    """Return the number of image views that training feeds to the network."""
    if isinstance(spec, Pretrain):
        return 2 * spec.steps * spec.batch
    if isinstance(spec, Mme):
        unlabelled = 0 if spec.objective == "s+t" else spec.batch_unlabelled
        return spec.steps * (2 * spec.batch_labelled + unlabelled)
    return 0


def check_ranks(recipe: Recipe, trials: Sequence[Trial], ranks: int) -> None:
    """Refuse a number of ranks over which a trial's batches cannot be shared out.

    Args:
        recipe: says where its stages stand.
        trials: those that are to run.
        ranks: processes that share the training of each.

    Raises:
        RecipeError: with every stage whose batches do not fit.
    """
    problems: list[Problem] = []
    for trial in trials:
        for setting, images in _shared_batches(trial.spec):
            if images % ranks:
                what = f"a batch of {images} images cannot be shared out over {ranks} ranks"
                where = recipe.where("stages", trial.stage, setting)
                problems.append(Problem(what, where, fix=f"use ranks that divide {images}"))
        if problem := _bad_groups(recipe, trial, ranks):
            problems.append(problem)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))


def _shared_batches(spec: StageKind) -> list[tuple[str, int]]:
    if isinstance(spec, Pretrain):
        return [("batch", spec.batch)]
    if isinstance(spec, Mme):
        return [
            ("batch_labelled", spec.batch_labelled),
            ("batch_unlabelled", spec.batch_unlabelled),
        ]
    return []


def _bad_groups(recipe: Recipe, trial: Trial, ranks: int) -> Problem | None:
    """Return the problem of batch-norm groups that do not fit the ranks' shares of a batch."""
    spec = trial.spec
    if not isinstance(spec, Pretrain) or spec.batch % ranks or _groups_fit(spec, ranks):
        return None
    what = f"batch-norm groups of {spec.bn_group} do not fit the {spec.batch // ranks} images that "
    where = recipe.where("stages", trial.stage, "bn_group")
    fix = "use another number of ranks, or another bn_group"
    return Problem(f"{what}each rank has", where, fix=fix)


def _groups_fit(spec: Pretrain, ranks: int) -> bool:
    share, size = spec.batch // ranks, spec.bn_group or spec.batch
    if size == spec.batch:
        return True
    fits = size % share == 0 or share % size == 0
    # MoCo's keys are grouped across: every rank holds some samples of each group.
    return fits and (spec.method != "moco_v2" or share % (spec.batch // size) == 0)


def can_share(spec: StageKind, ranks: int) -> bool:
    """Return whether a trial's batches, and batch-norm groups, can be shared out over ranks."""
    if any(images % ranks for _, images in _shared_batches(spec)):
        return False
    return not isinstance(spec, Pretrain) or _groups_fit(spec, ranks)


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


def _no_such_seed(recipe: Recipe, stage: str, spec: StageKind) -> Problem:
    init = "" if isinstance(spec, Import) else spec.init
    what = f"{init} has no trial with seed {spec.seed} to start from"
    where = recipe.where("stages", stage, "sweep", "seed")
    return Problem(what, where, fix=f"sweep {init} over the same seeds, or over none")


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
    spec: StageKind,
    parent: Trial | None,
) -> Trial:
    used = {reference.split("/")[0] for _, reference in data_of(spec)}
    datasets = {alias: facts.datasets[alias] for alias in sorted(used) if alias in facts.datasets}
    settings = result_fields(spec)
    settings.pop("init", None)
    document = {
        "format": 1,
        "stage_version": STAGE_VERSIONS[spec.kind],
        "spec": settings,
        "backbone": recipe.backbone,
        "image": result_fields(recipe.image),
        "init": parent.key if parent else "",
        "datasets": {alias: dataset.digest for alias, dataset in datasets.items()},
        "weights": facts.weights[spec.weights] if isinstance(spec, Import) else "",
    }
    if subsets := _subsets(spec, datasets):
        document["subsets"] = subsets
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


def _subsets(spec: StageKind, datasets: Mapping[str, Dataset]) -> dict[str, str]:
    """Return the digest of each subset that a spec names."""
    references = [reference.partition("/") for _, reference, _ in _needs(spec)]
    return {
        f"{alias}/{split}": datasets[alias].subsets[split]
        for alias, _, split in references
        if split in datasets[alias].subsets
    }


def _unfed(recipe: Recipe, stage: str, spec: StageKind, facts: Facts) -> list[Problem]:
    """Return what a stage asks of its datasets that they do not hold."""
    problems = []
    for setting, split_of, labelled in _needs(spec):
        alias, _, split = split_of.partition("/")
        where = recipe.where("stages", stage, setting)
        dataset = facts.datasets[alias]
        if not split:
            problems.append(Problem(f"{split_of} names no split", where, f"{alias}/SPLIT"))
        elif not dataset.images.get(split):
            known = [name for name, images in dataset.images.items() if images]
            what = f"{dataset.name} has no split {split}"
            fix = nearest(split, known)
            if dataset.stand_in and "@" in split:
                what = f"the stand-in for {dataset.name} does not say how many images {split} has"
                fix = f"add {split}: N to its images"
            problems.append(Problem(what, where, ", ".join(known), fix))
        elif labelled and "@" in split:
            what = f"{split_of} is a subset, which {spec.kind} cannot use"
            problems.append(Problem(what, where, fix="its labels are chosen by shots or labels"))
        elif labelled and dataset.label == "multi":
            what = f"{dataset.name} has several labels an image; {spec.kind} needs one"
            problems.append(Problem(what, where))
        elif labelled and sum(dataset.class_counts.get(split, ())) < dataset.images[split]:
            problems.append(Problem(f"{dataset.name}/{split} has images without a label", where))
    problems += _repeated(recipe, stage, spec, facts)
    return list(dict.fromkeys(problems)) or _too_small(recipe, stage, spec, facts)


def _repeated(recipe: Recipe, stage: str, spec: StageKind, facts: Facts) -> list[Problem]:
    """Return the splits that a stage names twice: each image comes once an epoch."""
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for reference in spec.data if isinstance(spec, Pretrain) else ():
        alias, _, split = reference.partition("/")
        place = facts.datasets[alias].digest, split.partition("@")[0]
        if place in seen:
            where = recipe.where("stages", stage, "data")
            problems.append(Problem(f"{seen[place]} and {reference} hold the same images", where))
        seen[place] = reference
    return problems


def _needs(spec: StageKind) -> list[tuple[str, str, bool]]:
    """Return (field, dataset/split, labels are needed) of everything a spec reads."""
    if isinstance(spec, Pretrain):
        read = [("data", reference, False) for reference in spec.data]
        if spec.monitor and spec.monitor.data:
            watched = spec.monitor.data
            read += [("monitor", f"{watched}/{split}", True) for split in ("train", "val")]
        return read
    if isinstance(spec, Knn | Linear):
        return [("data", f"{spec.data}/{split}", True) for split in ("train", "val", "test")]
    if isinstance(spec, Mme):
        target = [("target", f"{spec.target}/{split}", True) for split in ("train", "val", "test")]
        return [("source", spec.source, True), *target]
    return []


def _too_small(recipe: Recipe, stage: str, spec: StageKind, facts: Facts) -> list[Problem]:
    if isinstance(spec, Pretrain):
        references = [reference.partition("/") for reference in spec.data]
        images = sum(facts.datasets[alias].images[split] for alias, _, split in references)
        if images < spec.batch:
            where = recipe.where("stages", stage, "batch")
            return [
                Problem(f"a batch of {spec.batch} from {images} images", where, f"2 to {images}")
            ]
    if isinstance(spec, Mme):
        return _too_few_labels(recipe, stage, spec, facts)
    return []


def _too_few_labels(recipe: Recipe, stage: str, spec: Mme, facts: Facts) -> list[Problem]:
    target, source = facts.datasets[spec.target], facts.datasets[spec.source.split("/")[0]]
    problems = []
    names = {dataset.class_names for dataset in (source, target)} - {""}
    if source.classes != target.classes or len(names) > 1:
        where = recipe.where("stages", stage, "target")
        what = f"the classes of {source.name} and {target.name} differ"
        fix = "the domains must share their classes, in the same order"
        problems.append(Problem(what, where, fix=fix))
    least = min(target.class_counts["train"], default=0)
    where = recipe.where("stages", stage, "shots" if spec.shots else "labels")
    if spec.labels and not target.classes <= spec.labels <= target.images["train"]:
        allowed = f"{target.classes} (one of each class) to {target.images['train']}"
        problems.append(Problem(f"{spec.labels} labels of {target.name}", where, allowed))
    budget = spec.labels or (spec.shots or 0) * target.classes
    if spec.objective != "s+t" and budget == target.images["train"]:
        what = f"all {budget} images of {target.name}/train are labelled: none is left unlabelled"
        problems.append(Problem(what, where, fix="use fewer, or objective: s+t"))
    if spec.shots and spec.shots > least:
        what = f"{spec.shots} shots, but the rarest class of {target.name}/train has {least}"
        problems.append(
            Problem(what, where, f"1 to {least}", "or give the whole budget: labels: N")
        )
    return problems


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
