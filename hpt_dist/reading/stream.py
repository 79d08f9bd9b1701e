"""Batches of random crops, decoded once for all views.

Which samples a batch holds is `order.Order`, and how they are cropped is a function of
(seed, epoch, sample, view), so ranks, workers and restarts change neither.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from hpt_dist.errors import RequestError
from hpt_dist.images.crops import CROP_DRAWS, Box, View, center_box, random_box, squashed_box
from hpt_dist.images.photometric import DRAWS, Photometric
from hpt_dist.reading.ahead import AheadStream, Pending
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.decoder import Batch, Crop, Decoder
from hpt_dist.reading.order import WINDOW, Ints, Order, streams_for, uniforms
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import ReadableSplit, open_split

__all__ = [
    "Batch",
    "Pool",
    "ReadableSplit",
    "Stream",
    "View",
    "batch_keys",
    "center_batches",
    "crop_batches",
    "network_views",
    "open_split",
]

_AHEAD_BATCHES = 256  # between asking for a shard's download and its use, at most
_AHEAD_IMAGES = 4096  # the same where images are read in order


class Stream(AheadStream[Batch]):
    """An endless stream of batches of random crops.

    Damaged images are refused, unless `replacements` allows to replace some by the next ones of
    the pool.

    Args:
        pool: what it draws from.
        batch: images of the global batch.
        seed: of the order and of the crops.
        views: the crops of each image, which may differ in size and area.
        streams: how many streams of the order a batch is drawn from; None is `streams_for`.
        window: samples of a stream that are shuffled together.
        rank: whose contiguous share of each global batch it yields.
        world: number of ranks; it divides the batch.
        nodes: number of machines; decides how much a node's cache must hold.
        workers: threads that read and decode; 0 does it on demand.
        prefetch: batches that are prepared ahead of their use.
        replacements: of damaged images; None refuses them.
        whole_epochs: whether each epoch begins a batch, and leaves out the images that fill none.

    Raises:
        RequestError: the batch cannot be shared out evenly, or no epoch fills one.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        batch: int,
        seed: int,
        views: Sequence[View],
        streams: int | None = None,
        window: int = WINDOW,
        rank: int = 0,
        world: int = 1,
        nodes: int = 1,
        workers: int = 2,
        prefetch: int = 2,
        replacements: Replacements | None = None,
        whole_epochs: bool = False,
    ) -> None:
        streams = streams or streams_for(len(pool), batch, window)
        for count, what in ((world, "ranks"), (streams, "streams")):
            if batch % count:
                raise RequestError(
                    f"a batch of {batch} images cannot be shared out evenly over {count} {what}",
                    fix=f"use a number of {what} that divides {batch}",
                )
        if whole_epochs and len(pool) < batch:
            raise RequestError(
                f"{len(pool)} images do not fill a batch of {batch}", fix="use a smaller batch"
            )
        super().__init__(prefetch if workers else 0)
        self._pool = pool
        self._batch = batch
        self._seed = seed
        self._views = tuple(views)
        self._rank, self._world = rank, world
        self._whole_epochs = whole_epochs
        self._order = _order(pool, batch, seed, streams, window)
        # At most a window ahead, so that at most two windows of each stream are in use.
        self._ahead = max(1, min(_AHEAD_BATCHES, streams * window // batch))
        self._downloads = _fits_the_cache(pool, 2 * math.ceil(streams / nodes) * window)
        self._decoder = Decoder(pool, workers, replacements)

    def close(self) -> None:
        """Stop the threads and close the files."""
        super().close()
        self._decoder.close()
        self._pool.close()

    def _start(self, step: int) -> Pending[Batch]:
        indices, epochs = self._drawn(step)
        crops = [
            _random_crop(self._seed, epochs, indices, number, view)
            for number, view in enumerate(self._views)
        ]
        pending = self._decoder.start(step, indices, epochs, crops)
        if self._downloads:
            later, _ = self._drawn(step + self._ahead)
            self._pool.prefetch(np.concatenate([indices, later]))
        return pending

    def _drawn(self, step: int) -> tuple[Ints, Ints]:
        return self._order.batch(
            step, self._batch, self._rank, self._world, whole_epochs=self._whole_epochs
        )


def batch_keys(
    pool: Pool,
    step: int,
    *,
    batch: int,
    seed: int,
    streams: int | None = None,
    window: int = WINDOW,
) -> list[str]:
    """Return `dataset/split/key` of each image of a stream's global batch, in its order.

    Args: as of `Stream`; `step` is the batch's position.
    """
    indices, _ = _order(pool, batch, seed, streams, window).batch(step, batch)
    places = map(pool.locate, indices.tolist())
    return [f"{split.name}/{split.key(i)}" for split, i in places]


def center_batches(
    pool: Pool,
    *,
    batch: int,
    size: int,
    workers: int = 2,
    rows: Ints | None = None,
    replacements: Replacements | None = None,
    squash: bool = False,
) -> Iterator[Batch]:
    """Yield every image once and in order, cut out of the middle for evaluation.

    Like resizing the short side to size * 256 / 224 and taking the central square of side size.

    Args:
        pool: the images.
        batch: images of a batch; the last one holds what is left.
        size: side of the result, pixels.
        workers: threads that read and decode; 0 does it on demand.
        rows: int64, which samples of the pool, in order; None is all.
        replacements: of damaged images; None refuses them: what is judged leaves none out.
        squash: cut the middle out of the squashed image; see `crops.squashed_box`.

    Raises:
        StoreError: a shard does not exist.
        DataError: images are damaged that may not be replaced.
    """
    crop = Crop(size, _squashed_middle(size) if squash else center_box)
    decoder = Decoder(pool, workers, replacements, whole=True)
    return _in_order(pool, batch, decoder, 0, lambda _: crop, rows)


def crop_batches(
    pool: Pool,
    *,
    batch: int,
    view: View,
    seed: int,
    epoch: int,
    workers: int = 2,
    replacements: Replacements | None = None,
) -> Iterator[Batch]:
    """Yield every image once and in order, randomly cropped: one augmented copy of the pool.

    Args:
        pool: the images.
        batch: images of a batch; the last one holds what is left.
        view: the crops.
        seed: of the crops.
        epoch: which copy; another epoch has other crops.
        workers: threads that read and decode; 0 does it on demand.
        replacements: of damaged images; None refuses them.

    Raises:
        StoreError: a shard does not exist.
        DataError: images are damaged that may not be replaced.
    """

    def crop_of(indices: Ints) -> Crop:
        return _random_crop(seed, np.full_like(indices, epoch), indices, 0, view)

    return _in_order(pool, batch, Decoder(pool, workers, replacements), epoch, crop_of)


def network_views(batch: Batch, photometrics: Sequence[Photometric], seed: int) -> list[Tensor]:
    """Return each view of a batch with random colours, ready for the network.

    Args:
        batch: of a stream.
        photometrics: the policy of each view, on the device of the result.
        seed: with epoch, sample and view it determines every random parameter.

    Returns:
        For each view float32 [b, 3, size, size] of its size, normalised, channels last.
    """
    return [
        photometric(
            images,
            uniforms(seed, batch.epochs, batch.indices, view, DRAWS, purpose="photometric"),
        )
        for view, (images, photometric) in enumerate(zip(batch.images, photometrics, strict=True))
    ]


def _order(pool: Pool, batch: int, seed: int, streams: int | None, window: int) -> Order:
    streams = streams or streams_for(len(pool), batch, window)
    return Order(pool.digest, seed, pool.shard_sizes, streams=streams, window=window)


def _random_crop(seed: int, epochs: Ints, indices: Ints, number: int, view: View) -> Crop:
    draws = uniforms(seed, epochs, indices, number, CROP_DRAWS, purpose="crop")
    size, area = view.size, view.area

    def squashed(row: int, width: int, height: int) -> Box:
        return squashed_box(width, height, size, *draws[row, :2])

    def cut(row: int, width: int, height: int) -> Box:
        return random_box(width, height, draws[row], area)

    return Crop(size, squashed if view.squash else cut)


def _squashed_middle(size: int) -> Callable[[int, int, int], Box]:
    return lambda _, width, height: squashed_box(width, height, size, 0.5, 0.5)


def _in_order(
    pool: Pool,
    batch: int,
    decoder: Decoder,
    epoch: int,
    crop_of: Callable[[Ints], Crop],
    rows: Ints | None = None,
) -> Iterator[Batch]:
    pending: deque[Pending[Batch]] = deque()
    rows = np.arange(len(pool)) if rows is None else rows
    downloads = _fits_the_cache(pool, len(rows))
    try:
        for step, start in enumerate(range(0, len(rows), batch)):
            indices = rows[start : start + batch]
            epochs = np.full_like(indices, epoch)
            crops = [crop_of(indices)]
            pending.append(decoder.start(step, indices, epochs, crops, noted_as=-1))
            if downloads:
                pool.prefetch(rows[start : start + _AHEAD_IMAGES])
            if len(pending) > 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        decoder.close()


def _fits_the_cache(pool: Pool, active_images: int) -> bool:
    """Return whether this node's cache can hold the shards that are read at the same time.

    If it cannot, a shard would be evicted before all of its images are read, and be downloaded
    again and again; images are then read one by one.
    """
    if not len(pool):
        return False
    shards = [shard for split in pool.splits for shard in split.shards]
    share = min(1.0, active_images / len(pool))
    limits = {split.node_cache.limit_bytes for split in pool.splits if split.node_cache}
    return bool(limits) and share * sum(shard.bytes for shard in shards) <= min(limits)
