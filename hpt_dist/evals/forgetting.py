"""Did training forget what its start could do? A difference with its interval, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hpt_dist.evals.evidence import StageVerdict, Verdict, scale_of
from hpt_dist.recipe.metrics import METRICS


@dataclass(frozen=True)
class Forgetting:
    """What training did to a dataset that its start is good at, judged on validation images.

    Args:
        data: the dataset, by the recipe's name.
        says: all of it in words.
        verdict: "harmed" where it is forgotten; "none" where nothing was measured.
        metric: that was measured; this and what follows is None where nothing was.
        before: the metric of the weights that training started from.
        after: the metric of the weights that it leaves.
        mean: the difference, on the metric's printed scale.
        half_width: of its 95 % interval, paired by image.
        num_images: on which both were measured.
    """

    data: str
    says: str
    verdict: Verdict = "none"
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    mean: float | None = None
    half_width: float | None = None
    num_images: int | None = None


def of_kept_base(data: str) -> Forgetting:
    """Return that nothing is forgotten where a stage leaves the weights that it started from."""
    return Forgetting(data, f"kept the base: nothing of {data} is forgotten")


def judge(data: str, metric: str, before: float, after: float, found: StageVerdict) -> Forgetting:
    """Return the words for a difference.

    Args:
        data: see `Forgetting`.
        metric: likewise.
        before: likewise.
        after: likewise.
        found: the difference of the weights that are left from the start, one look.
    """
    scale = scale_of(metric)
    title = METRICS[metric.rpartition("/")[2]].title
    change = scale.plus_minus(found.mean, found.half_width)
    if found.verdict == "harmed":
        lost = f"{scale.text(abs(found.mean))} ± {scale.text(found.half_width)}{scale.step}"
        says = f"forgot {lost} of {data}"
    elif found.verdict == "helped":
        says = f"forgot nothing of {data}, which is better: {change}"
    else:
        says = f"no evidence of forgetting: {change} on {data}"
    says += f" ({title}, {found.num_images:,} validation images)"
    return Forgetting(
        *(data, says, found.verdict, metric, before, after),
        *(found.mean, found.half_width, found.num_images),
    )
