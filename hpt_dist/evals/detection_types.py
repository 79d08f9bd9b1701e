"""What a detector gives; see `detection`. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpt_dist.reading.boxes import Boxes

Kind = Literal["boxes", "masks"]
Truth = Sequence[tuple[str, Boxes]]  # by the images' keys
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detections:
    """What a detector gives for one image, in any order.

    Args:
        boxes: float32 [m, 4]: x1, y1, x2, y2 in pixels of the image as decoded upright.
        scores: float32 [m]: how sure it is; only their order counts.
        labels: int64 [m]: indices into the dataset's classes.
        masks: one COCO run-length encoding (compressed counts, of the image's size) per detection;
            None of a detector without masks.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)
