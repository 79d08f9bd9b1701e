"""Batches of random crops, decoded once for all views.

Which samples a batch holds is `order.samples_at`, and how they are cropped is a function of
(seed, epoch, sample, view), so ranks, threads and restarts change neither. The position of a
stream is its whole state: resuming seeks and replays nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from hpt_dist import augment
from hpt_dist.errors import RequestError
from hpt_dist.order import Ints, samples_at, uniforms
from hpt_dist.pool import Pool, Split, open_split

__all__ = [
    "Batch",
    "Pool",
    "Split",
    "Stream",
    "center_batches",
    "crop_batches",
    "network_views",
    "open_split",
]

CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 2  # uniform numbers that each crop consumes
_LOG_RATIO = math.log(4 / 3)  # of the most that a crop's sides may differ
_CENTER = 224 / 256  # side of the centre crop as a share of the image's short side

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Crop = Callable[[int, int, int], Box]  # of (row of the batch, image width, image height)


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Args:
        step: of the stream; counts batches from 0.
        images: for each view, uint8 [b, 3, size, size] in channels-last memory.
        labels: int64 [b]; -1 is none.
        indices: int64 [b], of the samples in the pool.
        epochs: int64 [b], from 0.
    """

    step: int
    images: list[Tensor]
    labels: Tensor
    indices: Ints
    epochs: Ints


class Stream:
    """An endless stream of batches of random crops.

    Args:
        pool: what it draws from.
        batch: images of the global batch.
        seed: of the order and of the crops.
        views: crops of each image.
        crop_area: smallest and largest area of a crop as a share of the image.
        size: side of the crops after resizing, pixels.
        rank: whose contiguous share of each global batch it yields.
        world: number of ranks; it divides the batch.
        threads: how many decode.
        prefetch: batches that are made ahead of their use.

    Raises:
        RequestError: the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        batch: int,
        seed: int,
        views: int,
        crop_area: tuple[float, float],
        size: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        prefetch: int = 2,
    ) -> None:
        if batch % world:
            raise RequestError(
                f"a batch of {batch} images cannot be shared out evenly over {world} ranks",
                fix=f"use a number of ranks that divides {batch}",
            )
        self.position = 0
        self._pool = pool
        self._batch = batch
        self._seed = seed
        self._views = views
        self._crop_area = crop_area
        self._share = batch // world
        self._offset = rank * self._share
        self._prefetch = prefetch
        self._decoder = _Decoder(pool, size, threads)
        self._pending: deque[_Pending] = deque()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the batch at `position`, and go on to the next.

        Raises:
            StoreError: a shard is not there.
            DataError: an image cannot be used; the position stays where it is.
        """
        while len(self._pending) <= self._prefetch:
            self._pending.append(self._start(self.position + len(self._pending)))
        batch = self._pending[0].result()
        self._pending.popleft()
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: the number of batches taken."""
        return {"step": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position, forward or back."""
        self._drop_pending()
        self.position = state["step"]

    def close(self) -> None:
        """Stop the threads."""
        self._drop_pending()
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, step: int) -> _Pending:
        position = step * self._batch + self._offset
        indices, epochs = samples_at(
            self._pool.digest, self._seed, len(self._pool), position, self._share
        )
        crops = [
            _random_crop(self._seed, epochs, indices, view, self._crop_area)
            for view in range(self._views)
        ]
        return self._decoder.start(step, indices, epochs, crops)

    def _drop_pending(self) -> None:
        for pending in self._pending:
            pending.cancel()
        self._pending.clear()


def center_batches(pool: Pool, *, batch: int, size: int, threads: int = 2) -> Iterator[Batch]:
    """Yield every image once and in order, cut out of the middle for evaluation.

    Like resizing the short side to size * 256 / 224 and taking the central square of side size.

    Args:
        pool: the images.
        batch: images of a batch; the last one holds what is left.
        size: side of the result, pixels.
        threads: how many decode.

    Raises:
        StoreError: a shard is not there.
        DataError: an image cannot be used.
    """
    return _in_order(pool, batch, size, threads, 0, lambda _: center_box)


def crop_batches(
    pool: Pool,
    *,
    batch: int,
    size: int,
    seed: int,
    crop_area: tuple[float, float],
    epoch: int,
    threads: int = 2,
) -> Iterator[Batch]:
    """Yield every image once and in order, randomly cropped: one augmented copy of the pool.

    Args:
        pool: the images.
        batch: images of a batch; the last one holds what is left.
        size: side of the result, pixels.
        seed: of the crops.
        crop_area: smallest and largest area of a crop as a share of the image.
        epoch: which copy; another epoch has other crops.
        threads: how many decode.

    Raises:
        StoreError: a shard is not there.
        DataError: an image cannot be used.
    """

    def crop_of(indices: Ints) -> Crop:
        return _random_crop(seed, np.full_like(indices, epoch), indices, 0, crop_area)

    return _in_order(pool, batch, size, threads, epoch, crop_of)


def network_views(batch: Batch, photometric: augment.Photometric, seed: int) -> list[Tensor]:
    """Return each view of a batch with random colours, ready for the network.

    Args:
        batch: of a stream.
        photometric: the policy, on the device where the views are wanted.
        seed: with epoch, sample and view it determines every random parameter.

    Returns:
        For each view float32 [b, 3, size, size], normalised, channels last.
    """
    return [
        photometric(
            images,
            uniforms(seed, batch.epochs, batch.indices, view, augment.DRAWS, purpose="photometric"),
        )
        for view, images in enumerate(batch.images)
    ]


def random_box(
    width: int, height: int, draws: Floats, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return the crop of torchvision's RandomResizedCrop as left, top, right, bottom.

    A share of the area and a ratio of the sides (3/4 to 4/3, its logarithm uniform) are tried up
    to ten times until the crop fits; a very long image gets its middle.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        draws: uniform numbers [CROP_DRAWS] in [0, 1): place, then share and ratio of each try.
        area: smallest and largest share of the area.
    """
    across, down, *tries = draws.tolist()
    for share, ratio in zip(tries[::2], tries[1::2], strict=True):
        pixels = width * height * (area[0] + (area[1] - area[0]) * share)
        stretch = math.exp(_LOG_RATIO * (ratio - 0.5))  # square root of the ratio of the sides
        w, h = round(math.sqrt(pixels) * stretch), round(math.sqrt(pixels) / stretch)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_box(_: int, width: int, height: int) -> Box:
    """Return the central square whose side is 224/256 of the image's short side."""
    side = _CENTER * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_crop(
    seed: int, epochs: Ints, indices: Ints, view: int, area: tuple[float, float]
) -> Crop:
    draws = uniforms(seed, epochs, indices, view, CROP_DRAWS, purpose="crop")
    return lambda row, width, height: random_box(width, height, draws[row], area)


def _in_order(
    pool: Pool, batch: int, size: int, threads: int, epoch: int, crop_of: Callable[[Ints], Crop]
) -> Iterator[Batch]:
    decoder = _Decoder(pool, size, threads)
    pending: deque[_Pending] = deque()
    try:
        for step, start in enumerate(range(0, len(pool), batch)):
            indices = np.arange(start, min(start + batch, len(pool)))
            epochs = np.full_like(indices, epoch)
            pending.append(decoder.start(step, indices, epochs, [crop_of(indices)]))
            if len(pending) > 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        decoder.close()


class _Decoder:
    """Threads that fill batches.

    Args:
        pool: the images.
        size: side of a crop after resizing, pixels.
        threads: how many share the rows of each batch.
    """

    def __init__(self, pool: Pool, size: int, threads: int) -> None:
        self._pool = pool
        self._size = size
        self._threads = threads
        self._labels = pool.labels
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def start(self, step: int, indices: Ints, epochs: Ints, crops: Sequence[Crop]) -> _Pending:
        """Begin a batch with one view for each crop."""
        views = [np.empty((len(indices), self._size, self._size, 3), np.uint8) for _ in crops]
        batch = Batch(
            step,
            [torch.from_numpy(view).permute(0, 3, 1, 2) for view in views],
            torch.from_numpy(self._labels[indices]),
            indices,
            epochs,
        )
        # Rows in turns: neighbours in a shard are often alike in size, and so in work.
        fillings = [
            self._executor.submit(self._fill, views, indices, crops, rows)
            for rows in (range(k, len(indices), self._threads) for k in range(self._threads))
        ]
        return _Pending(batch, fillings)

    def close(self) -> None:
        """Stop the threads; batches that are not finished never will be."""
        self._executor.shutdown(cancel_futures=True)

    def _fill(
        self,
        views: Sequence[npt.NDArray[np.uint8]],
        indices: Ints,
        crops: Sequence[Crop],
        rows: Iterable[int],
    ) -> None:
        for row in rows:
            image = self._pool.image(int(indices[row]))
            for view, crop in zip(views, crops, strict=True):
                box = crop(row, *image.size)
                size = (self._size, self._size)
                view[row] = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


@dataclass(frozen=True)
class _Pending:
    """A batch that threads are filling."""

    batch: Batch
    fillings: list[Future[None]]

    def result(self) -> Batch:
        """Wait for the batch and return it, or raise what a thread raised."""
        for filling in self.fillings:
            filling.result()
        return self.batch

    def cancel(self) -> None:
        """Leave out what no thread has begun."""
        for filling in self.fillings:
            filling.cancel()
