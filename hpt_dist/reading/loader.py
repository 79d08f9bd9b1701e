"""Batches for a loop of one's own, where a torch DataLoader would go.

A loader's position is its whole state: `load_state_dict` in a new process, on any number of ranks,
continues with the batches that would have followed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from hpt_dist.datasets.facts import Dataset
from hpt_dist.errors import RequestError, nearest
from hpt_dist.images.normalization import NORMALIZE, RGB
from hpt_dist.images.photometric import Normalize, Photometric
from hpt_dist.reading.decoder import Batch
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import open_split
from hpt_dist.reading.stream import Stream, View, center_batches, network_views
from hpt_dist.recipe import Augment
from hpt_dist.store import open_store

Statistics = Literal["imagenet", "half", "dataset"]


class ImageBatch(NamedTuple):
    """One rank's share of a batch.

    Attributes:
        views: [b, 3, size, size] of each random view of the images; one alone in evaluation.
        labels: int64 [b], class ids; -1 is none, or several.
        keys: of the images in their dataset.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    keys: list[str]

    @property
    def images(self) -> Tensor:
        """The first, and mostly the only, view."""
        return self.views[0]


Batches = Generator[ImageBatch, None, None]


class Loader:
    """An iterable of batches: each `for` is the next epoch, `len` the batches of one.

    A loop that ends early also ends its epoch: the next loop starts another one. After
    `load_state_dict` the next loop continues in the middle of the epoch. Only one loop runs at a
    time: a new one ends the previous one.

    Args:
        batches: the batches from a step on, which counts over all epochs.
        steps: batches of an epoch.
        identity: the values that a loaded state must have too.
        close: stops threads and closes files.
    """

    def __init__(
        self,
        batches: Callable[[int], Batches],
        steps: int,
        identity: Mapping[str, Any],
        close: Callable[[], None],
    ) -> None:
        self.close = close
        self._batches = batches
        self._steps = steps
        self._identity = dict(identity)
        self._step = 0
        self._goes_on = False
        self._loops = 0

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[ImageBatch]:
        """Yield the batches of the next epoch, or the rest of the loaded one.

        Raises:
            StoreError: a shard does not exist.
            DataError: a shard or too many images are damaged.
        """
        if self._steps and not self._goes_on:
            self._step += -self._step % self._steps
        self._goes_on = False
        self._loops += 1
        return self._loop(self._loops)

    def _loop(self, number: int) -> Iterator[ImageBatch]:
        remaining = self._steps - self._step % self._steps if self._steps else 0
        with closing(self._batches(self._step)) as batches:
            for batch in itertools.islice(batches, remaining):
                self._step += 1
                yield batch
                if self._loops != number:
                    return

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`: plain values of a few bytes."""
        return {**self._identity, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position of a loader of the same batches; the number of ranks may differ.

        Raises:
            RequestError: it is the state of other batches.
        """
        expected = {**self._identity, "step": state.get("step")}
        different = [
            name for name in {**expected, **state} if expected.get(name) != state.get(name)
        ]
        if different or not isinstance(state.get("step"), int):
            values = [f"{name}: {state.get(name)!r}" for name in different or ["step"]]
            raise RequestError(
                f"this is not a state of this loader: {', '.join(values)}",
                allowed=", ".join(f"{name}: {expected.get(name)!r}" for name in different),
            )
        self._step = state["step"]
        self._goes_on = True
        self._loops += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_loader(
    dataset: Dataset,
    split: str = "train",
    *,
    batch: int,
    size: int = 224,
    views: int = 1,
    seed: int = 0,
    augment: Augment | None = None,
    normalize: Statistics = "imagenet",
    raw: bool = False,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
) -> Loader:
    """Return shuffled batches of random views, float32 and channels last, ready for a network.

    In an epoch each image comes at most once. The images that fill no batch are left out; they
    change from epoch to epoch. Order, crops and colours follow from the data, the seed and the
    position alone.

    Args:
        dataset: from `open_dataset`.
        split: which of its splits.
        batch: images of the global batch, which the ranks share evenly.
        size: side of the square views, pixels.
        views: random views of each image.
        seed: of the order, the crops and the colours.
        augment: crops and colours; None is MoCo v2's, the recipes' default.
        normalize: the statistics that pixels are normalised with.
        raw: yield the crops as uint8, without flips, colours and normalisation.
        device: computes colours and normalisation, and holds the batches.
        rank: of this process.
        world_size: processes that share each batch.
        workers: threads that read and decode; 0 does it on demand.

    Raises:
        RequestError: an argument is out of its range, or there is no such dataset or split.
    """
    _check_ranks(batch, rank, world_size)
    policy = augment or Augment()
    colours = [Photometric(policy, *_statistics(dataset, normalize), device)] * views
    pool = _pool(dataset, split)
    stream = Stream(
        pool,
        batch=batch,
        seed=seed,
        views=[View(size, policy.crop_area)] * views,
        rank=rank,
        world=world_size,
        workers=workers,
        whole_epochs=True,
    )

    def batches(step: int) -> Batches:
        if stream.position != step:
            stream.load_state_dict({"step": step})
        for one in stream:
            images = one.images if raw else network_views(one, colours, seed)
            yield _batch(pool, one, images, device)

    identity = {"data": pool.digest, "batch": batch, "seed": seed}
    return Loader(batches, len(pool) // batch, identity, stream.close)


def eval_loader(
    dataset: Dataset,
    split: str = "val",
    *,
    batch: int,
    size: int = 224,
    normalize: Statistics = "imagenet",
    raw: bool = False,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
) -> Loader:
    """Return every image of a split once and in order, cut out of its middle.

    As if its short side were resized to size * 256 / 224 first. The last batch holds the remaining
    images; the last ranks may have no share of it, and so one batch less.

    Args: as of `train_loader`; `raw` yields uint8 without normalisation.

    Raises:
        RequestError: an argument is out of its range, or there is no such dataset or split.
    """
    _check_ranks(batch, rank, world_size)
    normalized = Normalize(*_statistics(dataset, normalize), device)
    pool, share = _pool(dataset, split), batch // world_size
    everything = np.arange(len(pool))
    mine = everything[everything % batch // share == rank]
    steps = math.ceil(len(mine) / share)

    def batches(step: int) -> Batches:
        remaining = pool.subset(mine[step % steps * share :])
        for one in center_batches(remaining, batch=share, size=size, workers=workers):
            images = one.images if raw else [normalized(view) for view in one.images]
            yield _batch(remaining, one, images, device)

    identity = {"data": pool.digest, "batch": batch}
    return Loader(batches, steps, identity, pool.close)


def _batch(
    pool: Pool, batch: Batch, images: list[Tensor], device: torch.device | str
) -> ImageBatch:
    keys = [pool.key(i) for i in batch.indices.tolist()]
    views = tuple(view.to(device, non_blocking=True) for view in images)
    return ImageBatch(views, batch.labels.to(device, non_blocking=True), keys)


def _pool(dataset: Dataset, split: str) -> Pool:
    return Pool([open_split(open_store(dataset.store), dataset.name, split)])


def _statistics(dataset: Dataset, name: str) -> tuple[RGB, RGB]:
    known = {**NORMALIZE, "dataset": (dataset.mean, dataset.std)}
    if name not in known:
        raise RequestError(
            f"no statistics {name}",
            where="normalize",
            allowed=", ".join(known),
            fix=nearest(name, known),
        )
    return known[name]


def _check_ranks(batch: int, rank: int, world_size: int) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise RequestError(f"rank {rank} is not one of {world_size} ranks", where="rank")
    if batch < 1 or batch % world_size:
        raise RequestError(
            f"a batch of {batch} images cannot be shared out evenly over {world_size} ranks",
            where="batch",
            allowed=f"a multiple of {world_size}",
        )
