"""Batch-norm statistics of a trained detector, taken anew on training batches (precise BN)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from hpt_dist.methods.detection import Detection
from hpt_dist.networks import refresh
from hpt_dist.networks.precision import autocast
from hpt_dist.networks.refresh import Moments
from hpt_dist.reading.stream import Pool
from hpt_dist.recipe import Detect
from hpt_dist.stages import detect_inputs
from hpt_dist.stages.trained import Training


def take_anew(training: Training, spec: Detect, method: Detection, pool: Pool) -> None:
    """Replace the running statistics by those of the batches after the last step.

    Each layer normalises by its batch meanwhile, as in training, and so do those of regions, which
    are sampled as in training (Wu and Johnson, arXiv 2105.07576). A collective call.

    Args:
        training: the trial.
        spec: its settings.
        method: trained; its statistics are replaced, those of frozen layers apart.
        pool: what it learned from.
    """
    device = training.accelerator.device
    method.train()
    seen: dict[str, list[Moments]] = {}
    feed = detect_inputs.feed_of(training, spec, pool)
    with torch.no_grad(), feed(spec.steps) as batches, refresh.watching(method) as found:
        for _ in range(spec.precise_batch_norm):
            (inputs,) = next(batches)
            with autocast(spec.numerics, device):
                method(inputs, 0)
        moving = {name for name, layer in refresh.layers_of(method).items() if layer.training}
        seen = {name: found[name] for name in found if name in moving}
    moments = _over_ranks({name: refresh.pooled(parts) for name, parts in seen.items()}, training)
    method.load_state_dict(refresh.refreshed(method.state_dict(), moments, 1.0))


def _over_ranks(own: dict[str, Moments], training: Training) -> dict[str, Moments]:
    ranks = training.accelerator.num_processes
    if ranks == 1:
        return own
    shares: list[Any] = [None] * ranks
    dist.all_gather_object(shares, own)
    return {name: refresh.pooled([share[name] for share in shares]) for name in own}
