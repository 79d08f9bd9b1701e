"""Frozen features of a dataset, for the kinds that judge them."""

from __future__ import annotations

from typing import Any

import torch

from hpt_dist.evals.features import Labelled, extract
from hpt_dist.images.photometric import Normalize
from hpt_dist.reading.stream import View, center_batches, crop_batches, network_views
from hpt_dist.recipe import Augment
from hpt_dist.stages.inputs import (
    EVAL_BATCH,
    accelerator_of,
    backbone_of,
    mean_std,
    photometric_of,
    pool_of,
)
from hpt_dist.trial.run import Context, Result

# torchvision's default of random resized crops, which linear evaluation trains on.
_CROP_AREA = (0.08, 1.0)


def features_of(
    context: Context, data: str, *, views: int, seed: int
) -> tuple[Labelled, Labelled, Labelled]:
    """Return the frozen features of a dataset's train, val and test.

    Those of train are [n, d] without augmented copies (`views` 0), else [views, n, d].
    """
    accelerator = accelerator_of(context)
    backbone = backbone_of(context).to(accelerator.device).to(memory_format=torch.channels_last)
    normalize = Normalize(*mean_std(context), accelerator.device)
    size, threads = context.order.image_size, context.order.threads

    def labelled(split: str) -> Labelled:
        pool = pool_of(context, (f"{data}/{split}",))
        batches = center_batches(pool, batch=EVAL_BATCH, size=size, workers=threads)
        images = (normalize(batch.images[0]) for batch in batches)
        features = extract(backbone, images, accelerator.device)
        return Labelled(features, torch.from_numpy(pool.labels))

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
            )
            images = (network_views(batch, [photometric], seed)[0] for batch in batches)
            made.append(extract(backbone, images, accelerator.device))
        return Labelled(torch.stack(made), torch.from_numpy(pool.labels))

    train = labelled("train") if not views else copies()
    return train, labelled("val"), labelled("test")


def judged(found: dict[str, Any]) -> Result:
    """Return the result of an evaluation: what validation chose, and its details."""
    metrics = {name: found.pop(name) for name in ("val/top1", "test/top1")}
    return Result(metrics, found)
