"""How fast this machine trains: some real steps, thrown away. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from hpt_dist.advice.clock import Clock
from hpt_dist.advice.facts import Speed
from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.images.photometric import Photometric
from hpt_dist.methods import METHODS
from hpt_dist.networks import backbones, batch_norm, precision
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.stream import Batch, Pool, Stream, View, network_views
from hpt_dist.recipe import METHOD_SETTINGS, Pretrain
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.stages.inputs import ahead
from hpt_dist.train import optim

_WARMUP, _LEAST, _MOST = 2, 2, 30


def of_training(
    backbone: Backbone,
    pool: Pool,
    settings: Mapping[str, Any],
    *,
    size: int,
    normalize: str,
    numerics: Numerics,
    device: torch.device,
    threads: int,
    clock: Clock,
) -> Speed:
    """Return how many image views a second a pretraining stage consumes.

    Args:
        backbone: with its weights; it is trained, and of no use afterwards.
        pool: the images; damaged ones are replaced.
        settings: of the stage, as a recipe has them.
        size: side of the images, pixels.
        normalize: by which name their pixels are normalised.
        numerics: how it computes.
        device: that computes.
        threads: that read and decode.
        clock: at least some steps are taken.
    """
    spec = Pretrain.model_validate(
        {"kind": "pretrain", "init": "base", "data": ["x/y"], **settings}
    )
    if spec.batch_norm == "frozen":
        batch_norm.freeze(backbone)
    backbones.trainable_parameters(backbone, spec.train)
    group: dict[str, Any] = getattr(spec, METHOD_SETTINGS[spec.method]).model_dump()
    method = METHODS[spec.method](backbone, backbone.feature_dim, **group, seed=0)
    layout = precision.torch_format(numerics)
    method.to(device).to(memory_format=layout).train()
    method.group_batch_norm(spec.batch, None, 1)
    optimizer = optim.build(method, backbone, **spec.optimizer.model_dump())
    photometrics = [Photometric(spec.augment, *NORMALIZE[normalize], device)] * 2

    def views(batch: Batch) -> tuple[torch.Tensor, ...]:
        made = network_views(batch, photometrics, 0)
        return tuple(view.contiguous(memory_format=layout) for view in made)

    stream = Stream(
        pool,
        batch=spec.batch,
        seed=0,
        views=[View(size, spec.augment.crop_area)] * 2,
        workers=threads,
        replacements=Replacements(len(pool)),
    )
    done, began, cpu = 0, 0.0, 0.0
    with stream, ahead(map(views, stream), device) as batches:
        for inputs in clock.within(batches, least=_WARMUP + _LEAST):
            if done == _WARMUP:
                _wait(device)
                began, cpu = time.monotonic(), time.process_time()
            elif done == _WARMUP + _MOST:
                break
            with precision.autocast(numerics, device):
                loss = method(inputs, 0)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            done += 1
            method.after_step(done)
    _wait(device)
    steps = done - _WARMUP
    seconds = time.monotonic() - began
    share = (time.process_time() - cpu) / seconds / threads if device.type == "cpu" else 1.0
    rate = 2 * spec.batch * steps / seconds
    return Speed(size, spec.batch, round(rate, 1), steps, round(min(1.0, share), 2))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
