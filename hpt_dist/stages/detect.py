"""Train a detector whole; its last weights, or the best on val, are scored on test once."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from hpt_dist.methods.detection import Detection
from hpt_dist.networks.detector import Design
from hpt_dist.recipe import Detect
from hpt_dist.recipe.kinds.detect import SELECTS
from hpt_dist.stages import detect_inputs, detect_statistics
from hpt_dist.stages.detect_scores import Judge
from hpt_dist.stages.inputs import manifest_of
from hpt_dist.stages.trained import begin_training
from hpt_dist.train import optim
from hpt_dist.train.selection import Evaluation, Selection
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result
from hpt_dist.weights import values

log = logging.getLogger(__name__)


def run(context: Context, spec: Detect) -> Result:
    """Train a detector; see the module."""
    classes = tuple(manifest_of(context, spec.data).classes)
    training = begin_training(context, spec)
    method = training.on_device(
        Detection(training.backbone, design_of(spec, len(classes)), seed=spec.seed)
    )
    ranks = training.accelerator.num_processes
    method.group_batch_norm(spec.batch, spec.bn_group, ranks)
    learned = detect_inputs.learned_from(context, spec)
    log.info("%d images are learned from, %d left out", len(learned.pool), learned.left_out)
    judge = Judge(training, method, spec, classes)
    outcome = training.fit(
        method,
        spec.optimizer,
        peak_lr=spec.optimizer.lr,
        rates=partial(_rates, spec),
        feed=detect_inputs.feed_of(training, spec, learned.pool),
        images_per_step=spec.batch,
        evaluation=_evaluation(spec, judge, method),
        keys_of=partial(detect_inputs.keys_of, spec, learned.pool),
        steps=spec.steps,
        saves_last=bool(spec.precise_batch_norm),
        decay_norms=spec.decay_norms,
    )
    if spec.keep == "best":
        method.load_state_dict(outcome.selection.weights)
    if spec.precise_batch_norm:
        detect_statistics.take_anew(training, spec, method, learned.pool)
    state = method.state_dict()
    values.require_finite(state)
    final = judge.final()
    counts = {"n_train": len(learned.pool), "without_boxes_left_out": learned.left_out}
    return Result(
        final.metrics,
        final.details | counts | _by_step(outcome.selection, spec),
        model={name: value.cpu() for name, value in state.items()},
        seconds_before=outcome.seconds_before,
        numerics=training.computed,
        curves=tuple(name for name in final.metrics if name.startswith("val/")),
        replaced=outcome.replaced,
        replicates=final.replicates,
        pictures=final.shown,
        detections=final.files,
    )


def design_of(spec: Detect, num_classes: int) -> Design:
    """Return what a detector is made of."""
    return Design(
        architecture=spec.architecture,
        num_classes=num_classes,
        masks=spec.masks,
        anchor_sizes=spec.anchor_sizes,
        anchor_ratios=spec.anchor_ratios,
        before_nms=spec.proposals_before,
        after_nms=spec.after_nms,
        regions=spec.regions,
        detections=spec.detections,
    )


def _rates(spec: Detect, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Set the rates of a step: a linear warm-up beside the drops, as in detectron2."""
    rate = optim.steps_down(step, spec.steps, spec.milestones)
    rate *= optim.warmup(step, spec.warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=rate)
    return spec.optimizer.lr * rate


def _evaluation(spec: Detect, judge: Judge, method: Detection) -> Evaluation | None:
    if spec.eval_every is None:
        return None
    keeps = spec.keep == "best"
    return Evaluation(
        every=spec.eval_every,
        run=judge.look,
        keeps=method if keeps else None,
        select_on=SELECTS if keeps else "",
        ties="earlier",
    )


def _by_step(selection: Selection, spec: Detect) -> dict[str, Any]:
    """Return which step is left, and what val said of each that was looked at."""
    step = selection.best_step if spec.keep == "best" else spec.steps
    looked = {str(place): found[SELECTS] for place, found in selection.history if SELECTS in found}
    details: dict[str, Any] = {"selected": {"step": step}, "steps": spec.steps}
    return details | ({f"{SELECTS}_by_step": looked} if looked else {})
