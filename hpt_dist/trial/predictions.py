"""What a model answered about each image of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Predictions:
    """The answers of one model to the images of one split, in the split's order.

    Args:
        keys: of the images; see `reading.pool.Pool.keys`.
        labels: int64 [n], class ids; or of several labels an image bool [n, num_classes].
        scores: float64 [n, num_classes], log-odds; `evals.metrics.probabilities` makes shares of
            them.
    """

    keys: tuple[str, ...]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
