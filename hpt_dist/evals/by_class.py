"""Which classes gain and which lose, between models that answered the same images. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpt_dist.evals.evidence import CONFIDENCE, t_quantile

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassChange:
    """How the accuracy on the images of one class changes, in mean over some pairs of models.

    Args:
        name: of the class.
        images: that are of it.
        base: share of them that the models before the change answer rightly.
        ours: the same of those after it.
        change: the second less the first.
        low: lower end of the change's 95 % interval over images, with these models.
        high: upper end.
        up: pairs in which more of its images are right after the change.
        down: pairs in which fewer are.
    """

    name: str
    images: int
    base: float
    ours: float
    change: float
    low: float
    high: float
    up: int
    down: int


def changes(
    classes: Sequence[str], labels: Ints, pairs: Sequence[tuple[Bools, Bools]]
) -> tuple[ClassChange, ...]:
    """Return how each class changes that has images, what gains most first.

    The interval is that of Agresti and Min (Statistics in Medicine 24, 2005) for matched pairs: an
    image that was only right before and one that was only right after, each counted half, and one
    that did not change are added, so that no class of few images seems certain. Here an image's
    change is its mean over the pairs of models, -1 to 1, and the quantile is Student's: by the
    normal one, too many intervals of five images miss the truth.

    Args:
        classes: names in the order of ids.
        labels: of the images [n], class ids.
        pairs: which images a model answered rightly before and after the change, [n] each; one
            pair at least.
    """
    count = len(classes)

    def by_class(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.bincount(labels, values, minlength=count).astype(np.float64)

    sums = [(by_class(base.astype(float)), by_class(ours.astype(float))) for base, ours in pairs]
    base, ours = (np.mean([one[side] for one in sums], axis=0) for side in (0, 1))
    up, down = (np.sum([(one[1] - one[0]) * sign > 0 for one in sums], axis=0) for sign in (1, -1))
    change = np.mean([after.astype(float) - before for before, after in pairs], axis=0)
    squares, images = by_class(change**2), np.bincount(labels, minlength=count)
    middle = (ours - base) / (images + 2)
    error = np.sqrt(((squares + 1) / (images + 2) - middle**2) / (images + 2))
    found = []
    for c in np.flatnonzero(images).tolist():
        reach = t_quantile((1 + CONFIDENCE) / 2, int(images[c]) + 1) * error[c]
        ends = middle[c] + reach * np.array([-1, 1])
        low, high = ends.clip(-1, 1).tolist()
        shares = float(base[c] / images[c]), float(ours[c] / images[c])
        moved = float((ours[c] - base[c]) / images[c])
        counted = int(up[c]), int(down[c])
        found.append(ClassChange(classes[c], int(images[c]), *shares, moved, low, high, *counted))
    return tuple(sorted(found, key=lambda one: (-one.change, one.name)))
