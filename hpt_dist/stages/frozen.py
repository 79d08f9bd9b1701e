"""Frozen features of a dataset, for the kinds that judge them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hpt_dist.evals.features import Labelled, extract
from hpt_dist.images.photometric import Normalize
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.stream import Batch, Pool, View, center_batches, crop_batches, network_views
from hpt_dist.recipe import Augment
from hpt_dist.stages.inputs import (
    EVAL_BATCH,
    accelerator_of,
    backbone_of,
    mean_std,
    photometric_of,
    pool_of,
)
from hpt_dist.train.interrupt import BY_PEOPLE
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights.head import Head

# torchvision's default of random resized crops, which linear evaluation trains on.
_CROP_AREA = (0.08, 1.0)
_METRICS = ("val/top1", "test/top1")


def features_of(
    context: Context, data: str, *, views: int, seed: int, replacements: Replacements | None = None
) -> tuple[Labelled, Labelled, Labelled | None]:
    """Return the frozen features of a dataset's train, val and, not for a candidate, test.

    Those of train are [n, d] without augmented copies (`views` 0), else [views, n, d]. Only damaged
    images of train may be replaced, by others with their labels: val and test judge.
    """
    frozen = Frozen(context, data)
    train = (
        frozen.copies(views, seed, replacements) if views else frozen.split("train", replacements)
    )
    test = None if context.order.trial.is_candidate else frozen.split("test")
    return train, frozen.split("val"), test


class Frozen:
    """The frozen features of a dataset's splits.

    Args:
        context: of the trial.
        data: the dataset, as the recipe names it.
    """

    def __init__(self, context: Context, data: str) -> None:
        self._context, self._data = context, data
        self._device = accelerator_of(context).device
        backbone = backbone_of(context).to(self._device)
        self._backbone = backbone.to(memory_format=torch.channels_last)

    def split(self, split: str, replacements: Replacements | None = None) -> Labelled:
        """Return the features [n, d] of a split, each of the middle of its image."""
        normalize = Normalize(*mean_std(self._context), self._device)
        order = self._context.order
        batches = center_batches(
            self._pool(split),
            batch=EVAL_BATCH,
            size=order.image_size,
            workers=order.threads,
            replacements=replacements,
        )
        return self._features(batches, lambda batch: normalize(batch.images[0]))

    def copies(self, views: int, seed: int, replacements: Replacements | None) -> Labelled:
        """Return the features [views, n, d] of augmented copies of train."""
        pool, order = self._pool("train"), self._context.order
        policy = Augment(jitter=0, gray=0, blur=0)
        photometric = photometric_of(self._context, policy, self._device)
        made = []
        for epoch in range(views):
            batches = crop_batches(
                pool,
                batch=EVAL_BATCH,
                view=View(order.image_size, _CROP_AREA),
                seed=seed,
                epoch=epoch,
                workers=order.threads,
                replacements=replacements,
            )
            made.append(
                self._features(batches, lambda batch: network_views(batch, [photometric], seed)[0])
            )
        return Labelled(torch.stack([copy.features for copy in made]), made[-1].labels)

    def _pool(self, split: str) -> Pool:
        return pool_of(self._context, (f"{self._data}/{split}",))

    def _features(self, batches: Iterator[Batch], prepared: Callable[[Batch], Tensor]) -> Labelled:
        labels = []

        def images() -> Iterator[Tensor]:
            # No state is saved: at a scheduler's warning it may still come to its end.
            for batch in self._context.interrupt.heeding(batches, *BY_PEOPLE):
                labels.append(batch.labels)
                yield prepared(batch)

        found = extract(self._backbone, images(), self._device)
        return Labelled(found, torch.cat(labels))


def judged(
    found: dict[str, Any], replacements: Replacements | None = None, head: Head | None = None
) -> Result:
    """Return the result of an evaluation: what validation chose, its details and its classifier."""
    metrics = {name: found.pop(name) for name in _METRICS if name in found}
    return Result(metrics, found, head=head, replaced=replacements.until(0) if replacements else ())
