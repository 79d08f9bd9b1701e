"""Adapt to a target domain; select on its val, then read its test once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hpt_dist.datasets import fewshot
from hpt_dist.errors import DataError
from hpt_dist.evals import answers
from hpt_dist.evals.metrics import log_odds
from hpt_dist.methods import MME
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import Batch, Pool, View, batch_keys, network_views
from hpt_dist.recipe import Augment, Mme
from hpt_dist.stages.choice import Left
from hpt_dist.stages.inputs import (
    ahead,
    manifest_of,
    photometric_of,
    pool_of,
    stream_of,
)
from hpt_dist.stages.predictions import logits_of, predictions_of
from hpt_dist.stages.trained import Training, begin_training
from hpt_dist.train import optim
from hpt_dist.train.loop import Accelerator, Feed, Inputs
from hpt_dist.train.selection import Evaluation, Look
from hpt_dist.trial.run import Context, Result


def run(context: Context, spec: Mme) -> Result:
    """Adapt; see the module."""
    num_classes = len(manifest_of(context, spec.target).classes)
    train = pool_of(context, (f"{spec.target}/train",))
    labelled = _labelled(spec, train, num_classes)
    unlabelled = np.setdiff1d(np.arange(len(train)), labelled)
    pools = {
        "source": pool_of(context, (spec.source,)),
        "labelled": train.subset(labelled),
        "unlabelled": train.subset(unlabelled),
    }
    training = begin_training(context, spec)
    method = training.on_device(_method(spec, training.backbone, num_classes))
    batch = 2 * spec.batch_labelled
    method.group_batch_norm(batch, None, training.accelerator.num_processes)
    outcome = training.fit(
        method,
        spec.optimizer,
        peak_lr=spec.optimizer.lr,
        rates=partial(_rates, spec),
        feed=_feed(training, spec, pools),
        images_per_step=batch + (method.phases - 1) * spec.batch_unlabelled,
        evaluation=Evaluation(
            every=spec.eval_every,
            run=partial(_look, context, training.accelerator, spec.target, method),
            keeps=method,
            select_on="val/top1",
            patience=spec.patience,
        ),
        keys_of=partial(_keys, spec, pools),
        steps=spec.steps,
    )
    method.load_state_dict(outcome.selection.weights)
    answered = partial(_answered, context, training.accelerator, spec.target, method)
    on_val = answered("val")
    on_test = Result({}) if context.order.trial.is_candidate else answered("test")
    return Result(
        {"val/top1": outcome.selection.best_value, **on_test.metrics},
        {
            "selected": {"step": outcome.selection.best_step},
            "val/top1_by_step": {str(s): m["val/top1"] for s, m in outcome.selection.history},
            "n_labelled": len(labelled),
            "n_unlabelled": len(unlabelled),
            **on_val.details,
            **on_test.details,
            "intervals": {**on_val.details["intervals"], **on_test.details.get("intervals", {})},
        },
        model={name: value.cpu() for name, value in method.state_dict().items()},
        seconds_before=outcome.seconds_before,
        numerics=training.computed,
        curves=("val/top1",),
        replaced=outcome.replaced,
        predictions={**on_val.predictions, **on_test.predictions},
        replicates={**on_val.replicates, **on_test.replicates},
    )


def read_test(context: Context, spec: Mme, left: Left) -> Result:
    """Return what the model that a candidate left says of test."""
    if left.model is None:
        raise DataError(f"{context.order.trial.name} left no model")
    training = begin_training(context, spec)
    num_classes = len(manifest_of(context, spec.target).classes)
    method = training.on_device(_method(spec, training.backbone, num_classes))
    method.load_state_dict(left.model)
    return _answered(context, training.accelerator, spec.target, method, "test")


def _method(spec: Mme, backbone: Backbone, num_classes: int) -> MME:
    return MME(
        backbone,
        backbone.feature_dim,
        num_classes,
        head_dim=spec.head_dim,
        temperature=spec.temperature,
        entropy_weight=spec.entropy_weight,
        objective=spec.objective,
        seed=spec.seed,
    )


def _labelled(spec: Mme, train: Pool, num_classes: int) -> Ints:
    """Return which images of the target's train have their labels used."""
    if spec.shots:
        return fewshot.k_shot(train.labels, num_classes, spec.shots, spec.seed)
    return fewshot.n_labels(train.labels, num_classes, spec.labels or 0, spec.seed)


def _look(context: Context, accelerator: Accelerator, target: str, method: MME) -> Look:
    """Return the accuracy on val; a collective call."""
    # Where one process looks, a state is saved; after the training there is none.
    return Look(
        {"val/top1": _top1(*_read(context, accelerator, target, method, "val", heeds=True))}
    )


def _answered(
    context: Context, accelerator: Accelerator, target: str, method: MME, split: str
) -> Result:
    """Return the share of a split's images that a method classifies rightly, and its answers."""
    logits, pool = _read(context, accelerator, target, method, split)
    scores, top1 = log_odds(logits.numpy(), several=False), _top1(logits, pool)
    replicates, intervals = answers.over_images(split, {"top1": top1}, scores, pool.labels)
    return Result(
        {f"{split}/top1": top1},
        {f"n_{split}": len(pool), "intervals": intervals},
        predictions={split: predictions_of(context, f"{target}/{split}", pool, scores)},
        replicates=replicates,
    )


def _read(
    context: Context,
    accelerator: Accelerator,
    target: str,
    method: MME,
    split: str,
    *,
    heeds: bool = False,
) -> tuple[Tensor, Pool]:
    """Return a method's logits of a split's images, and these; see `logits_of`."""
    pool = pool_of(context, (f"{target}/{split}",))
    return logits_of(context, accelerator, method, method.predict, pool, heeds=heeds), pool


def _top1(logits: Tensor, pool: Pool) -> float:
    return int((logits.argmax(dim=1) == torch.from_numpy(pool.labels)).sum()) / len(pool)


def _keys(spec: Mme, pools: dict[str, Pool], step: int) -> list[str]:
    """Return the keys of the images of a step's global batches, those with labels first."""
    batches = _batches(spec)
    return [
        key
        for name, batch in batches.items()
        for key in batch_keys(pools[name], step, batch=batch, seed=spec.seed)
    ]


def _batches(spec: Mme) -> dict[str, int]:
    """Return how many images of each pool a step takes."""
    batches = {"source": spec.batch_labelled, "labelled": spec.batch_labelled}
    if spec.objective != "s+t":
        batches["unlabelled"] = spec.batch_unlabelled
    return batches


def _feed(training: Training, spec: Mme, pools: dict[str, Pool]) -> Feed:
    """Feed (source and labelled target images, labels) and (unlabelled target images,)."""
    context, accelerator = training.context, training.accelerator
    policy = Augment(crop_area=spec.crop_area, jitter=0, gray=0, blur=0)
    photometric = photometric_of(context, policy, accelerator.device)

    def view(batch: Batch) -> Tensor:
        (images,) = network_views(batch, [photometric], spec.seed)
        return images.contiguous(memory_format=training.memory_format)

    def inputs(*parts: Batch) -> tuple[Inputs, ...]:
        source, labelled, *unlabelled = parts
        labels = torch.cat([source.labels, labelled.labels]).to(accelerator.device)
        images = torch.cat([view(source), view(labelled)])
        return ((images, labels), *((view(batch),) for batch in unlabelled))

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with ExitStack() as stack:
            streams = []
            for name, batch in _batches(spec).items():
                stream = stack.enter_context(
                    stream_of(
                        context,
                        pools[name],
                        accelerator,
                        batch=batch,
                        seed=spec.seed,
                        views=[View(context.order.image_size, spec.crop_area)],
                        replacements=training.replacements,
                    )
                )
                stream.load_state_dict({"step": start})
                streams.append(stream)
            batches = (inputs(*parts) for parts in zip(*streams, strict=True))
            yield stack.enter_context(ahead(batches, accelerator.device))

    return feed


def _rates(spec: Mme, optimizer: torch.optim.Optimizer, step: int) -> float:
    rate = optim.inverse_decay(step)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.optimizer.lr * rate
