"""Turn the specs of a trial into objects and run them: one function for each kind of stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpt_dist import backbones, evals, fewshot, optim, weights, weights_source
from hpt_dist.augment import Normalize, Photometric
from hpt_dist.checkpoint import Checkpoints
from hpt_dist.errors import DataError
from hpt_dist.evals import Labelled
from hpt_dist.evals.features import evaluating
from hpt_dist.layout import stage_prefix
from hpt_dist.manifest import Manifest, read_manifest
from hpt_dist.methods import METHODS, MME, Method
from hpt_dist.order import Ints
from hpt_dist.recipe import Augment, Import, Knn, Linear, Mme, Optimizer, Pretrain, StageSpec
from hpt_dist.stage import Context, Result, Runner
from hpt_dist.store import open_store
from hpt_dist.stream import (
    Batch,
    Pool,
    Stream,
    center_batches,
    crop_batches,
    network_views,
    open_split,
)
from hpt_dist.train import Accelerator, Evaluation, Feed, Inputs, Loop, fit, make_accelerator

log = logging.getLogger(__name__)

RGB = tuple[float, float, float]

_NORMALIZE: dict[str, tuple[RGB, RGB]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
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
    pool = _pool(context, spec.data)
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
        feed=_two_view_feed(context, spec, pool, accelerator),
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
        num_classes=len(_manifest(context, spec.data).classes),
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
        num_classes=len(_manifest(context, spec.data).classes),
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
    num_classes = len(_manifest(context, spec.target).classes)
    train = _pool(context, (f"{spec.target}/train",))
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
        "source": _pool(context, (spec.source,)),
        "labelled": train.subset(labelled),
        "unlabelled": train.subset(unlabelled),
    }
    accuracy = partial(_accuracy, context, spec.target)
    loop = Loop(
        method=_on(accelerator, method),
        optimizer=_optimizer(method, spec.optimizer),
        set_rates=partial(_inverse_rates, spec),
        feed=_mme_feed(context, spec, pools, accelerator),
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
            "n_val": len(_pool(context, (f"{spec.target}/val",))),
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


def _dataset(context: Context, reference: str) -> tuple[Any, str]:
    """Return the store and the name of a dataset that the recipe names in its own way."""
    dataset = context.job.trial.datasets[reference.split("/")[0]]
    return open_store(dataset.store) if dataset.store else context.store, dataset.name


def _manifest(context: Context, reference: str) -> Manifest:
    manifest = read_manifest(*_dataset(context, reference))
    planned = context.job.trial.datasets[reference.split("/")[0]].digest
    if manifest.digest != planned:
        raise DataError(
            f"{manifest.name} has changed since the launch",
            fix="launch again: what depends on it gets new keys",
        )
    return manifest


def _pool(context: Context, references: tuple[str, ...]) -> Pool:
    """Open dataset/split references as one pool."""
    splits = []
    for reference in references:
        _manifest(context, reference)
        store, name = _dataset(context, reference)
        splits.append(open_split(store, name, reference.partition("/")[2]))
    return Pool(splits)


def _mean_std(context: Context) -> tuple[RGB, RGB]:
    """Return how pixels are normalised; over several datasets, the mean of their statistics."""
    if context.job.normalize in _NORMALIZE:
        return _NORMALIZE[context.job.normalize]
    manifests = [_manifest(context, alias) for alias in context.job.trial.datasets]
    mean = np.mean([manifest.mean for manifest in manifests], axis=0)
    std = np.mean([manifest.std for manifest in manifests], axis=0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _photometric(context: Context, policy: Augment, device: torch.device) -> Photometric:
    return Photometric(policy, *_mean_std(context), device)


def _stream(context: Context, pool: Pool, accelerator: Accelerator, **settings: Any) -> Stream:
    return Stream(
        pool,
        size=context.job.image_size,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        threads=context.job.threads,
        **settings,
    )


def _two_view_feed(context: Context, spec: Pretrain, pool: Pool, accelerator: Accelerator) -> Feed:
    photometric = _photometric(context, spec.augment, accelerator.device)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        area = spec.augment.crop_area
        with _stream(
            context, pool, accelerator, batch=spec.batch, seed=spec.seed, views=2, crop_area=area
        ) as stream:
            stream.load_state_dict({"step": start})
            yield ((tuple(network_views(batch, photometric, spec.seed)),) for batch in stream)

    return feed


def _mme_feed(
    context: Context, spec: Mme, pools: dict[str, Pool], accelerator: Accelerator
) -> Feed:
    """Feed (source and labelled target images, labels) and (unlabelled target images,)."""
    policy = Augment(crop_area=spec.crop_area, jitter=0, gray=0, blur=0)
    photometric = _photometric(context, policy, accelerator.device)
    batches = {"source": spec.batch_labelled, "labelled": spec.batch_labelled}
    if spec.objective != "s+t":
        batches["unlabelled"] = spec.batch_unlabelled

    def view(batch: Batch) -> Tensor:
        return network_views(batch, photometric, spec.seed)[0]

    def inputs(*parts: Batch) -> tuple[Inputs, ...]:
        source, labelled, *unlabelled = parts
        labels = torch.cat([source.labels, labelled.labels]).to(accelerator.device)
        images = torch.cat([view(source), view(labelled)])
        return ((images, labels), *((view(batch),) for batch in unlabelled))

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with ExitStack() as stack:
            streams = []
            for name, batch in batches.items():
                stream = stack.enter_context(
                    _stream(
                        context,
                        pools[name],
                        accelerator,
                        batch=batch,
                        seed=spec.seed,
                        views=1,
                        crop_area=spec.crop_area,
                    )
                )
                stream.load_state_dict({"step": start})
                streams.append(stream)
            yield (inputs(*parts) for parts in zip(*streams, strict=True))

    return feed


def _labelled(spec: Mme, train: Pool, num_classes: int) -> Ints:
    """Return which images of the target's train have their labels used."""
    if spec.shots:
        return fewshot.k_shot(train.labels, num_classes, spec.shots, spec.seed)
    return fewshot.n_labels(train.labels, num_classes, spec.labels or 0, spec.seed)


def _accuracy(context: Context, target: str, split: str, method: MME) -> tuple[float, int]:
    """Return the share of a split's images that a method classifies rightly, and their number."""
    pool = _pool(context, (f"{target}/{split}",))
    device = next(method.parameters()).device
    normalize = Normalize(*_mean_std(context), device)
    size, threads = context.job.image_size, context.job.threads
    right = 0
    with torch.inference_mode(), evaluating(method):
        for batch in center_batches(pool, batch=_EVAL_BATCH, size=size, threads=threads):
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
    normalize = Normalize(*_mean_std(context), accelerator.device)
    size, threads = context.job.image_size, context.job.threads

    def labelled(split: str) -> Labelled:
        pool = _pool(context, (f"{data}/{split}",))
        batches = center_batches(pool, batch=_EVAL_BATCH, size=size, threads=threads)
        images = (normalize(batch.images[0]) for batch in batches)
        features = evals.extract(backbone, images, accelerator.device)
        return Labelled(features, torch.from_numpy(pool.labels))

    def copies() -> Labelled:
        pool = _pool(context, (f"{data}/train",))
        policy = Augment(jitter=0, gray=0, blur=0)
        photometric = _photometric(context, policy, accelerator.device)
        made = []
        for epoch in range(views):
            batches = crop_batches(
                pool,
                batch=_EVAL_BATCH,
                size=size,
                seed=seed,
                crop_area=_LINEAR_CROP_AREA,
                epoch=epoch,
                threads=threads,
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
