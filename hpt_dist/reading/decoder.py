"""Threads that turn samples into batches of crops: read, decode once, cut and resize each view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpt_dist.errors import DamagedImageError, DataError
from hpt_dist.images import pixels
from hpt_dist.images.crops import Box
from hpt_dist.reading.ahead import Pending
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import Ints
from hpt_dist.reading.pool import Pool

_READERS = 16  # threads that wait for a remote store
_HALF = 2.0  # crops that shrink by this factor are cut from an image decoded at half its size


@dataclass(frozen=True)
class Crop:
    """One view of each image of a batch.

    Args:
        size: side after resizing, pixels.
        box_of: returns the box of (row of the batch, image width, image height).
    """

    size: int
    box_of: Callable[[int, int, int], Box]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Args:
        step: of the stream; counts batches from 0.
        images: for each view, uint8 [b, 3, size, size] of its size in channels-last memory.
        labels: int64 [b]; -1 is none.
        indices: int64 [b], of the samples in the pool.
        epochs: int64 [b], from 0.
    """

    step: int
    images: list[Tensor]
    labels: Tensor
    indices: Ints
    epochs: Ints


class Decoder:
    """Threads that fill batches.

    Args:
        pool: the images.
        workers: threads that share the rows of each batch; 0 fills a batch on demand.
        replacements: of damaged images; None refuses them.
        whole: resize as if the whole image were resized and then cut, which evaluations do;
            else cut first, as training does.
    """

    def __init__(
        self,
        pool: Pool,
        workers: int,
        replacements: Replacements | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self._pool = pool
        self._whole = whole
        self._workers = workers
        self._replacements = Replacements() if replacements is None else replacements
        self._executor = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode")
        is_remote = any(split.reader.is_remote for split in pool.splits)
        self._readers = (
            ThreadPoolExecutor(_READERS, thread_name_prefix="read") if is_remote else None
        )

    def start(
        self,
        step: int,
        indices: Ints,
        epochs: Ints,
        crops: Sequence[Crop],
        noted_as: int | None = None,
    ) -> Pending[Batch]:
        """Begin a batch with one view for each crop.

        Args:
            step: of the batch.
            indices: int64 [b], its samples.
            epochs: int64 [b], theirs.
            crops: of each view.
            noted_as: the step as which replaced images are noted; None is that of the batch.

        Its result raises DataError where it holds more damaged images than may be replaced.
        """
        filling = _Filling(
            indices=indices.copy(),
            labels=np.empty(len(indices), np.int64),
            views=[np.empty((len(indices), c.size, c.size, 3), np.uint8) for c in crops],
            crops=crops,
            reads=self._read(indices),
        )
        batch = Batch(
            step,
            [torch.from_numpy(view).permute(0, 3, 1, 2) for view in filling.views],
            torch.from_numpy(filling.labels),
            filling.indices,
            epochs,
        )
        noted = step if noted_as is None else noted_as

        def accepted(_: list[None]) -> Batch:
            damaged = {self._pool.name(i): error for i, error in filling.damaged.items()}
            self._replacements.note(noted, damaged)
            return batch

        # Rows in turns: neighbours in a shard are often alike in size, and so in work.
        turns = max(1, self._workers)
        rows = [range(k, len(indices), turns) for k in range(turns)]
        fillings = [partial(self._fill, filling, one) for one in rows]
        return Pending(fillings, accepted, self._executor if self._workers else None)

    def close(self) -> None:
        """Stop the threads; unfinished batches stay unfinished."""
        if self._readers:
            self._readers.shutdown(wait=False, cancel_futures=True)
        self._executor.shutdown(cancel_futures=True)
        if self._readers:
            self._readers.shutdown()

    def _read(self, indices: Ints) -> Sequence[Future[bytes] | None]:
        """Request all images of a remote store at once; a local store is read on demand."""
        if self._readers is None:
            return [None] * len(indices)
        return [
            None if self._pool.is_cached(i) else self._readers.submit(self._pool.read, i)
            for i in indices.tolist()
        ]

    def _fill(self, filling: _Filling, rows: Iterable[int]) -> None:
        """Fill rows, each with the first sample from its own on that is sound.

        Where a damaged one may not be replaced, the row stays empty, and the batch is refused.
        """
        for row in rows:
            first, read = int(filling.indices[row]), filling.reads[row]
            for i in chain(range(first, len(self._pool)), range(first)):
                if self._is_filled(filling, row, i, read):
                    filling.indices[row] = i
                    filling.labels[row] = self._pool.label(i)
                    break
                if len(filling.damaged) > self._replacements.max_bad:
                    break
                read = None
            else:
                raise DataError("no image is left: all of them are damaged")

    def _is_filled(self, filling: _Filling, row: int, i: int, read: Future[bytes] | None) -> bool:
        """Fill a row with sample i, unless that is damaged, or was replaced before."""
        if self._replacements and self._pool.name(i) in self._replacements:
            return False
        try:
            self._fill_row(filling, row, i, read)
        except DamagedImageError as error:
            filling.damaged[i] = error
            return False
        return True

    def _fill_row(self, filling: _Filling, row: int, i: int, read: Future[bytes] | None) -> None:
        split, k = self._pool.locate(i)
        image, encoded = split.cached_image(k), None
        if image is None:
            encoded = pixels.EncodedImage(read.result()) if read else split.encoded(k)
            width, height = split.size(k, encoded)
        else:
            height, width = image.shape[:2]
        boxes = [crop.box_of(row, width, height) for crop in filling.crops]
        views = [torch.from_numpy(view[row]) for view in filling.views]
        if self._whole:
            image = split.image(k, encoded)
            for view, box in zip(views, boxes, strict=True):
                pixels.resize_box(image, box, view)
            return
        # The reduction of an image must not depend on the content of the cache.
        sides = [min(box[2] - box[0], box[3] - box[1]) for box in boxes]
        shrink = min(side / crop.size for side, crop in zip(sides, filling.crops, strict=True))
        if shrink >= _HALF:
            image = split.decode(k, split.encoded(k) if encoded is None else encoded, shrink)
        elif image is None:
            image = split.image(k, encoded)
        x, y = image.shape[1] / width, image.shape[0] / height
        for view, (left, top, right, bottom) in zip(views, boxes, strict=True):
            pixels.crop_resize(image, (left * x, top * y, right * x, bottom * y), view)


@dataclass(frozen=True)
class _Filling:
    """A batch while threads fill it. Arrays, as a tensor from inference mode cannot leave it.

    Args:
        indices: int64 [b], of the samples; those of damaged images change.
        labels: int64 [b].
        views: for each crop uint8 [b, size, size, 3].
        crops: of each view.
        reads: the encoded images on their way from a remote store.
        damaged: the samples that cannot be used.
    """

    indices: Ints
    labels: Ints
    views: Sequence[npt.NDArray[np.uint8]]
    crops: Sequence[Crop]
    reads: Sequence[Future[bytes] | None]
    damaged: dict[int, DamagedImageError] = field(default_factory=dict)
