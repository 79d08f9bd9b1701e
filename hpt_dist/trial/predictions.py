"""What a model answered about each image of a split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FILE = re.compile(r"predictions\.([^/]+)\.parquet")


@dataclass(frozen=True)
class Predictions:
    """The answers of one model to the images of one split, in the split's order.

    Args:
        dataset: its name in its store.
        digest: of its manifest.
        split: its name.
        classes: class names in the order of their ids.
        keys: of the images; see `reading.pool.Pool.keys`.
        files: of the source, by key; see `datasets.origins`. Images that were not noted lack.
        labels: int64 [n], class ids; or of several labels an image bool [n, num_classes].
        scores: float64 [n, num_classes], log-odds; `evals.metrics.probabilities` makes shares of
            them.
        average_precisions: of several labels, that of each class on the split; None for a class
            that all of its images have, or none. Empty of one label.
    """

    dataset: str
    digest: str
    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    files: dict[str, str]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    average_precisions: tuple[float | None, ...] = ()

    @property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.ndim == 2


def file_of(split: str) -> str:
    """Return the name of the file of a split's predictions, beside result.json."""
    return f"predictions.{split}.parquet"


def split_of(name: str) -> str:
    """Return the split whose predictions an object of a trial holds; empty if it is another one."""
    found = _FILE.fullmatch(name)
    return found[1] if found else ""
