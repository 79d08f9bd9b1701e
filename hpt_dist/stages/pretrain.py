"""Pretrain without labels from the backbone of another stage; leave what validation keeps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from hpt_dist.errors import HptError
from hpt_dist.methods import METHODS, Anchored, Method
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.stream import Batch, Pool, View, batch_keys, network_views
from hpt_dist.recipe import METHOD_SETTINGS, SCALING_BATCH, Pretrain, plugins
from hpt_dist.stages import averages, forgetting, monitor, pictures
from hpt_dist.stages.inputs import ahead, photometric_of, pool_of, stream_of
from hpt_dist.stages.trained import Training, begin_training
from hpt_dist.train import optim
from hpt_dist.train.loop import Feed, Inputs
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result
from hpt_dist.weights import values

log = logging.getLogger(__name__)


def run(context: Context, spec: Pretrain) -> Result:
    """Pretrain; see the module."""
    pool = pool_of(context, spec.data)
    training = begin_training(context, spec)
    backbone, ranks = training.backbone, training.accelerator.num_processes
    names = backbones.trainable_parameters(backbone, spec.train)
    log.info("%d parameters of the backbone learn (train: %s)", len(names), spec.train)
    method = training.on_device(_method(spec, backbone))
    if spec.anchor:  # while the backbone has the weights that it starts from, as in each restart
        method = Anchored(method, spec.anchor.weight)
    method.group_batch_norm(spec.batch, spec.bn_group, ranks)
    if spec.lr_scaling != "none":
        scaled = f"{spec.optimizer.lr:g} scaled by batch {spec.batch} / {SCALING_BATCH}"
        log.info("peak learning rate %g: %s, %s", spec.peak_lr, scaled, spec.lr_scaling)
    outcome = training.fit(
        method,
        spec.optimizer,
        peak_lr=spec.peak_lr,
        rates=partial(_rates, spec),
        feed=_feed(training, spec, pool),
        images_per_step=2 * spec.batch,
        evaluation=monitor.evaluation_of(
            context, spec, backbone, training.accelerator, training.replacements
        ),
        keys_of=partial(_keys, spec, pool),
        steps=spec.steps,
        saves_last=bool(spec.averages) or forgetting.is_asked(spec),
    )
    chose = averages.choose(training, spec, outcome.selection)
    state = outcome.selection.weights if spec.keeps_best else backbone.state_dict()
    values.require_finite(state)
    metrics, details = monitor.kept_metrics(outcome.selection, spec)
    details |= forgetting.judged(training, spec, state, details)
    if change := monitor.change(
        context, spec, backbone, training.accelerator, training.replacements
    ):
        details["change"] = change
    shown = pictures.of_training(context, spec, pool, state, training)
    return Result(
        metrics,
        {"pool_images": len(pool), **details},
        weights={name: value.cpu() for name, value in state.items()},
        seconds_before=outcome.seconds_before,
        numerics=training.computed,
        curves=tuple(metrics),
        chose=chose,
        replaced=outcome.replaced,
        pictures=shown,
    )


def _method(spec: Pretrain, backbone: Backbone) -> Method:
    if spec.method not in METHOD_SETTINGS:
        return _plugged(spec, backbone)
    settings: dict[str, Any] = getattr(spec, METHOD_SETTINGS[spec.method]).model_dump()
    if spec.method == "byol":
        settings["steps"] = spec.steps  # over which the target's momentum rises
    return METHODS[spec.method](backbone, backbone.feature_dim, **settings, seed=spec.seed)


def _plugged(spec: Pretrain, backbone: Backbone) -> Method:
    """Return the method that another distribution offers; see `Method`."""
    arguments = (backbone, backbone.feature_dim)
    made = plugins.make("method", spec.method, *arguments, **spec.method_settings, seed=spec.seed)
    kept, phases = (getattr(made, name, None) for name in ("backbone", "phases"))
    if not isinstance(made, Method) or kept is not backbone or phases != 1:
        raise HptError(
            "it is no hpt_dist.methods.Method with one phase that trains the backbone it was given",
            where=f"method {spec.method}",
            fix="see hpt_dist.methods.Method",
        )
    return made


def _feed(training: Training, spec: Pretrain, pool: Pool) -> Feed:
    """Feed two random views of each image."""
    context, accelerator = training.context, training.accelerator
    size = context.order.image_size
    policies = (spec.augment, spec.augment_other or spec.augment)
    photometrics = [photometric_of(context, policy, accelerator.device) for policy in policies]

    def inputs(batch: Batch) -> tuple[Inputs, ...]:
        views = network_views(batch, photometrics, spec.seed)
        return (tuple(view.contiguous(memory_format=training.memory_format) for view in views),)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with stream_of(
            context,
            pool,
            accelerator,
            batch=spec.batch,
            seed=spec.seed,
            views=[View(size, policy.crop_area) for policy in policies],
            streams=spec.shuffle.streams,
            window=spec.shuffle.window,
            replacements=training.replacements,
        ) as stream:
            stream.load_state_dict({"step": start})
            with ahead(map(inputs, stream), accelerator.device) as batches:
                yield batches

    return feed


def _keys(spec: Pretrain, pool: Pool, step: int) -> list[str]:
    """Return the keys of the images of a step's global batch."""
    streams, window = spec.shuffle.streams, spec.shuffle.window
    return batch_keys(pool, step, batch=spec.batch, seed=spec.seed, streams=streams, window=window)


def _rates(spec: Pretrain, optimizer: torch.optim.Optimizer, step: int) -> float:
    rate = optim.schedule(spec.schedule, step, spec.steps, spec.warmup_steps)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.peak_lr * rate
