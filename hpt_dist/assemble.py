"""Turn the specs of a trial into objects and run them: one function for each kind of stage."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from hpt_dist import backbones, evals, fewshot, optim, weights, weights_source
from hpt_dist.augment import Normalize
from hpt_dist.checkpoint import Checkpoints
from hpt_dist.evals import Labelled
from hpt_dist.evals.features import evaluating
from hpt_dist.feeds import (
    manifest_of,
    mean_std,
    mme_feed,
    photometric_of,
    pool_of,
    two_view_feed,
)
from hpt_dist.layout import stage_prefix
from hpt_dist.methods import METHODS, MME, Method
from hpt_dist.order import Ints
from hpt_dist.recipe import Augment, Import, Knn, Linear, Mme, Optimizer, Pretrain, StageSpec
from hpt_dist.stage import Context, Result, Runner
from hpt_dist.stream import (
    Pool,
    center_batches,
    crop_batches,
    network_views,
)
from hpt_dist.train import Accelerator, Evaluation, Loop, fit, make_accelerator

log = logging.getLogger(__name__)

_EVAL_BATCH = 256
# torchvision's default of random resized crops, which linear evaluation trains on.
_LINEAR_CROP_AREA = (0.08, 1.0)

S = TypeVar("S", bound=StageSpec)


def run_import(context: Context) -> Result:
    """Read somebody else's weights and say how they fit."""
    trial = context.job.trial
    spec = _spec(context, Import)
    torch.manual_seed(spec.seed)
    state, report = weights.load(spec.weights, trial.backbone, context.store, force=spec.force)
    log.info("%s", report)
    details = {
        "matched": len(report.matched),
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
        "licence": weights_source.licence(spec.weights),
    }
    return Result({"import/matched_share": report.share}, details, weights=state)


def run_pretrain(context: Context) -> Result:
    """Pretrain without labels from the backbone of another stage."""
    spec = _spec(context, Pretrain)
    accelerator = _accelerator(context)
    pool = pool_of(context, spec.data)
    backbone = _backbone(context)
    backbones.trainable_parameters(backbone, spec.train)
    if spec.batch_norm == "frozen":
        backbones.freeze_batch_norm(backbone)
    method = METHODS[spec.method](
        backbone, backbone.feature_dim, **spec.moco.model_dump(), seed=spec.seed
    )
    loop = Loop(
        method=_on(accelerator, method),
        optimizer=_optimizer(method, spec.optimizer),
        set_rates=partial(_cosine_rates, spec),
        feed=two_view_feed(context, spec, pool, accelerator),
        steps=spec.steps,
        images_per_step=2 * spec.batch,
        checkpoints=Checkpoints(context.root),
        checkpoint_every=spec.checkpoint_every,
    )
    outcome = fit(loop, accelerator, context, context.interrupt)
    return Result(
        {},
        {"pool_images": len(pool)},
        weights={name: value.cpu() for name, value in backbone.state_dict().items()},
        seconds_before=outcome.seconds_before,
    )


def run_knn(context: Context) -> Result:
    """Evaluate frozen features by their nearest neighbours."""
    spec = _spec(context, Knn)
    features = _features(context, spec.data, views=0, seed=spec.seed)
    found = evals.EVALS["knn"](
        *features,
        num_classes=len(manifest_of(context, spec.data).classes),
        k=spec.k,
        temperature=spec.temperature,
    )
    return _evaluated(found)


def run_linear(context: Context) -> Result:
    """Evaluate frozen features by a linear classifier."""
    spec = _spec(context, Linear)
    features = _features(context, spec.data, views=spec.views, seed=spec.seed)
    found = evals.EVALS["linear"](
        *features,
        num_classes=len(manifest_of(context, spec.data).classes),
        learning_rates=spec.learning_rates,
        steps=spec.steps,
        batch=spec.batch,
        weight_decay=spec.weight_decay,
        seed=spec.seed,
    )
    return _evaluated(found)


def run_mme(context: Context) -> Result:
    """Adapt to a target domain; select on its val, then read its test once."""
    spec = _spec(context, Mme)
    accelerator = _accelerator(context)
    num_classes = len(manifest_of(context, spec.target).classes)
    train = pool_of(context, (f"{spec.target}/train",))
    labelled = _labelled(spec, train, num_classes)
    unlabelled = np.setdiff1d(np.arange(len(train)), labelled)
    backbone = _backbone(context)
    if spec.batch_norm == "frozen":
        backbones.freeze_batch_norm(backbone)
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
    pools = {
        "source": pool_of(context, (spec.source,)),
        "labelled": train.subset(labelled),
        "unlabelled": train.subset(unlabelled),
    }
    accuracy = partial(_accuracy, context, spec.target)
    loop = Loop(
        method=_on(accelerator, method),
        optimizer=_optimizer(method, spec.optimizer),
        set_rates=partial(_inverse_rates, spec),
        feed=mme_feed(context, spec, pools, accelerator),
        steps=spec.steps,
        images_per_step=2 * spec.batch_labelled + (method.phases - 1) * spec.batch_unlabelled,
        checkpoints=Checkpoints(context.root),
        checkpoint_every=spec.checkpoint_every,
        evaluation=Evaluation(
            every=spec.eval_every,
            run=lambda: {"val/top1": accuracy("val", method)[0]},
            select_on="val/top1",
            patience=spec.patience,
        ),
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
        curves=("val/top1",),
    )


RUNNERS: dict[str, Runner] = {
    "import": run_import,
    "pretrain": run_pretrain,
    "knn": run_knn,
    "linear": run_linear,
    "mme": run_mme,
}


def _spec(context: Context, kind: type[S]) -> S:
    spec = context.job.trial.spec
    if not isinstance(spec, kind):
        raise TypeError(f"{context.job.trial.name} is no {kind.__name__}")
    return spec


def _accelerator(context: Context) -> Accelerator:
    return make_accelerator(threads=context.job.threads, seed=context.job.trial.spec.seed)


def _on(accelerator: Accelerator, method: Method) -> Method:
    """Put a method on the device, in the memory format that convolutions are fastest in."""
    return method.to(accelerator.device).to(memory_format=torch.channels_last).train()


def _optimizer(method: Method, spec: Optimizer) -> torch.optim.Optimizer:
    return optim.build(method, method.backbone, **spec.model_dump())


def _backbone(context: Context) -> backbones.Backbone:
    """Return the backbone with the weights of the trial that this one starts from."""
    backbone = backbones.create(context.job.trial.backbone)
    prefix = stage_prefix(context.job.trial.init)
    state, _ = weights.read(context.store.get(f"{prefix}/weights.safetensors"))
    backbone.load_state_dict(state)
    return backbone


def _labelled(spec: Mme, train: Pool, num_classes: int) -> Ints:
    """Return which images of the target's train have their labels used."""
    if spec.shots:
        return fewshot.k_shot(train.labels, num_classes, spec.shots, spec.seed)
    return fewshot.n_labels(train.labels, num_classes, spec.labels or 0, spec.seed)


def _accuracy(context: Context, target: str, split: str, method: MME) -> tuple[float, int]:
    """Return the share of a split's images that a method classifies rightly, and their number."""
    pool = pool_of(context, (f"{target}/{split}",))
    device = next(method.parameters()).device
    normalize = Normalize(*mean_std(context), device)
    size, threads = context.job.image_size, context.job.threads
    right = 0
    with torch.inference_mode(), evaluating(method):
        for batch in center_batches(pool, batch=_EVAL_BATCH, size=size, workers=threads):
            answers = method.predict(normalize(batch.images[0])).argmax(dim=1).cpu()
            right += int((answers == batch.labels).sum())
    return right / len(pool), len(pool)


def _features(
    context: Context, data: str, *, views: int, seed: int
) -> tuple[Labelled, Labelled, Labelled]:
    """Return the frozen features of a dataset's train, val and test.

    Those of train are [n, d] without augmented copies (`views` 0), else [views, n, d].
    """
    accelerator = _accelerator(context)
    backbone = _backbone(context).to(accelerator.device).to(memory_format=torch.channels_last)
    normalize = Normalize(*mean_std(context), accelerator.device)
    size, threads = context.job.image_size, context.job.threads

    def labelled(split: str) -> Labelled:
        pool = pool_of(context, (f"{data}/{split}",))
        batches = center_batches(pool, batch=_EVAL_BATCH, size=size, workers=threads)
        images = (normalize(batch.images[0]) for batch in batches)
        features = evals.extract(backbone, images, accelerator.device)
        return Labelled(features, torch.from_numpy(pool.labels))

    def copies() -> Labelled:
        pool = pool_of(context, (f"{data}/train",))
        policy = Augment(jitter=0, gray=0, blur=0)
        photometric = photometric_of(context, policy, accelerator.device)
        made = []
        for epoch in range(views):
            batches = crop_batches(
                pool,
                batch=_EVAL_BATCH,
                size=size,
                seed=seed,
                crop_area=_LINEAR_CROP_AREA,
                epoch=epoch,
                workers=threads,
            )
            images = (network_views(batch, photometric, seed)[0] for batch in batches)
            made.append(evals.extract(backbone, images, accelerator.device))
        return Labelled(torch.stack(made), torch.from_numpy(pool.labels))

    train = labelled("train") if not views else copies()
    return train, labelled("val"), labelled("test")


def _evaluated(found: dict[str, Any]) -> Result:
    metrics = {name: found.pop(name) for name in ("val/top1", "test/top1")}
    return Result(metrics, found)


def _cosine_rates(spec: Pretrain, optimizer: torch.optim.Optimizer, step: int) -> float:
    rate = optim.cosine(step, spec.steps)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.optimizer.lr * rate


def _inverse_rates(spec: Mme, optimizer: torch.optim.Optimizer, step: int) -> float:
    rate = optim.inverse_decay(step)
    backbone = rate * optim.after_warmup(step, spec.head_warmup_steps)
    optim.set_learning_rates(optimizer, head=rate, backbone=backbone)
    return spec.optimizer.lr * rate
