"""Turn the specs of trials that train into objects, and run them."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import torch

from hpt_dist.datasets import fewshot
from hpt_dist.evals.features import evaluating
from hpt_dist.images.photometric import Normalize
from hpt_dist.methods import METHODS, MME, Method
from hpt_dist.networks import backbones, batch_norm, precision
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import Pool, center_batches
from hpt_dist.recipe import METHOD_SETTINGS, SCALING_BATCH, Mme, Optimizer, Pretrain, Trained
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.recipe.plan import numerics_of
from hpt_dist.stages import monitor
from hpt_dist.stages.inputs import (
    accelerator_of,
    backbone_of,
    manifest_of,
    mean_std,
    mme_feed,
    mme_keys,
    pool_of,
    two_view_feed,
    two_view_keys,
)
from hpt_dist.train import optim
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.loop import Accelerator, Loop, fit
from hpt_dist.train.selection import Evaluation, Look
from hpt_dist.trial.run import Context, Result

log = logging.getLogger(__name__)

_EVAL_BATCH = 256


def run_pretrain(context: Context) -> Result:
    """Pretrain without labels from the backbone of another stage; leave what validation keeps."""
    spec = context.spec(Pretrain)
    accelerator = accelerator_of(context)
    pool = pool_of(context, spec.data)
    backbone = backbone_of(context)
    names = backbones.trainable_parameters(backbone, spec.train)
    log.info("%d parameters of the backbone learn (train: %s)", len(names), spec.train)
    numerics = _prepare(spec, backbone)
    method = _on(accelerator, _method(spec, backbone), numerics)
    method.group_batch_norm(spec.batch, spec.bn_group, accelerator.num_processes)
    if spec.lr_scaling != "none":
        told = f"{spec.optimizer.lr:g} scaled by batch {spec.batch} / {SCALING_BATCH}"
        log.info("peak learning rate %g: %s, %s", spec.peak_lr, told, spec.lr_scaling)
    loop = Loop(
        method=method,
        optimizer=_optimizer(method, spec.optimizer, spec.peak_lr, numerics),
        set_rates=partial(_pretrain_rates, spec),
        feed=two_view_feed(context, spec, pool, accelerator, precision.torch_format(numerics)),
        steps=spec.steps,
        images_per_step=2 * spec.batch,
        checkpoints=Checkpoints(context.root),
        checkpoint_every=spec.checkpoint_every,
        evaluation=monitor.of(context, spec, backbone, accelerator),
        numerics=numerics,
        held_steps=spec.head_warmup_steps,
        keys_of=partial(two_view_keys, spec, pool),
    )
    outcome = fit(loop, accelerator, context, context.interrupt)
    state = outcome.selection.weights if spec.keeps_best else backbone.state_dict()
    metrics, details = monitor.told(outcome.selection, spec)
    return Result(
        metrics,
        {"pool_images": len(pool), **details},
        weights={name: value.cpu() for name, value in state.items()},
        seconds_before=outcome.seconds_before,
        numerics=precision.in_words(numerics, context.job.trial.device),
        curves=tuple(metrics),
    )


def run_mme(context: Context) -> Result:
    """Adapt to a target domain; select on its val, then read its test once."""
    spec = context.spec(Mme)
    accelerator = accelerator_of(context)
    num_classes = len(manifest_of(context, spec.target).classes)
    train = pool_of(context, (f"{spec.target}/train",))
    labelled = _labelled(spec, train, num_classes)
    unlabelled = np.setdiff1d(np.arange(len(train)), labelled)
    backbone = backbone_of(context)
    batch = 2 * spec.batch_labelled
    numerics = _prepare(spec, backbone)
    method = MME(
        backbone,
        backbone.feature_dim,
        num_classes,
        head_dim=spec.head_dim,
        temperature=spec.temperature,
        entropy_weight=spec.entropy_weight,
        objective=spec.objective,
        seed=spec.seed,
    )
    _on(accelerator, method, numerics)
    method.group_batch_norm(batch, None, accelerator.num_processes)
    pools = {
        "source": pool_of(context, (spec.source,)),
        "labelled": train.subset(labelled),
        "unlabelled": train.subset(unlabelled),
    }
    accuracy = partial(_accuracy, context, accelerator, spec.target)
    loop = Loop(
        method=method,
        optimizer=_optimizer(method, spec.optimizer, spec.optimizer.lr, numerics),
        set_rates=partial(_inverse_rates, spec),
        feed=mme_feed(context, spec, pools, accelerator, precision.torch_format(numerics)),
        steps=spec.steps,
        images_per_step=batch + (method.phases - 1) * spec.batch_unlabelled,
        checkpoints=Checkpoints(context.root),
        checkpoint_every=spec.checkpoint_every,
        evaluation=Evaluation(
            every=spec.eval_every,
            run=lambda: Look({"val/top1": accuracy("val", method)[0]}),
            keeps=method,
            select_on="val/top1",
            patience=spec.patience,
        ),
        numerics=numerics,
        held_steps=spec.head_warmup_steps,
        keys_of=partial(mme_keys, spec, pools),
    )
    outcome = fit(loop, accelerator, context, context.interrupt)
    method.load_state_dict(outcome.selection.weights)
    test_top1, n_test = accuracy("test", method)
    return Result(
        {"val/top1": outcome.selection.best_value, "test/top1": test_top1},
        {
            "selected": {"step": outcome.selection.best_step},
            "val/top1_by_step": {str(s): m["val/top1"] for s, m in outcome.selection.history},
            "n_labelled": len(labelled),
            "n_unlabelled": len(unlabelled),
            "n_val": len(pool_of(context, (f"{spec.target}/val",))),
            "n_test": n_test,
        },
        model={name: value.cpu() for name, value in method.state_dict().items()},
        seconds_before=outcome.seconds_before,
        numerics=precision.in_words(numerics, context.job.trial.device),
        curves=("val/top1",),
    )


def _method(spec: Pretrain, backbone: Backbone) -> Method:
    settings: dict[str, Any] = getattr(spec, METHOD_SETTINGS[spec.method]).model_dump()
    if spec.method == "byol":
        settings["steps"] = spec.steps  # over which the target's momentum rises
    return METHODS[spec.method](backbone, backbone.feature_dim, **settings, seed=spec.seed)


def _prepare(spec: Trained, backbone: Backbone) -> Numerics:
    """Freeze what is to be frozen; return how to compute, as the plan decided."""
    if spec.batch_norm == "frozen":
        batch_norm.freeze(backbone)
    numerics = numerics_of(spec)
    log.info("computes in %s", numerics)
    return numerics


def _on(accelerator: Accelerator, method: Method, numerics: Numerics) -> Method:
    """Put a method on the device, in the memory format that it computes in."""
    memory_format = precision.torch_format(numerics)
    return method.to(accelerator.device).to(memory_format=memory_format).train()


def _optimizer(
    method: Method, spec: Optimizer, lr: float, numerics: Numerics
) -> torch.optim.Optimizer:
    """Return the optimizer of a method that is on its device, in its memory format."""
    settings = {**spec.model_dump(), "lr": lr, "fused": numerics.precision != "float16"}
    return optim.build(method, method.backbone, **settings)


def _labelled(spec: Mme, train: Pool, num_classes: int) -> Ints:
    """Return which images of the target's train have their labels used."""
    if spec.shots:
        return fewshot.k_shot(train.labels, num_classes, spec.shots, spec.seed)
    return fewshot.n_labels(train.labels, num_classes, spec.labels or 0, spec.seed)


def _accuracy(
    context: Context, accelerator: Accelerator, target: str, split: str, method: MME
) -> tuple[float, int]:
    """Return the share of a split's images that a method classifies rightly, and their number.

    Each rank looks at its share of them.
    """
    pool = pool_of(context, (f"{target}/{split}",))
    share = pool.subset(monitor.share_of(np.arange(len(pool)), accelerator))
    device = accelerator.device
    normalize = Normalize(*mean_std(context), device)
    size, threads = context.job.image_size, context.job.threads
    right = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode(), evaluating(method):
        for batch in center_batches(share, batch=_EVAL_BATCH, size=size, workers=threads):
            answers = method.predict(normalize(batch.images[0])).argmax(dim=1)
            right += (answers == batch.labels.to(device)).sum()
    if accelerator.num_processes > 1:
        right = accelerator.reduce(right.clone(), "sum")
    return int(right) / len(pool), len(pool)


def _pretrain_rates(spec: Pretrain, optimizer: torch.optim.Optimizer, step: int) -> float:
    rate = optim.schedule(spec.schedule, step, spec.steps, spec.warmup_steps)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.peak_lr * rate


def _inverse_rates(spec: Mme, optimizer: torch.optim.Optimizer, step: int) -> float:
    rate = optim.inverse_decay(step)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.optimizer.lr * rate
