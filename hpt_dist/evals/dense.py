"""Dense features judged: patches by their nearest neighbours and by a linear classifier.

A patch is one position of a frozen backbone's last map of features. What is judged is whether the
features of a position tell what is there: the mean IoU over classes of the patches' classes, where
a class's IoU is the patches that are rightly given to it, over those that are given to it or are of
it (Everingham et al., IJCV 2015, section 3.4). Background is a class like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpt_dist.errors import DataError
from hpt_dist.evals import bootstrap, knn, logistic
from hpt_dist.evals.dense_labels import IGNORED
from hpt_dist.evals.features import Labelled, require_finite

Floats = NDArray[np.float64]
# Features [p, d] -> by candidate the classes int64 [p] of patches.
Answers = Callable[[Tensor], Mapping[Any, Tensor]]

HEADS = {"linear": "miou", "knn": "knn_miou"}
_DECIMALS = 9


class Patches(NamedTuple):
    """The patches of some images.

    Args:
        features: float32 [b, p, d].
        labels: int64 [b, p]: 0 for background, else a class id + 1; -1 is not known.
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Counts:
    """How many patches of each image are answered rightly, by class.

    Args:
        right: int64 [n, classes], given to a class and of it.
        either: int64 [n, classes], given to a class or of it.
        there: int64 [n, classes], of a class.
    """

    right: NDArray[np.int64]
    either: NDArray[np.int64]
    there: NDArray[np.int64]

    def ious(self) -> list[float | None]:
        """Return the IoU of each class, a share of 1; None for a class without a patch."""
        right, either, there = (one.sum(axis=0) for one in (self.right, self.either, self.there))
        shares = right / np.maximum(either, 1)
        return [float(s) if n else None for s, n in zip(shares, there, strict=True)]

    def mean(self) -> float:
        """Return the mean IoU over the classes that have a patch.

        Raises:
            DataError: no patch has a class.
        """
        counted = [one for one in self.ious() if one is not None]
        if not counted:
            raise DataError("no patch of these images has a class that is known")
        return float(np.mean(counted))

    def replicates(self) -> Floats:
        """Return the mean IoU of resampled images, [draws]; NaN is a draw without a class."""
        images, classes = self.right.shape
        blocks = []
        for weights in bootstrap.counts(images, bootstrap.draws_for(images, classes)):
            right, either, there = (
                one.T.astype(np.float64) @ weights for one in (self.right, self.either, self.there)
            )
            shares = np.where(there > 0, right / np.maximum(either, 1), 0).sum(axis=0)
            number = (there > 0).sum(axis=0)
            blocks.append(np.where(number > 0, shares / np.maximum(number, 1), np.nan))
        return np.concatenate(blocks).round(_DECIMALS)


def evaluate(
    train: Labelled,
    val: Callable[[], Iterable[Patches]],
    test: Callable[[], Iterable[Patches]] | None,
    *,
    classes: Sequence[str],
    l2: Sequence[float],
    k: Sequence[int],
    temperature: float,
) -> dict[str, Any]:
    """Return the mean IoU of a linear classifier and of nearest neighbours.

    Val chooses their settings: of equally good ones the largest L2 weight and the smallest k.

    Args:
        train: the patches that are learned from, features [n, d] and labels [n], all of them known.
        val: yields the patches of the images of val; it chooses.
        test: yields those of test, which are read once; None where they are not to be read.
        classes: names in the order of the labels, background first.
        l2: candidates, see `logistic.fit`.
        k: candidates, see `knn.vote`.
        temperature: see `knn.vote`.

    Returns:
        "val/miou", "test/miou", "val/knn_miou" and "test/knn_miou", shares of 1; "metric";
        "selected" {"l2", "k"}; "val/miou_by_l2" and "val/knn_miou_by_k"; "iou" of each class by
        split and head; "excluded", the classes without a patch by split and metric;
        "not_converged";
        "replicates" and "intervals", as of `answers.results`; "n_train" patches, "n_val" and
        "n_test" images.

    Raises:
        TrainingError: features are not finite.
        DataError: no patch of a split has a class that is known.
    """
    require_finite(train.features)
    num_classes = len(classes)
    scaling = logistic.scaling_of(train.features)
    models = logistic.fit(scaling(train.features), train.labels, num_classes=num_classes, l2=l2)
    heads = {weight: scaling.head(model) for weight, model in models.items()}
    near = partial(_nearest, train, num_classes=num_classes, temperature=temperature)
    tried: list[Answers] = [partial(_linear, heads), partial(near, k=sorted(set(k)))]
    by_l2, by_k = count(val(), tried, num_classes)
    best_l2 = max(by_l2, key=lambda one: (by_l2[one].mean(), one))
    best_k = max(by_k, key=lambda one: (by_k[one].mean(), -one))
    counts = {"val/miou": by_l2[best_l2], "val/knn_miou": by_k[best_k]}
    if test is not None:
        chosen: list[Answers] = [
            partial(_linear, {best_l2: heads[best_l2]}),
            partial(near, k=[best_k]),
        ]
        at_l2, at_k = count(test(), chosen, num_classes)
        counts |= {"test/miou": at_l2[best_l2], "test/knn_miou": at_k[best_k]}
    return {
        **_results(counts, classes),
        "metric": HEADS["linear"],
        "selected": {"l2": best_l2, "k": best_k},
        "val/miou_by_l2": {f"{one:g}": by_l2[one].mean() for one in l2},
        "val/knn_miou_by_k": {str(one): by_k[one].mean() for one in sorted(by_k)},
        "not_converged": [one for one in l2 if not models[one].converged],
        "n_train": len(train.labels),
    }


def _linear(heads: Mapping[float, nn.Linear], features: Tensor) -> dict[float, Tensor]:
    return {weight: head(features).argmax(dim=1) for weight, head in heads.items()}


def _nearest(
    train: Labelled, features: Tensor, *, num_classes: int, k: Sequence[int], temperature: float
) -> dict[int, Tensor]:
    votes = knn.vote(train, features, num_classes, k, temperature)
    return dict(zip(k, votes.argmax(dim=2), strict=True))


def _results(counts: Mapping[str, Counts], classes: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"iou": {}, "excluded": {}, "replicates": {}, "intervals": {}}
    for name, one in counts.items():
        split = name.partition("/")[0]
        value, drawn = one.mean(), one.replicates()
        found[name], found[f"n_{split}"] = value, len(one.right)
        found["iou"][name] = dict(zip(classes, one.ious(), strict=True))
        empty = [each for each, iou in found["iou"][name].items() if iou is None]
        if empty:
            found["excluded"].setdefault(split, {})[name.rpartition("/")[2]] = empty
        found["replicates"][name] = drawn.tolist()
        if ends := bootstrap.interval(value, drawn, len(one.right)):
            found["intervals"][name] = list(ends)
    return found


@torch.no_grad()
def count(
    batches: Iterable[Patches], answers: Sequence[Answers], num_classes: int
) -> list[dict[Any, Counts]]:
    """Return for each way to answer, and each of its candidates, what it got right.

    Args:
        batches: patches of images, in order.
        answers: features [p, d] -> by candidate the classes [p].
        num_classes: with background.

    Raises:
        TrainingError: features are not finite.
        DataError: there is no image.
    """
    parts: list[dict[Any, list[Counts]]] = [{} for _ in answers]
    for features, labels in batches:
        require_finite(features)
        for found, answer in zip(parts, answers, strict=True):
            for candidate, given in answer(features.flatten(0, 1)).items():
                of_batch = _counts(given.view_as(labels), labels, num_classes)
                found.setdefault(candidate, []).append(of_batch)
    if not parts[0]:
        raise DataError("there are no images to judge patches of")
    return [{one: _joined(counts) for one, counts in found.items()} for found in parts]


def _counts(given: Tensor, labels: Tensor, num_classes: int) -> Counts:
    """Return the counts of some images, given and labels int64 [b, p]."""
    known = labels != IGNORED

    def by_class(classes: Tensor, where: Tensor) -> NDArray[np.int64]:
        images = torch.arange(len(labels))[:, None].expand_as(labels)
        places = (images * num_classes + classes)[where]
        counts = torch.bincount(places, minlength=len(labels) * num_classes)
        return counts.view(len(labels), num_classes).numpy()

    right = by_class(labels, known & (given == labels))
    there = by_class(labels, known)
    return Counts(right, there + by_class(given, known) - right, there)


def _joined(parts: Sequence[Counts]) -> Counts:
    columns = ((one.right, one.either, one.there) for one in parts)
    return Counts(*(np.concatenate(one) for one in zip(*columns, strict=True)))


def principal(features: Tensor) -> Tensor:
    """Return the first three principal components of features [n, d]: float32 [n, 3], 0 to 1.

    Each runs from the 2nd to the 98th percentile of all positions, so that one that is far out does
    not make the others alike. The sign of a component is that of its largest weight.

    Args:
        features: of positions; those of several networks together have one projection.
    """
    wide = features.double()
    centred = wide - wide.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:3]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    projected = centred @ (axes * largest.sign()).T
    if projected.shape[1] < 3:
        projected = torch.nn.functional.pad(projected, (0, 3 - projected.shape[1]))
    low, high = (projected.quantile(share, dim=0) for share in (0.02, 0.98))
    shares: Tensor = (projected - low) / (high - low).clamp_min(1e-12)
    return shares.clamp(0, 1).float()
