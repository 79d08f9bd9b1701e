"""Choose the labelled images, or the images to train on: seeded, nested subsets.

One seed ranks all images once, and every subset takes the first ranks. So a smaller subset is part
of every larger one, and equal on every machine and in every NumPy version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpt_dist.errors import DataError, RequestError
from hpt_dist.recipe import fractions

Indices = NDArray[np.int64]
Labels = Indices | Sequence[int | tuple[int, ...]]

_IN_NO_CLASS = np.iinfo(np.int64).max


def k_shot(labels: Labels, num_classes: int, k: int, seed: int) -> Indices:
    """Return k images of each class, or all of a class that has fewer.

    An image of several classes counts for each of them.

    Args:
        labels: [n] classes 0 .. num_classes - 1, or tuples of them; -1 marks an image without a
            label.
        num_classes: every class must have an image, unless labels are tuples.
        k: images of each class, at least 1.
        seed: chooses the ranking.

    Returns:
        The indices of the chosen images, ascending.

    Raises:
        RequestError: if k is not positive.
        DataError: if a label is out of range or a class has no image.
    """
    if k < 1:
        raise RequestError(f"cannot choose {k} images of each class", allowed="1 or more")
    ranking, ranks = _ranked_labelled(labels, num_classes, seed)
    return np.sort(ranking[ranks < k])


def n_labels(labels: Labels, num_classes: int, n: int, seed: int) -> Indices:
    """Return n images in the classes' natural proportions, at least one of each class.

    Args:
        labels: see `k_shot`.
        num_classes: every class must have an image, unless labels are tuples.
        n: images in all, from as many as show every class to the number of labelled images.
        seed: chooses the ranking.

    Returns:
        The indices of the chosen images, ascending.

    Raises:
        RequestError: if n is out of its range.
        DataError: if a label is out of range or a class has no image.
    """
    ranking, ranks = _ranked_labelled(labels, num_classes, seed)
    later = ranks > 0
    fewest = max(1, len(ranking) - int(later.sum()))
    if not fewest <= n <= len(ranking):
        raise RequestError(
            f"cannot choose {n} labelled images",
            allowed=f"{fewest} (one of each class) to {len(ranking)} (all)",
        )
    first_of_each_class_first = np.argsort(later, kind="stable")
    return np.sort(ranking[first_of_each_class_first[:n]])


def spread(labels: Labels, num_classes: int, n: int, seed: int) -> Indices:
    """Return up to n images that show as many classes as possible, as evenly as possible.

    Args:
        labels: see `k_shot`; images without a label come last.
        num_classes: number of classes; some may have no image.
        n: images in all; all images if there are fewer.
        seed: chooses the ranking.

    Returns:
        The indices of the chosen images, the first of each class first.

    Raises:
        DataError: if a label is out of range.
    """
    order, ranks = _ranked(labels, num_classes, seed)
    return order[np.argsort(ranks, kind="stable")][:n]


def percent(keys: Sequence[str], share_percent: float, seed: int) -> Indices:
    """Return a share of all images, whatever their labels, ranked by a hash of seed and key.

    So the choice does not depend on the order of the images, and hardly on the other images.

    Args:
        keys: [n] of the images, unique.
        share_percent: more than 0, up to 100; the number of images is rounded, and at least 1.
        seed: chooses the ranking.

    Returns:
        The indices of the chosen images, ascending.

    Raises:
        RequestError: if the share is out of its range.
    """
    if not 0 < share_percent <= 100:
        raise RequestError(
            f"cannot choose {share_percent:g} percent of the images",
            allowed="more than 0, up to 100",
        )
    hashes = [hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys]
    ranking = sorted(range(len(keys)), key=hashes.__getitem__)
    count = fractions.count(len(keys), share_percent)
    return np.sort(np.array(ranking[:count], np.int64))


def _ranked_labelled(labels: Labels, num_classes: int, seed: int) -> tuple[Indices, Indices]:
    """Return the result of `_ranked` for the labelled images; refuse a class without any."""
    labelled, _, classes = _columns(labels)
    empty = np.flatnonzero(np.bincount(classes, minlength=num_classes)[:num_classes] == 0)
    order, ranks = _ranked(labels, num_classes, seed)
    if isinstance(labels, np.ndarray) and len(empty):
        raise DataError(
            f"{len(empty)} of {num_classes} classes have no labelled image, "
            f"the first is class {empty[0]}",
            fix="remove these classes from the dataset or add images of them",
        )
    return order[labelled[order]], ranks[labelled[order]]


def _ranked(labels: Labels, num_classes: int, seed: int) -> tuple[Indices, Indices]:
    """Return all images in the seed's order, and the best rank of each in its classes.

    The first image of a class has rank 0 in it; one of several classes has its lowest rank.
    """
    _, images, classes = _columns(labels)
    if len(classes) and classes.max() >= num_classes:
        raise DataError(
            f"no class has the id {classes.max()}", allowed=f"-1 (none) to {num_classes - 1}"
        )
    # Raw words of a counter-based generator: NumPy never changes these streams, unlike shuffles.
    order = np.argsort(np.random.Philox(key=seed).random_raw(len(labels)), kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    by_place = np.argsort(places[images], kind="stable")
    ranks = np.full(len(labels), _IN_NO_CLASS)
    np.minimum.at(ranks, images[by_place], _rank_in_class(classes[by_place]))
    return order, ranks[order]


def _columns(labels: Labels) -> tuple[NDArray[np.bool_], Indices, Indices]:
    """Return which images have a label, and every pair of an image and one of its classes."""
    if isinstance(labels, np.ndarray):
        labelled = labels >= 0
        images = np.flatnonzero(labelled)
        return labelled, images, labels[images]
    several = [label if isinstance(label, tuple) else (label,) for label in labels]
    labelled = np.array([label != (-1,) for label in several], bool)
    images = np.repeat(np.arange(len(several)), [len(label) for label in several])
    classes = np.array([one for label in several for one in label], np.int64)
    return labelled, images[classes >= 0], classes[classes >= 0]


def _rank_in_class(labels: Indices) -> Indices:
    """Return for each position how many earlier positions have the same label."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    ranks = np.empty_like(by_class)
    ranks[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    return ranks
