"""Adapt to a target domain; select on its val, then read its test once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt_dist.datasets import fewshot
from hpt_dist.datasets.manifest import sha256
from hpt_dist.errors import DataError
from hpt_dist.evals import answers
from hpt_dist.evals.metrics import log_odds
from hpt_dist.methods import MME
from hpt_dist.methods.source_labels import PseudoCentres
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import Batch, Pool, View, batch_keys, network_views
from hpt_dist.recipe import Augment, Mme
from hpt_dist.stages import monitor
from hpt_dist.stages.choice import Left
from hpt_dist.stages.inputs import (
    ahead,
    manifest_of,
    mean_std,
    photometric_of,
    pool_of,
    stream_of,
)
from hpt_dist.stages.predictions import logits_of, predictions_of
from hpt_dist.stages.trained import Training, begin_training
from hpt_dist.train import optim
from hpt_dist.train.loop import Accelerator, Feed, Inputs
from hpt_dist.train.selection import Evaluation, Look
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result
from hpt_dist.weights.head import Head

log = logging.getLogger(__name__)
# What only its training needs of a method's state: no model that is left has it.
_CENTRES = "centres."


def run(context: Context, spec: Mme) -> Result:
    """Adapt; see the module."""
    num_classes = len(manifest_of(context, spec.target).classes)
    pools = _pools(context, spec, num_classes)
    training = begin_training(context, spec)
    names = backbones.trainable_parameters(training.backbone, spec.train)
    log.info("%d parameters of the backbone learn (train: %s)", len(names), spec.train)
    method = training.on_device(_method(spec, training.backbone, num_classes))
    # Of all images of a pass, which is not always of as many.
    method.group_batch_norm(spec.batch_of_labelled, None, training.accelerator.num_processes)
    looks = _Looks(_looked_at(context, spec), squash=spec.squash)
    outcome = training.fit(
        method,
        spec.optimizer,
        peak_lr=spec.optimizer.lr,
        rates=partial(_rates, spec),
        feed=_feed(training, spec, pools),
        images_per_step=spec.batch_of_labelled + spec.views_of_unlabelled,
        evaluation=Evaluation(
            every=spec.eval_every,
            run=partial(looks.look, training, method),
            keeps=method,
            select_on="val/top1",
            patience=spec.patience,
        ),
        keys_of=partial(_keys, spec, pools),
        steps=spec.steps,
        before_step=partial(_adapt_labels, training, spec, method, pools),
    )
    log.info("%s", looks.share())
    method.load_state_dict(outcome.selection.weights)
    answered = partial(_answered, context, training.accelerator, spec, method)
    on_val = answered("val")
    on_test = Result({}) if context.order.trial.is_candidate else answered(spec.judged)
    return Result(
        {**on_val.metrics, **on_test.metrics},
        {
            "selected": {"step": outcome.selection.best_step},
            "val/top1_by_step": {str(s): m["val/top1"] for s, m in outcome.selection.history},
            "n_looked_at": len(looks.pool),
            **_read_details(spec, pools),
            **on_val.details,
            **on_test.details,
            "intervals": {**on_val.details["intervals"], **on_test.details.get("intervals", {})},
        },
        model=_model(method),
        head=_head(context, spec, method),
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
    method.centres = None
    method.load_state_dict(left.model)
    return _answered(context, training.accelerator, spec, method, spec.judged)


def _method(spec: Mme, backbone: Backbone, num_classes: int) -> MME:
    centres = None
    if spec.source_label_adaptation:
        mix, temperature = spec.source_labels.mix, spec.source_labels.temperature
        sizes = num_classes, spec.head_dim
        centres = PseudoCentres(*sizes, mix=mix, temperature=temperature, scale=spec.temperature)
    return MME(
        backbone,
        backbone.feature_dim,
        num_classes,
        head_dim=spec.head_dim,
        temperature=spec.temperature,
        entropy_weight=spec.entropy_weight,
        objective=spec.objective,
        threshold=spec.consistency.threshold,
        consistency_weight=spec.consistency.weight,
        centres=centres,
        seed=spec.seed,
    )


def _model(method: MME) -> dict[str, Tensor]:
    state = method.state_dict().items()
    return {name: value.cpu() for name, value in state if not name.startswith(_CENTRES)}


def _head(context: Context, spec: Mme, method: MME) -> Head:
    """Return what is behind the backbone, with all that `load_classifier` needs."""
    layers = ("embedding.", "prototypes.")
    return Head(
        {name: value for name, value in _model(method).items() if name.startswith(layers)},
        manifest_of(context, spec.target).classes,
        context.order.image_size,
        *mean_std(context),
        temperature=spec.temperature,
        squash=spec.squash,
    )


def _pools(context: Context, spec: Mme, num_classes: int) -> dict[str, Pool]:
    """Return the images that training reads: source, labelled and unlabelled, as far as it does."""
    train = pool_of(context, (f"{spec.target}/train",))
    labelled = _labelled(spec, train, num_classes)
    pools = {} if spec.objective == "t" else {"source": pool_of(context, (spec.source,))}
    pools["labelled"] = train.subset(labelled)
    if spec.learns_from_judged:
        pools["unlabelled"] = pool_of(context, (f"{spec.target}/{spec.judged}",))
    elif spec.needs_unlabelled:
        pools["unlabelled"] = train.subset(np.setdiff1d(np.arange(len(train)), labelled))
    return pools


def _read_details(spec: Mme, pools: dict[str, Pool]) -> dict[str, Any]:
    """Return what a result's reader needs to know of the images that were learned from."""
    is_apart = spec.protocol == "disjoint"
    return {
        "n_labelled": len(pools["labelled"]),
        "n_unlabelled": len(pools["unlabelled"]) if "unlabelled" in pools else 0,
        "labelled_digest": sha256("\n".join(sorted(pools["labelled"].keys)).encode()),
        "protocol": "transductive" if is_apart and spec.learns_from_judged else spec.protocol,
    }


def _labelled(spec: Mme, train: Pool, num_classes: int) -> Ints:
    """Return which images of the target's train have their labels used."""
    if spec.labels == "all":
        return np.arange(len(train))
    if spec.shots:
        return fewshot.k_shot(train.labels, num_classes, spec.shots, spec.seed)
    return fewshot.n_labels(train.labels, num_classes, spec.labels or 0, spec.seed)


def _adapt_labels(
    training: Training, spec: Mme, method: MME, pools: dict[str, Pool], step: int
) -> None:
    """Place the centres where that is due before a step, and let them adapt source labels."""
    since = step - spec.source_labels.warmup_steps
    if not spec.source_label_adaptation or since < 0:
        return
    if since % spec.source_labels.update_every == 0:
        context, accelerator, pool = training.context, training.accelerator, pools["unlabelled"]
        given = context, accelerator, method, method.embed, pool
        embedded = logits_of(*given, heeds=True, squash=spec.squash)
        method.place_centres(embedded)
    method.adapt_labels(on=True)


def _looked_at(context: Context, spec: Mme) -> Pool:
    """Return the images of val that are looked at in training."""
    val = pool_of(context, (f"{spec.target}/val",))
    return monitor.chosen(val, spec.eval_images or len(val), spec.seed)


class _Looks:
    """Looks at validation in training, and the time that they take of it."""

    def __init__(self, pool: Pool, *, squash: bool) -> None:
        self.pool, self._squash = pool, squash
        self._began, self._seconds = time.perf_counter(), 0.0

    def look(self, training: Training, method: MME) -> Look:
        """Return the accuracy; a collective call."""
        began = time.perf_counter()
        # Where one process looks, a state is saved; after the training there is none.
        given = training.context, training.accelerator, method, method.predict, self.pool
        top1 = _top1(logits_of(*given, heeds=True, squash=self._squash), self.pool)
        self._seconds += time.perf_counter() - began
        return Look({"val/top1": top1})

    def share(self) -> str:
        """Return in words which share of this process's time they took."""
        seconds = time.perf_counter() - self._began
        looks = f"evaluations of {len(self.pool):,} images of val took {self._seconds:.1f} s"
        return f"{looks} of {seconds:.1f} s, {self._seconds / seconds:.0%}"


def _answered(
    context: Context, accelerator: Accelerator, spec: Mme, method: MME, split: str
) -> Result:
    """Return the share of a split's images that a method classifies rightly, and its answers."""
    pool = pool_of(context, (f"{spec.target}/{split}",))
    logits = logits_of(context, accelerator, method, method.predict, pool, squash=spec.squash)
    scores, top1 = log_odds(logits.numpy(), several=False), _top1(logits, pool)
    replicates, intervals = answers.over_images(split, {"top1": top1}, scores, pool.labels)
    return Result(
        {f"{split}/top1": top1},
        {f"n_{split}": len(pool), "intervals": intervals},
        predictions={split: predictions_of(context, f"{spec.target}/{split}", pool, scores)},
        replicates=replicates,
    )


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
    labelled = ("labelled",) if spec.objective == "t" else ("source", "labelled")
    batches = dict.fromkeys(labelled, spec.batch_labelled)
    return batches | ({"unlabelled": spec.batch_unlabelled} if spec.steps_see_unlabelled else {})


def _policies(spec: Mme, name: str) -> list[Augment]:
    """Return the random views of each image of a pool: one, or the weak one and the strong one."""
    weak = Augment(crop_area=spec.crop_area, jitter=0, gray=0, blur=0)
    is_taught = name == "unlabelled" and spec.objective == "consistency"
    return [weak, spec.consistency.strong] if is_taught else [weak]


def _crops(spec: Mme, policies: list[Augment], size: int) -> list[View]:
    """Return the crops of views; the strong one has its own."""
    weak, *strong = policies
    first = View(size, weak.crop_area, squash=spec.squash)
    return [first, *(View(size, one.crop_area) for one in strong)]


def _feed(training: Training, spec: Mme, pools: dict[str, Pool]) -> Feed:
    """Feed each phase: labelled images and labels, and the views of unlabelled target images.

    Phase 0 gets (images, labels), source before target, of consistency with the views after them;
    phase 1 of the other objectives the unlabelled images alone.
    """
    context, accelerator = training.context, training.accelerator
    batches, size = _batches(spec), context.order.image_size
    policies = {name: _policies(spec, name) for name in batches}
    photometrics = {
        name: [photometric_of(context, one, accelerator.device) for one in its]
        for name, its in policies.items()
    }

    def views(name: str, batch: Batch) -> Inputs:
        made = network_views(batch, photometrics[name], spec.seed)
        return tuple(one.contiguous(memory_format=training.memory_format) for one in made)

    def inputs(*parts: Batch) -> tuple[Inputs, ...]:
        read = dict(zip(batches, parts, strict=True))
        unlabelled = [views("unlabelled", read.pop("unlabelled"))] if "unlabelled" in read else []
        labels = torch.cat([one.labels for one in read.values()]).to(accelerator.device)
        images = torch.cat([view for name, one in read.items() for view in views(name, one)])
        if spec.objective == "consistency":
            return ((images, labels, *unlabelled[0]),)
        return ((images, labels), *unlabelled)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with ExitStack() as stack:
            streams = []
            for name, batch in batches.items():
                stream = stack.enter_context(
                    stream_of(
                        context,
                        pools[name],
                        accelerator,
                        batch=batch,
                        seed=spec.seed,
                        views=_crops(spec, policies[name], size),
                        replacements=training.replacements,
                    )
                )
                stream.load_state_dict({"step": start})
                streams.append(stream)
            made = (inputs(*parts) for parts in zip(*streams, strict=True))
            yield stack.enter_context(ahead(made, accelerator.device))

    return feed


def _rates(spec: Mme, optimizer: torch.optim.Optimizer, step: int) -> float:
    since = step - spec.source_labels.warmup_steps
    anew = spec.source_label_adaptation and since >= 0  # as its authors do after the warm-up
    rate = optim.inverse_decay(since if anew else step)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.optimizer.lr * rate
