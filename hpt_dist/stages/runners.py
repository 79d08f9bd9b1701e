"""Turn the specs of a trial into objects and run them: one function for each kind of stage."""

from __future__ import annotations

import logging
from typing import Any

import torch

from hpt_dist import evals
from hpt_dist.evals import Labelled
from hpt_dist.images.photometric import Normalize
from hpt_dist.reading.stream import center_batches, crop_batches, network_views
from hpt_dist.recipe import Augment, Import, Knn, Linear
from hpt_dist.stages.inputs import (
    accelerator_of,
    backbone_of,
    manifest_of,
    mean_std,
    photometric_of,
    pool_of,
)
from hpt_dist.stages.training import run_mme, run_pretrain
from hpt_dist.trial.run import Context, Result, Runner
from hpt_dist.weights import match as weights
from hpt_dist.weights import source as weights_source

log = logging.getLogger(__name__)

_EVAL_BATCH = 256
# torchvision's default of random resized crops, which linear evaluation trains on.
_LINEAR_CROP_AREA = (0.08, 1.0)


def run_import(context: Context) -> Result:
    """Read somebody else's weights and say how they fit."""
    trial = context.job.trial
    spec = context.spec(Import)
    torch.manual_seed(spec.seed)
    state, report = weights.load(
        spec.weights,
        trial.backbone,
        context.store,
        force=spec.force,
        fingerprint=trial.document["weights"],
    )
    log.info("%s", report)
    details = {
        "matched": len(report.matched),
        "missing": list(report.missing),
        "misshapen": list(report.misshapen),
        "unexpected": list(report.unexpected),
        "aside": list(report.aside),
        "recognised": report.recognised,
        "licence": weights_source.licence(spec.weights),
    }
    return Result({"import/matched_share": report.share}, details, weights=state)


def run_knn(context: Context) -> Result:
    """Evaluate frozen features by their nearest neighbours."""
    spec = context.spec(Knn)
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
    spec = context.spec(Linear)
    features = _features(context, spec.data, views=spec.views, seed=spec.seed)
    found = evals.EVALS["linear"](
        *features,
        num_classes=len(manifest_of(context, spec.data).classes),
        learning_rates=spec.learning_rates,
        milestones=spec.milestones,
        steps=spec.steps,
        batch=spec.batch,
        weight_decay=spec.weight_decay,
        seed=spec.seed,
    )
    return _evaluated(found)


RUNNERS: dict[str, Runner] = {
    "import": run_import,
    "pretrain": run_pretrain,
    "knn": run_knn,
    "linear": run_linear,
    "mme": run_mme,
}


def _features(
    context: Context, data: str, *, views: int, seed: int
) -> tuple[Labelled, Labelled, Labelled]:
    """Return the frozen features of a dataset's train, val and test.

    Those of train are [n, d] without augmented copies (`views` 0), else [views, n, d].
    """
    accelerator = accelerator_of(context)
    backbone = backbone_of(context).to(accelerator.device).to(memory_format=torch.channels_last)
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
            images = (network_views(batch, [photometric], seed)[0] for batch in batches)
            made.append(evals.extract(backbone, images, accelerator.device))
        return Labelled(torch.stack(made), torch.from_numpy(pool.labels))

    train = labelled("train") if not views else copies()
    return train, labelled("val"), labelled("test")


def _evaluated(found: dict[str, Any]) -> Result:
    metrics = {name: found.pop(name) for name in ("val/top1", "test/top1")}
    return Result(metrics, found)
