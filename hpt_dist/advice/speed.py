"""How fast this machine trains: some real steps, thrown away. Imports torch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hpt_dist.advice.clock import Clock
from hpt_dist.advice.facts import Speed
from hpt_dist.errors import TrainingError
from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.images.photometric import Photometric
from hpt_dist.methods import METHODS, Method
from hpt_dist.networks import backbones, batch_norm, precision
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.stream import Batch, Pool, Stream, View, network_views
from hpt_dist.recipe import METHOD_SETTINGS, Pretrain
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.stages.inputs import ahead
from hpt_dist.train import optim
from hpt_dist.train.loop import Inputs

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

    Raises:
        TrainingError: a step does not fit into the memory of the GPU.
    """
    spec = Pretrain.model_validate(
        {"kind": "pretrain", "init": "base", "data": ["x/y"], **settings}
    )
    layout = precision.torch_format(numerics)
    method = _method(spec, backbone).to(device).to(memory_format=layout).train()
    method.group_batch_norm(spec.batch, None, 1)
    photometrics = [Photometric(spec.augment, *NORMALIZE[normalize], device)] * 2

    def views(batch: Batch) -> Inputs:
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
    try:
        with stream, ahead(map(views, stream), device) as batches:
            timed = clock.within(batches, least=_WARMUP + _LEAST)
            steps, seconds, cpu_seconds = _timed(method, spec, timed, numerics, device)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"a step of {spec.batch} images of {size} pixels does not fit into the GPU's memory",
            fix="name a smaller base with --base; or CUDA_VISIBLE_DEVICES= for a CPU's recipe",
        ) from error
    share = cpu_seconds / seconds / threads if device.type == "cpu" else 1.0
    rate = 2 * spec.batch * steps / seconds
    return Speed(size, spec.batch, round(rate, 1), steps, round(min(1.0, share), 2))


def _method(spec: Pretrain, backbone: Backbone) -> Method:
    """Return what learns, as a stage of these settings would have it."""
    if spec.batch_norm == "frozen":
        batch_norm.freeze(backbone)
    backbones.trainable_parameters(backbone, spec.train)
    group: dict[str, Any] = getattr(spec, METHOD_SETTINGS[spec.method]).model_dump()
    return METHODS[spec.method](backbone, backbone.feature_dim, **group, seed=0)


def _timed(
    method: Method,
    spec: Pretrain,
    batches: Iterable[Inputs],
    numerics: Numerics,
    device: torch.device,
) -> tuple[int, float, float]:
    """Take steps; return how many were measured, their seconds, and their CPU seconds."""
    optimizer = optim.build(method, method.backbone, **spec.optimizer.model_dump())
    done, began, cpu_began = 0, 0.0, 0.0
    for inputs in itertools.islice(batches, _WARMUP + _MOST):
        if done == _WARMUP:
            _wait(device)
            began, cpu_began = time.monotonic(), time.process_time()
        with precision.autocast(numerics, device):
            loss = method(inputs, 0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        done += 1
        method.after_step(done)
    _wait(device)
    return done - _WARMUP, time.monotonic() - began, time.process_time() - cpu_began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
