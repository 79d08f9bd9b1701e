"""What a recommended recipe costs on this machine, by the rates that the look measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hpt_dist.advice import evidence, rules
from hpt_dist.advice.facts import Dataset, Facts
from hpt_dist.advice.rules import Choices

_RATES = 3  # learning rates of a linear evaluation
_PASSES = 6  # operations a weight and an image: forward and backward


@dataclass(frozen=True)
class Work:
    """What the trials of a stage do.

    Args:
        stage: its name.
        trials: how many.
        views: image views that training feeds to the network, of all.
        evaluated: images whose features are computed, of all.
        flops: of linear classifiers, of all.
    """

    stage: str
    trials: int
    views: int
    evaluated: int
    flops: float = 0.0


def work(choices: Choices, facts: Facts) -> list[Work]:
    """Return what each stage of the recipe does; as `recipe.plan` would count it."""
    target = facts.target
    found = [Work("base", max(1, len(choices.rivals)), 0, 0)]
    if choices.rivals:
        found.append(_judging("base", len(choices.rivals), choices, facts))
    candidates = choices.sources.value
    found += [
        _training(f"source {one.dataset.alias}", one.dataset, choices, target) for one in candidates
    ]
    if len(candidates) > 1:
        found.append(_judging("source", 1 + len(candidates), choices, facts))
    found += [_training(arm, target, choices, target) for arm in arms(choices)]
    if target.judges == "test":
        inits = 1 + bool(candidates) + len(arms(choices))
        found.append(_judging("features", inits * choices.seeds, choices, facts))
    return found


def arms(choices: Choices) -> list[str]:
    """Return the stages that pretrain on the target; the first is the recommended one."""
    more = {"hpt_direct": choices.direct, "hpt_bn": choices.few_images_arm}
    return ["hpt", *(name for name, is_in in more.items() if is_in)]


def seconds(choices: Choices, facts: Facts) -> float:
    """Return how long all trials take one after the other."""
    per_second = choices.base.value.images_per_second
    flops = evidence.CPU_FLOPS if facts.device == "cpu" else evidence.GPU_FLOPS
    return sum(
        one.views / facts.speed.views_per_second
        + one.evaluated / per_second
        + one.flops / flops
        + one.trials * evidence.TRIAL_SECONDS
        for one in work(choices, facts)
    )


def _training(stage: str, data: Dataset, choices: Choices, target: Dataset) -> Work:
    """Return the work of pretraining on a dataset; the target judges, or else the data."""
    steps = choices.steps.value
    watched = (
        [target.images["train"], target.images["val"]]
        if target.judges != "none"
        else [data.images[data.pool[0]]]
    )
    looks = 1 + -(-steps // rules.every(steps))
    images = sum(min(evidence.WATCHED, count) for count in watched)
    return Work(stage, 1, 2 * steps * choices.batch.value, looks * images)


def _judging(stage: str, trials: int, choices: Choices, facts: Facts) -> Work:
    """Return the work of linear evaluations."""
    target = facts.target
    learned = max(1, round(target.images["train"] * choices.share.value / 100))
    each = learned * choices.views + target.images["val"] + target.images["test"]
    seen = _RATES * evidence.LINEAR_STEPS * min(evidence.LINEAR_BATCH, learned)
    if choices.seeds == 1:
        seen = evidence.LBFGS_PASSES * learned
    flops = float(_PASSES * seen * choices.base.value.dim * target.classes)
    return Work(stage, trials, 0, trials * each, trials * flops)
