"""Fine-tune the whole network and a linear head; val chooses a step, then test is read once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt_dist.datasets import fewshot
from hpt_dist.errors import DataError
from hpt_dist.evals import answers, metrics
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.metrics import Floats, log_odds
from hpt_dist.methods import FineTuning
from hpt_dist.reading.stream import Batch, Pool, View, batch_keys, network_views
from hpt_dist.recipe import Augment, Finetune
from hpt_dist.recipe.kinds.frozen import dataset_of, trained_on
from hpt_dist.recipe.metrics import METRICS
from hpt_dist.stages import monitor
from hpt_dist.stages.choice import Left
from hpt_dist.stages.frozen import head_of, judged, metric_for
from hpt_dist.stages.inputs import (
    ahead,
    classes_of,
    few_of,
    manifest_of,
    photometric_of,
    pool_of,
    stream_of,
)
from hpt_dist.stages.predictions import logits_of
from hpt_dist.stages.trained import Training, begin_training
from hpt_dist.train import optim
from hpt_dist.train.loop import Feed, Inputs
from hpt_dist.train.selection import Evaluation, Look, Selection
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result

log = logging.getLogger(__name__)


def run(context: Context, spec: Finetune) -> Result:
    """Fine-tune; see the module."""
    manifest = manifest_of(context, spec.data)
    several, num_classes = manifest.label == "multi", len(manifest.classes)
    pool = _labelled(context, spec, num_classes, several=several)
    training = begin_training(context, spec)
    backbone = training.backbone
    method = training.on_device(
        FineTuning(backbone, backbone.feature_dim, num_classes, several=several, seed=spec.seed)
    )
    method.group_batch_norm(spec.batch, spec.bn_group, training.accelerator.num_processes)
    tuning = spec.tuning_steps(len(pool))
    steps = spec.linear_first_steps + tuning
    metric = metric_for(context, spec.data, spec.metric)
    judge = _Judge(training, method, spec, several=several)
    outcome = training.fit(
        method,
        # The head is what others are a share of.
        spec.optimizer.model_copy(
            update={"backbone_lr_scale": spec.optimizer.backbone_lr_scale / spec.head_lr_scale}
        ),
        peak_lr=spec.optimizer.lr * spec.head_lr_scale,
        rates=partial(_rates, spec, method, tuning),
        feed=_feed(training, spec, pool, several=several),
        images_per_step=spec.batch,
        evaluation=Evaluation(
            every=spec.eval_every or max(1, steps // 10),
            run=partial(judge.look, metric),
            keeps=method if spec.keep == "best" else None,
            select_on=f"val/{metric}" if spec.keep == "best" else "",
            lower_is_better=METRICS[metric].lower_is_better,
            ties="earlier",
        ),
        keys_of=partial(batch_keys, pool, batch=spec.batch, seed=spec.seed),
        steps=steps,
    )
    if spec.keep == "best":
        method.load_state_dict(outcome.selection.weights)
    judging = ("val",) if context.order.trial.is_candidate else ("val", "test")
    scores, splits = judge.answers(*judging)
    found = answers.results(metric, scores, {"train": judge.labels(pool), **splits})
    if not several:
        found |= _one_answer(scores["val"], manifest.classes)
    found |= _details(outcome.selection, spec, steps, metric, pool, manifest.classes)
    return replace(
        judged(context, spec.data, found, head=head_of(context, spec.data, method.head)),
        model={name: value.cpu() for name, value in method.state_dict().items()},
        seconds_before=outcome.seconds_before,
        numerics=training.computed,
        curves=(f"val/{metric}",),
        replaced=outcome.replaced,
    )


def read_test(context: Context, spec: Finetune, left: Left) -> Result:
    """Return what the model that a candidate left says of test."""
    if left.model is None:
        raise DataError(f"{context.order.trial.name} left no model")
    manifest = manifest_of(context, spec.data)
    several, num_classes = manifest.label == "multi", len(manifest.classes)
    training = begin_training(context, spec)
    backbone = training.backbone
    method = training.on_device(
        FineTuning(backbone, backbone.feature_dim, num_classes, several=several, seed=spec.seed)
    )
    method.load_state_dict(left.model)
    scores, splits = _Judge(training, method, spec, several=several).answers("test")
    metric = metric_for(context, spec.data, spec.metric)
    return judged(context, spec.data, answers.results(metric, scores, splits))


def _labelled(context: Context, spec: Finetune, num_classes: int, *, several: bool) -> Pool:
    """Return the images whose labels are used."""
    train = pool_of(context, (trained_on(spec.data),))
    if spec.share:
        return train.subset(fewshot.percent(train.keys, spec.share, spec.seed))
    if not spec.shots and spec.labels == "all":
        return train
    if spec.shots:
        return few_of(train, num_classes, spec.shots, spec.seed, several=several)
    labels = classes_of(train, several=several)
    return train.subset(fewshot.n_labels(labels, num_classes, int(spec.labels), spec.seed))


def _rates(
    spec: Finetune, method: FineTuning, tuning: int, optimizer: torch.optim.Optimizer, step: int
) -> float:
    first = spec.linear_first_steps
    method.hold_backbone(held=step < first)
    if step < first:
        optim.set_learning_rates(optimizer, head=1.0, backbone=0.0)
        return spec.optimizer.lr * spec.head_lr_scale
    if first and step == first:
        optim.forget(optimizer, "backbone")
    rate = optim.steps_down(step - first, tuning, spec.milestones)
    optim.set_learning_rates(optimizer, head=rate, backbone=rate)
    return spec.optimizer.lr * spec.head_lr_scale * rate


def _feed(training: Training, spec: Finetune, pool: Pool, *, several: bool) -> Feed:
    """Feed (images, labels)."""
    context, accelerator = training.context, training.accelerator
    policy = Augment(crop_area=spec.crop_area, flip=spec.flip, jitter=0, gray=0, blur=0)
    photometric = photometric_of(context, policy, accelerator.device)
    labels = _labels(pool, several=several)

    def inputs(batch: Batch) -> tuple[Inputs, ...]:
        (images,) = network_views(batch, [photometric], spec.seed)
        images = images.contiguous(memory_format=training.memory_format)
        return ((images, labels[batch.indices].to(accelerator.device)),)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with stream_of(
            context,
            pool,
            accelerator,
            batch=spec.batch,
            seed=spec.seed,
            views=[View(context.order.image_size, spec.crop_area)],
            replacements=training.replacements,
        ) as stream:
            stream.load_state_dict({"step": start})
            with ahead(map(inputs, stream), accelerator.device) as batches:
                yield batches

    return feed


def _labels(pool: Pool, *, several: bool) -> Tensor:
    """Return labels as a loss takes them: int64 [n], or of several float32 [n, num_classes]."""
    return torch.from_numpy(pool.members.astype(np.float32) if several else pool.labels)


class _Judge:
    """What a method answers to the images that judge it; each rank looks at its share of them."""

    def __init__(
        self, training: Training, method: FineTuning, spec: Finetune, *, several: bool
    ) -> None:
        self._training, self._method, self._several = training, method, several
        self._spec, self._data = spec, dataset_of(spec.data)

    def look(self, metric: str) -> Look:
        """Return a metric on the images of val that are looked at; a collective call."""
        val, spec = self._pool("val"), self._spec
        pool = monitor.chosen(val, spec.eval_images or len(val), spec.seed)
        labels = self._true(pool)
        return Look({f"val/{metric}": metrics.compute(metric, self._scores(pool), labels)})

    def answers(self, *splits: str) -> tuple[dict[str, Floats], dict[str, Labelled]]:
        """Return the scores of splits, and their labels, by name; a collective call."""
        pools = {split: self._pool(split) for split in splits}
        scores = {split: self._scores(pool) for split, pool in pools.items()}
        return scores, {split: self.labels(pool) for split, pool in pools.items()}

    def labels(self, pool: Pool) -> Labelled:
        """Return the labels of images, without features."""
        return Labelled(torch.empty(0), torch.from_numpy(self._true(pool)))

    def _pool(self, split: str) -> Pool:
        return pool_of(self._training.context, (f"{self._data}/{split}",))

    def _true(self, pool: Pool) -> Any:
        return pool.members if self._several else pool.labels

    def _scores(self, pool: Pool) -> Floats:
        """Return log-odds [n, num_classes] in the order of a pool.

        Raises:
            DivergedError: answers are not finite, on every rank.
        """
        training, method = self._training, self._method
        logits = logits_of(training.context, training.accelerator, method, method.predict, pool)
        return log_odds(logits.numpy(), several=self._several)


def _one_answer(scores: Floats, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return which class alone is answered, and warn of it; nothing where several are.

    Args:
        scores: of val, [n, num_classes].
        classes: their names.
    """
    answered = np.unique(scores.argmax(axis=1))
    if len(answered) > 1 or len(classes) < 2:
        return {}
    name = classes[answered[0]]
    log.warning(
        "%s is the answer to every image of val: nothing is left of what was learned; "
        "a smaller learning rate may help",
        name,
    )
    return {"answers_only": name}


def _details(
    selection: Selection,
    spec: Finetune,
    steps: int,
    metric: str,
    pool: Pool,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Return what a result's reader needs to know beside its metrics."""
    seen = pool.members.any(axis=0)
    name = f"val/{metric}"
    details: dict[str, Any] = {
        "selected": {"step": selection.best_step if spec.keep == "best" else steps},
        f"{name}_by_step": {str(step): found[name] for step, found in selection.history},
        "steps": steps,
    }
    if not seen.all():
        missed = [classes[c] for c in np.flatnonzero(~seen)]
        details["classes_without_labels"] = missed
        log.warning("%d of %d classes have no labelled image", len(missed), len(classes))
    return details
