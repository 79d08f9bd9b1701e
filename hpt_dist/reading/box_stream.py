"""Batches of images with their boxes, for detectors; and every image of a split once, for scores.

Which samples a batch holds is `aspect.AspectOrder`, and how they are cut, resized, flipped and
coloured is a function of (seed, epoch, sample), so ranks, workers and restarts change neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, from_numpy

from hpt_dist.errors import DamagedImageError, DataError, RequestError
from hpt_dist.images.box_views import (
    VIEW_DRAWS,
    BoxAugment,
    BoxView,
    Floats,
    Viewed,
    drawn,
    resized,
    viewed,
)
from hpt_dist.images.boxes import Boxes
from hpt_dist.reading.ahead import AheadStream, Pending
from hpt_dist.reading.aspect import AspectOrder
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import WINDOW, Ints, Order, streams_for, uniforms
from hpt_dist.reading.pool import Pool

Target = dict[str, Any]
"""Of one image: `boxes` float32 [n, 4] as x1, y1, x2, y2 in its pixels; `labels` int64 [n] from 0;
`masks` bool [n, h, w] where they are wanted; `key`, and `index`, its place in the global batch."""


@dataclass(frozen=True)
class BoxBatch:
    """One rank's share of a global batch.

    Args:
        step: of the stream; counts batches from 0.
        samples: each image, uint8 [3, h, w] of its own size, with its target.
        indices: int64 [b], of the samples in the pool.
        epochs: int64 [b], how often each came before.
    """

    step: int
    samples: list[tuple[Tensor, Target]]
    indices: Ints
    epochs: Ints


class WholeImage(NamedTuple):
    """An image that is scored.

    Attributes:
        key: of the image.
        image: uint8 [3, h, w], resized.
        truth: its objects, in pixels of the image as decoded; all of them.
    """

    key: str
    image: Tensor
    truth: Boxes


class BoxStream(AheadStream[BoxBatch]):
    """An endless stream of batches of images with their boxes.

    Crowds are never in a target. Damaged images and boxes are refused, unless `replacements` allows
    to replace some images by the next ones of the pool.

    Args:
        pool: what it draws from, of datasets with boxes.
        batch: images of the global batch.
        seed: of the order and of the views.
        augment: the views.
        masks: whether targets have masks.
        difficult: whether targets have objects that are marked as difficult.
        empty: whether images without an object that is no crowd are drawn, too.
        together: images that are all wide or all high, one behind the other; None is the batch.
        rank: whose contiguous share of each global batch it yields.
        world: number of ranks; it divides the batch.
        workers: threads that read and decode; 0 does it on demand.
        prefetch: batches that are prepared ahead of their use.
        replacements: of damaged images; None refuses them.

    Raises:
        RequestError: the batch cannot be shared out evenly, or no image has an object.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        batch: int,
        seed: int,
        augment: BoxAugment,
        masks: bool = False,
        difficult: bool = True,
        empty: bool = False,
        together: int | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        prefetch: int = 2,
        replacements: Replacements | None = None,
    ) -> None:
        if batch % world or batch % (together or batch):
            raise RequestError(
                f"a batch of {batch} images cannot be shared out evenly over {world} ranks, or in "
                f"parts of {together or batch}",
                fix=f"use numbers that divide {batch}",
            )
        super().__init__(prefetch if workers else 0)
        self.pool = pool if empty else with_objects(pool)
        self._seed = seed
        self._augment = augment
        self._masks, self._difficult = masks, difficult
        self._rank, self._world = rank, world
        self._order = _order(self.pool, batch, seed, together)
        self._workers = workers
        self._executor = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="boxes")
        self._replacements = Replacements() if replacements is None else replacements

    def steps_of(self, epochs: int) -> int:
        """Return how many whole batches the first epochs fill."""
        return self._order.steps_of(epochs)

    def close(self) -> None:
        """Stop the threads and close the files."""
        super().close()
        self._executor.shutdown(cancel_futures=True)
        self.pool.close()

    def _start(self, step: int) -> Pending[BoxBatch]:
        indices, epochs = self._order.at(step, self._rank, self._world)
        draws = uniforms(self._seed, epochs, indices, 0, VIEW_DRAWS, purpose="boxes")
        first = self._rank * len(indices)

        def sample(row: int) -> _Filled:
            return self._filled(int(indices[row]), draws[row], first + row)

        if self._workers:
            self.pool.prefetch(indices)
        parts = [partial(sample, row) for row in range(len(indices))]
        executor = self._executor if self._workers else None
        return Pending(parts, partial(self._finished, step, epochs), executor)

    def _filled(self, first: int, draws: Floats, place: int) -> _Filled:
        """Return the first sample from its own on that is sound, and which were damaged."""
        damaged: dict[str, DamagedImageError] = {}
        for i in chain(range(first, len(self.pool)), range(first)):
            name = self.pool.name(i)
            if name in self._replacements:
                continue
            try:
                return _Filled(i, self._sample(i, draws, place), damaged)
            except DamagedImageError as error:
                damaged[name] = error
                if len(damaged) > self._replacements.max_bad:
                    return _Filled(first, None, damaged)
        raise DataError("no image is left: all of them are damaged")

    def _sample(self, i: int, draws: Floats, place: int) -> tuple[Tensor, Target]:
        boxes, image = _read(self.pool, i, masks=self._masks)
        trained_on = ~boxes.crowd if self._difficult else ~(boxes.crowd | boxes.difficult)
        boxes = boxes.take(trained_on)
        view = drawn(self._augment, draws, boxes.size)
        found = _viewed(self.pool, i, view, image, boxes, masks=self._masks)
        target: Target = {
            "boxes": found.corners,
            "labels": from_numpy(boxes.labels)[found.rows],
            "key": self.pool.key(i),
            "index": place,
        }
        return found.image, target if found.masks is None else target | {"masks": found.masks}

    def _finished(self, step: int, epochs: Ints, filled: list[_Filled]) -> BoxBatch:
        damaged = {name: error for one in filled for name, error in one.damaged.items()}
        self._replacements.note(step, damaged)
        samples = [one.sample for one in filled if one.sample]
        indices = np.array([one.row for one in filled], np.int64)
        return BoxBatch(step, samples, indices, epochs)


class _Filled(NamedTuple):
    """A sample that was read; None where those that are damaged may not be replaced."""

    row: int
    sample: tuple[Tensor, Target] | None
    damaged: dict[str, DamagedImageError]


def with_objects(pool: Pool) -> Pool:
    """Return the images of a pool that have an object which is no crowd; itself if all have.

    Raises:
        RequestError: none has.
    """
    has_one = pool.members.any(axis=1)
    return pool if has_one.all() else pool.subset(np.flatnonzero(has_one))


def batch_of(
    pool: Pool, step: int, *, batch: int, seed: int, together: int | None = None
) -> tuple[Ints, Ints]:
    """Return the samples of the global batch of a stream of this pool, and the epoch of each.

    Args: as of `BoxStream`, whose own pool may be a part of the one that it was given.
    """
    return _order(pool, batch, seed, together).at(step)


def whole_images(
    pool: Pool, *, size: int, max_size: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Iterator[WholeImage]:
    """Yield every image of a rank once and in order: those whose index is `rank` modulo `world`.

    Args:
        pool: the images, of datasets with boxes.
        size: the short side after resizing, pixels.
        max_size: of the long side after resizing, pixels.
        rank: of this process.
        world: number of ranks.
        workers: threads that read and decode; at least one works.

    Raises:
        StoreError: a shard does not exist.
        DataError: images or boxes are damaged: what is judged leaves none out.
    """

    def whole(i: int) -> WholeImage:
        truth, image = _read(pool, i)
        view = BoxView(resized(truth.size, size, max_size))
        nothing = truth.take(np.zeros(len(truth), np.bool_))
        return WholeImage(pool.key(i), viewed(view, image, nothing).image, truth)

    pending: deque[Future[WholeImage]] = deque()
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="boxes") as executor:
        try:
            for i in range(rank, len(pool), world):
                pending.append(executor.submit(whole, i))
                if len(pending) > 2 * max(workers, 1):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for one in pending:
                one.cancel()


def _order(pool: Pool, batch: int, seed: int, together: int | None) -> AspectOrder:
    streams = streams_for(len(pool), batch, WINDOW)
    order = Order(pool.digest, seed, pool.shard_sizes, streams=streams)
    width, height = pool.image_sizes.T
    return AspectOrder(order, width > height, batch, together=together)


def _read(pool: Pool, i: int, *, masks: bool = False) -> tuple[Boxes, Tensor]:
    """Return the objects of a sample and its image, uint8 [h, w, 3].

    Raises:
        DamagedImageError: either is damaged, or they are not of one size.
        RequestError: masks are wanted, and the dataset has none.
    """
    boxes, image = pool.boxes(i), pool.image(i)
    if image.shape[:2] != boxes.size:
        height, width = image.shape[:2]
        what = f"its boxes are of {boxes.size[1]} x {boxes.size[0]} pixels"
        raise DamagedImageError(f"{pool.name(i)} has {width} x {height} pixels, and {what}")
    if masks and not boxes.has_masks:
        raise RequestError(
            f"{pool.name(i)} has no masks",
            fix="train without masks, or shard annotations in which every object has one",
        )
    return boxes, image


def _viewed(
    pool: Pool, i: int, view: BoxView, image: Tensor, boxes: Boxes, *, masks: bool
) -> Viewed:
    try:
        return viewed(view, image, boxes, masks=masks)
    except ValueError as error:
        raise DamagedImageError(f"the masks of {pool.name(i)}: {error}") from error
