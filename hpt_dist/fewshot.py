"""Which images of a dataset are the labelled ones: seeded, nested subsets of every class.

One seed ranks all images once; every subset takes the best ranked. So a smaller budget is always
a part of a larger one, and the same on every machine and in every NumPy version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpt_dist.errors import DataError, RequestError

Indices = NDArray[np.int64]


def k_shot(labels: Indices, num_classes: int, k: int, seed: int) -> Indices:
    """Return k images of each class, or all of a class that has fewer.

    Args:
        labels: [n] classes 0 .. num_classes - 1; -1 marks an image without a label.
        num_classes: every class must have an image.
        k: images of each class, at least 1.
        seed: chooses the ranking.

    Returns:
        The indices of the chosen images, ascending.

    Raises:
        RequestError: if k is not positive.
        DataError: if a label is out of range or a class has no image.
    """
    if k < 1:
        raise RequestError(f"{k} shots are asked for", allowed="1 or more")
    ranking = _ranking(labels, num_classes, seed)
    return np.sort(ranking[_rank_in_class(labels[ranking]) < k])


def n_labels(labels: Indices, num_classes: int, n: int, seed: int) -> Indices:
    """Return n images in the classes' natural proportions, at least one of each class.

    Args:
        labels: [n] classes 0 .. num_classes - 1; -1 marks an image without a label.
        num_classes: every class must have an image.
        n: images in all, from num_classes to the number of labelled images.
        seed: chooses the ranking.

    Returns:
        The indices of the chosen images, ascending.

    Raises:
        RequestError: if n is out of its range.
        DataError: if a label is out of range or a class has no image.
    """
    ranking = _ranking(labels, num_classes, seed)
    if not num_classes <= n <= len(ranking):
        raise RequestError(
            f"{n} labels are asked for",
            allowed=f"{num_classes} (one of each class) to {len(ranking)} (all)",
        )
    later = _rank_in_class(labels[ranking]) > 0
    first_of_each_class_first = np.argsort(later, kind="stable")
    return np.sort(ranking[first_of_each_class_first[:n]])


def _ranking(labels: Indices, num_classes: int, seed: int) -> Indices:
    """Return the indices of the labelled images in the seed's order."""
    labelled = labels[labels >= 0]
    counts = np.bincount(labelled, minlength=num_classes)
    if len(counts) > num_classes:
        raise DataError(
            f"there is a label {len(counts) - 1}", allowed=f"-1 (none) to {num_classes - 1}"
        )
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise DataError(
            f"{len(empty)} of {num_classes} classes have no labelled image, "
            f"the first is class {empty[0]}",
            fix="remove these classes from the dataset or add images of them",
        )
    # Raw words of a counter-based generator: NumPy keeps these streams for ever, unlike shuffles.
    order = np.argsort(np.random.Philox(key=seed).random_raw(len(labels)), kind="stable")
    return order[labels[order] >= 0]


def _rank_in_class(labels: Indices) -> Indices:
    """Return for each position how many earlier positions have the same label."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    ranks = np.empty_like(by_class)
    ranks[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    return ranks
