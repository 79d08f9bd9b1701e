"""What a trained method answers to the images of a split, and what a trial keeps of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpt_dist.errors import DivergedError, HptError
from hpt_dist.evals import metrics
from hpt_dist.evals.features import evaluating
from hpt_dist.evals.metrics import Floats
from hpt_dist.images.photometric import Normalize
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import Pool, center_batches
from hpt_dist.stages import monitor
from hpt_dist.stages.inputs import EVAL_BATCH, manifest_of, mean_std
from hpt_dist.train.loop import Accelerator
from hpt_dist.trial.context import Context
from hpt_dist.trial.predictions import Predictions

log = logging.getLogger(__name__)


def logits_of(
    context: Context,
    accelerator: Accelerator,
    module: nn.Module,
    predict: Callable[[Tensor], Tensor],
    pool: Pool,
    *,
    heeds: bool = False,
    squash: bool = False,
) -> Tensor:
    """Return what a method answers to the images of a pool, in its order; a collective call.

    Each rank looks at its share of them.

    Args:
        context: of the trial.
        accelerator: its device and ranks.
        module: what answers; it is in evaluation mode meanwhile.
        predict: normalised images [b, 3, h, w] -> logits [b, num_classes], by the module.
        pool: the images.
        heeds: whether a stop may end it, where one process looks and a state is saved.
        squash: how the middle of images is cut; see `crops.squashed_box`.

    Returns:
        float32 [n, num_classes], on the CPU of every rank.

    Raises:
        DivergedError: answers are not finite, on every rank.
    """
    normalize = Normalize(*mean_std(context), accelerator.device)
    share: Ints = monitor.share_of(np.arange(len(pool)), accelerator)
    alone = accelerator.num_processes == 1
    batches = center_batches(
        pool,
        batch=EVAL_BATCH,
        size=context.order.image_size,
        workers=context.order.threads,
        rows=share,
        squash=squash,
    )
    with torch.inference_mode(), evaluating(module):
        heeded = context.interrupt.heeding(batches) if heeds and alone else batches
        ours = [predict(normalize(one.images[0])).cpu() for one in heeded]
    shares: list[Any] = [ours]
    if not alone:
        shares = [None] * accelerator.num_processes
        dist.all_gather_object(shares, ours)
    logits = torch.cat([one for answered in shares for one in answered])
    if bad := len(logits) - int(logits.isfinite().all(dim=1).sum()):
        raise DivergedError(
            f"the answers to {bad} of {len(logits)} images are not finite",
            where=pool.splits[0].name,
            fix="lower the learning rate of this training, or look at the weights it starts from",
        )
    return logits


def predictions_of(context: Context, reference: str, pool: Pool, scores: Floats) -> Predictions:
    """Return what a trial keeps of a model's answers.

    Args:
        context: of the trial.
        reference: dataset/split, by the recipe's names.
        pool: all images of the split.
        scores: of them, log-odds [n, num_classes].
    """
    manifest = manifest_of(context, reference)
    several = manifest.label == "multi"
    labels = pool.members if several else pool.labels
    return Predictions(
        dataset=manifest.name,
        digest=manifest.digest,
        split=reference.partition("/")[2],
        classes=tuple(manifest.classes),
        keys=tuple(pool.keys),
        files=_files(pool),
        labels=labels,
        scores=scores,
        average_precisions=metrics.average_precisions(scores, labels) if several else (),
    )


def _files(pool: Pool) -> dict[str, str]:
    """Return the files of the source by key; a note that cannot be read ends no evaluation."""
    try:
        return {key: file for split in pool.splits for key, file in split.files().items()}
    except HptError as error:
        log.warning("predictions name no files of the source: %s", error)
        return {}
