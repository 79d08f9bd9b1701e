"""What evaluations share once their models have answered: the choice on val, and all metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from hpt_dist.evals import bootstrap, metrics
from hpt_dist.evals.features import Labelled, Result, require_finite
from hpt_dist.evals.metrics import Floats, Labels, log_odds
from hpt_dist.recipe.metrics import METRICS

C = TypeVar("C")


def value(metric: str, scores: Floats, split: Labelled) -> float:
    """Return a metric of scores [n, num_classes], log-odds, on a split."""
    return metrics.compute(metric, scores, split.labels.numpy())


def best(metric: str, by_candidate: Mapping[C, float]) -> C:
    """Return the candidate with the best value of a metric: of equally good ones the first."""
    sign = -1 if METRICS[metric].lower_is_better else 1
    return max(by_candidate, key=lambda candidate: sign * by_candidate[candidate])


def of_head(head: nn.Linear, split: Labelled) -> Floats:
    """Return the log-odds [n, num_classes] that a linear classifier gives a split.

    Raises:
        TrainingError: features are not finite.
    """
    features = split.features
    require_finite(features)
    return log_odds(head(features).numpy(), several=split.labels.ndim == 2)


def results(
    metric: str, scores: Mapping[str, Floats], splits: Mapping[str, Labelled | None]
) -> Result:
    """Return what an evaluation found with the model that val chose.

    Args:
        metric: that chose it; it stands first.
        scores: of the images of the splits that judge, log-odds [n, num_classes].
        splits: train, val and test; None for one that is not read.

    Returns:
        Each metric that the labels allow as "val/NAME" and "test/NAME", shares of 1; "metric";
        "excluded", for each split and metric the ids of the classes that it leaves out;
        "n_train", "n_val" and "n_test"; "scores"; "replicates" [draws] by the same names; and
        "intervals", [low, high] of those that vary. Those of one that is not read are left out.

    Raises:
        DataError: the metric cannot be computed.
    """
    found: Result = {"replicates": {}, "intervals": {}}
    excluded: dict[str, dict[str, list[int]]] = {}
    read = {name: split for name, split in splits.items() if split}
    for name, given in scores.items():
        labels, num_classes = read[name].labels.numpy(), given.shape[1]
        others = metrics.computable(labels, num_classes)
        values = {}
        for one in dict.fromkeys([metric, *others]):
            values[one] = metrics.compute(one, given, labels)
            if left_out := metrics.excluded(one, labels, num_classes):
                excluded.setdefault(name, {})[one] = left_out
        found |= {f"{name}/{one}": value for one, value in values.items()}
        replicates, intervals = over_images(name, values, given, labels)
        found["replicates"] |= replicates
        found["intervals"] |= intervals
    sizes = {f"n_{name}": len(split.labels) for name, split in read.items()}
    return {**found, "metric": metric, "excluded": excluded, **sizes, "scores": dict(scores)}


def over_images(
    split: str, values: Mapping[str, float], scores: Floats, labels: Labels
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the replicates of a split's metrics, and the intervals of those that vary.

    Args:
        split: its name; all names of metrics start with it: `test/auroc`.
        values: of all of its images, by metric.
        scores: log-odds [n, num_classes].
        labels: see `metrics.compute`.
    """
    drawn = bootstrap.replicates(list(values), scores, labels)
    intervals = {}
    for name, value in values.items():
        if ends := bootstrap.interval(value, drawn[name], len(labels)):
            intervals[f"{split}/{name}"] = list(ends)
    return {f"{split}/{name}": one.tolist() for name, one in drawn.items()}, intervals
