"""Frozen features of a dataset, for the kinds that judge them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hpt_dist.evals.features import Labelled, extract
from hpt_dist.images.photometric import Normalize
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.stream import Batch, View, center_batches, crop_batches, network_views
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


def features_of(
    context: Context, data: str, *, views: int, seed: int, replacements: Replacements | None = None
) -> tuple[Labelled, Labelled, Labelled]:
    """Return the frozen features of a dataset's train, val and test.

    Those of train are [n, d] without augmented copies (`views` 0), else [views, n, d]. Only damaged
    images of train may be replaced, by others with their labels: val and test judge.
    """
    accelerator = accelerator_of(context)
    backbone = backbone_of(context).to(accelerator.device).to(memory_format=torch.channels_last)
    normalize = Normalize(*mean_std(context), accelerator.device)
    size, threads = context.order.image_size, context.order.threads

    def features(batches: Iterator[Batch], prepared: Callable[[Batch], Tensor]) -> Labelled:
        labels = []

        def images() -> Iterator[Tensor]:
            # No state is saved: at a scheduler's warning it may still come to its end.
            for batch in context.interrupt.heeding(batches, *BY_PEOPLE):
                labels.append(batch.labels)
                yield prepared(batch)

        found = extract(backbone, images(), accelerator.device)
        return Labelled(found, torch.cat(labels))

    def labelled(split: str, allowed: Replacements | None = None) -> Labelled:
        pool = pool_of(context, (f"{data}/{split}",))
        batches = center_batches(
            pool, batch=EVAL_BATCH, size=size, workers=threads, replacements=allowed
        )
        return features(batches, lambda batch: normalize(batch.images[0]))

    def copies() -> Labelled:
        pool = pool_of(context, (f"{data}/train",))
        policy = Augment(jitter=0, gray=0, blur=0)
        photometric = photometric_of(context, policy, accelerator.device)
        made = []
        for epoch in range(views):
            batches = crop_batches(
                pool,
                batch=EVAL_BATCH,
                view=View(size, _CROP_AREA),
                seed=seed,
                epoch=epoch,
                workers=threads,
                replacements=replacements,
            )
            made.append(
                features(batches, lambda batch: network_views(batch, [photometric], seed)[0])
            )
        return Labelled(torch.stack([copy.features for copy in made]), made[-1].labels)

    train = labelled("train", replacements) if not views else copies()
    return train, labelled("val"), labelled("test")


def judged(
    found: dict[str, Any], replacements: Replacements | None = None, head: Head | None = None
) -> Result:
    """Return the result of an evaluation: what validation chose, its details and its classifier."""
    metrics = {name: found.pop(name) for name in ("val/top1", "test/top1")}
    return Result(metrics, found, head=head, replaced=replacements.until(0) if replacements else ())
