"""A recommendation that fits into some hours: what is left out, and how many steps remain. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hpt_dist.advice import cost, evidence, rules
from hpt_dist.advice.facts import Facts
from hpt_dist.advice.rules import Choices, Chosen
from hpt_dist.errors import RequestError

_HOUR = 3600.0

# Each returns fewer choices and what was left out; nothing where there is nothing to leave out.
Cut = Callable[[Choices, Facts], tuple[Choices, str] | None]


def fitted(choices: Choices, facts: Facts, hours: float | None) -> Choices:
    """Return choices that fit into some hours, evaluations included.

    As many steps as fit, up to what HPT recommends at any size. Where even a short training does
    not fit, comparisons are left out first, then seeds, copies and images of the evaluation.

    Args:
        choices: without a limit.
        facts: with the rates of this machine.
        hours: to spend; None leaves the choices as they are.

    Raises:
        RequestError: even the least does not fit.
    """
    if hours is None:
        return choices
    limit = hours * _HOUR * evidence.MARGIN
    enough = min(choices.steps.value, evidence.CPU_STEPS.value)
    cuts = list(_CUTS)
    left = choices
    while _most_steps(left, facts, limit) < enough and cuts:
        if found := cuts.pop(0)(left, facts):
            left = replace(found[0], cuts=(*left.cuts, found[1]))
    steps = _most_steps(left, facts, limit)
    if steps < evidence.LEAST_STEPS.value:
        least = _with_steps(left, evidence.LEAST_STEPS.value, "")
        needed = cost.seconds(least, facts) / _HOUR / evidence.MARGIN
        raise RequestError(
            f"{hours:g} hours do not suffice here: {evidence.LEAST_STEPS.value} steps and their "
            f"evaluation take about {needed:.2f}{_busy(facts)}",
            where="--hours",
            allowed=f"{_rounded_up(needed):g} or more",
            fix="give more hours, or plan for a GPU or a cluster",
        )
    if steps >= evidence.STEPS.value:
        return _with_steps(left, evidence.STEPS.value, evidence.STEPS.source)
    why = f"what {hours:g} hours allow here; {evidence.STEPS.source}"
    return _with_steps(left, steps, why)


def _most_steps(choices: Choices, facts: Facts, limit: float) -> int:
    """Return the steps with which choices take so many seconds; 0 or less if none do.

    The seconds are linear in the steps, since the number of looks is always the same.
    """
    many = evidence.STEPS.value
    few = many // 2
    more, less = (cost.seconds(_with_steps(choices, one, ""), facts) for one in (many, few))
    each = (more - less) / (many - few)
    steps = min(many, int((limit - (less - few * each)) / each))
    return steps if steps < 100 else steps // 10 * 10


def _with_steps(choices: Choices, steps: int, why: str) -> Choices:
    return replace(choices, steps=Chosen(steps, why))


def _busy(facts: Facts) -> str:
    share = facts.speed.share
    if share >= evidence.BUSY:
        return ""
    return (
        f" (training got {100 * share:.0f} % of the cores while it was measured: others are busy)"
    )


def _rounded_up(hours: float) -> float:
    return -(-hours * 100 // 1) / 100


def _without_few_images_arm(choices: Choices, _: Facts) -> tuple[Choices, str] | None:
    if not choices.few_images_arm:
        return None
    return replace(choices, few_images_arm=False), "hpt_bn: batch norm alone is not trained too"


def _without_search(choices: Choices, _: Facts) -> tuple[Choices, str] | None:
    found = choices.sources.value
    if len(found) < 2:
        return None
    nearest = Chosen(found[:1], "the nearest of those that the look did not tell apart")
    names = " and ".join(one.dataset.alias for one in found[1:])
    return replace(choices, sources=nearest), f"the search among sources: not {names}"


def _without_rivals(choices: Choices, _: Facts) -> tuple[Choices, str] | None:
    if not choices.rivals:
        return None
    return replace(choices, rivals=()), "the choice among bases"


def _without_direct(choices: Choices, _: Facts) -> tuple[Choices, str] | None:
    if not choices.direct:
        return None
    return replace(choices, direct=False), "hpt_direct: what the source adds is not measured"


def _one_evaluation(choices: Choices, facts: Facts) -> tuple[Choices, str] | None:
    if choices.seeds == 1 or facts.target.judges != "test":
        return None
    one = replace(choices, seeds=1, views=1)
    return one, (
        f"{choices.seeds} seeds and {choices.views} augmented copies in the evaluation: logistic "
        "regression, judged by the images alone"
    )


def _smaller_share(choices: Choices, facts: Facts) -> tuple[Choices, str] | None:
    if facts.target.judges != "test":
        return None
    images = facts.target.images["train"]
    share = rules.per_cent(evidence.LEAST_EVALUATED, images)
    if share >= choices.share.value:
        return None
    why = "what the hours allow; val and test are whole"
    fewer = replace(choices, share=Chosen(share, why))
    return fewer, f"training images of the evaluation: {share} %, not {choices.share.value} %"


_CUTS: tuple[Cut, ...] = (
    _without_few_images_arm,
    _without_search,
    _without_rivals,
    _without_direct,
    _one_evaluation,
    _smaller_share,
)
