"""Where the images of a shard are, and their boxes: its index as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpt_dist.datasets.manifest import NO_LABEL, Index
from hpt_dist.reading.order import Ints


@dataclass(frozen=True)
class ImagePlaces:
    """The places of one shard's images: columns of its index without the keys.

    Those of boxes are empty in a dataset without boxes, and -1 for an image without a label.
    """

    offsets: Ints
    lengths: Ints
    crc32s: Ints
    labels: Ints  # -1 for none, and for several
    box_offsets: Ints
    box_lengths: Ints
    box_crc32s: Ints

    @classmethod
    def from_index(cls, index: Index) -> ImagePlaces:
        """Return the columns of an index."""
        labels = [label if isinstance(label, int) else NO_LABEL for label in index.labels]
        boxes = [
            index.place_of_boxes(row) if any(one) else (-1, 0, 0)
            for row, one in enumerate(index.boxes)
        ]
        of_boxes = zip(*boxes, strict=True) if boxes else [()] * 3
        columns = (index.offsets, index.lengths, index.crc32s, labels, *of_boxes)
        return cls(*(np.array(column, np.int64) for column in columns))

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield position, length and CRC-32 of each image, and of its boxes."""
        images = (self.offsets, self.lengths, self.crc32s)
        with_boxes = self.box_offsets >= 0
        boxes = (self.box_offsets, self.box_lengths, self.box_crc32s)
        yield from zip(*(column.tolist() for column in images), strict=True)
        yield from zip(*(column[with_boxes].tolist() for column in boxes), strict=True)
