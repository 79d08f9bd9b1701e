"""What is watched during pretraining, and the gate: did the stage do good, and what is kept.

Before the first step, every so often and after the last one: a probe of train classifies validation
images by the backbone's features (see `probes`), of one label an image or of several, and two
numbers show collapse, the spread of the features and their effective rank. No label and no test
image reaches the training.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from hpt_dist.evals import bootstrap, evidence, metrics, resampled
from hpt_dist.evals.change import kept_neighbours, mean_cosine
from hpt_dist.evals.evidence import StageVerdict
from hpt_dist.evals.features import Labelled, extract
from hpt_dist.evals.spread import rankme
from hpt_dist.images.photometric import Normalize
from hpt_dist.methods.embeddings import feature_std
from hpt_dist.networks.backbones import Backbone
from hpt_dist.networks.precision import torch_format
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import Ints, Order
from hpt_dist.reading.stream import Pool, center_batches
from hpt_dist.recipe import Monitor, Pretrain
from hpt_dist.recipe.metrics import METRICS, metric_of
from hpt_dist.stages import probes
from hpt_dist.stages.inputs import EVAL_BATCH, backbone_of, manifest_of, mean_std, pool_of
from hpt_dist.train.averages import Average, Place
from hpt_dist.train.loop import Accelerator
from hpt_dist.train.selection import Evaluation, Look, Selection
from hpt_dist.trial.context import Context

log = logging.getLogger(__name__)

RANKME, SPREAD = "monitor/rankme", "monitor/feature_std"
_NEIGHBOURS = 10  # of each image, of which some stay its neighbours
_COLLAPSED = 0.1  # of the incoming weights' effective rank or spread


def evaluation_of(
    context: Context,
    spec: Pretrain,
    backbone: Backbone,
    accelerator: Accelerator,
    replacements: Replacements,
) -> Evaluation | None:
    """Return what a pretraining stage is watched by; None where it is not.

    Training images that are watched may be replaced as in training; those that judge may not.
    """
    monitor = spec.monitor
    if monitor is None:
        return None
    if monitor.data is None:
        pool = watched_pool(context, spec, monitor)
        run = partial(_look_at_spread, context, backbone, accelerator, pool, replacements)
    else:
        bank, val = (
            chosen(pool_of(context, (f"{monitor.data}/{split}",)), monitor.images, spec.seed)
            for split in ("train", "val")
        )
        run = partial(_look_at_labelled, context, backbone, accelerator, bank, val, monitor)
    metric = _metric(context, monitor)
    return Evaluation(
        every=monitor.every or max(1, spec.steps // 10),
        run=run,
        keeps=backbone if spec.keeps_best else None,
        select_on=f"{monitor.probe}/{metric}" if metric else "",
        lower_is_better=bool(metric) and METRICS[metric].lower_is_better,
        before_training=True,
        ties="earlier",
    )


def watched_pool(context: Context, spec: Pretrain, monitor: Monitor) -> Pool:
    """Return the images that are looked at: of val where there are labels, else of training."""
    data = f"{monitor.data}/val" if monitor.data else spec.data[0]
    return chosen(pool_of(context, (data,)), monitor.images, spec.seed)


def kept_metrics(selection: Selection, spec: Pretrain) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics of the weights that a stage leaves, and what its reader needs to know.

    The gate's interval allows for the choice among all looks, so it holds for the best one too.
    """
    if not selection.history:
        return {}, {}
    looks = dict(selection.history)
    by_step = {place: found for place, found in looks.items() if isinstance(place, int)}
    last = max(by_step)
    kept = selection.best_step if spec.keeps_best else last
    details: dict[str, Any] = {
        "kept_step": kept.step if isinstance(kept, Average) else kept,
        "monitor": {str(step): metrics for step, metrics in by_step.items()},
    }
    if isinstance(kept, Average):
        details["kept_average"] = kept.share
    if shares := {str(one.share): looks[one] for one in looks if isinstance(one, Average)}:
        details["averages"] = shares
    collapsed = [
        name for name in (RANKME, SPREAD) if by_step[last][name] < _COLLAPSED * by_step[0][name]
    ]
    if collapsed:
        details["collapsed"] = collapsed
        log.warning("the features have collapsed: %s", ", ".join(collapsed))
    if gate := gate_of(selection, kept, last):
        log.info("%s", gate.says)
        details["gate"] = {name: one for name, one in asdict(gate).items() if one is not None}
    return looks[kept], details


def gate_of(selection: Selection, kept: Place, last: int) -> StageVerdict | None:
    """Return the verdict of the looks: by images that are right or wrong, else by resampled ones.

    None where no label judged them.
    """
    looks = dict(selection.history)
    judged = [name for name in looks[0] if name.partition("/")[0] in probes.WORDS]
    if not judged:
        return None
    (metric,) = judged
    probe = probes.WORDS[metric.partition("/")[0]]
    if selection.right:
        right = {place: one.numpy() for place, one in selection.right.items()}
        return evidence.gate(right, kept=kept, last=last, probe=probe)
    return resampled.gate(
        metric,
        {place: looks[place][metric] for place in selection.replicates},
        {place: one.tolist() for place, one in selection.replicates.items()},
        selection.images,
        kept=kept,
        last=last,
        probe=probe,
    )


def _metric(context: Context, monitor: Monitor) -> str:
    """Return the metric of the probe; empty where nothing is classified."""
    if monitor.data is None:
        return ""
    return metric_of(monitor.metric, context.order.trial.datasets[monitor.data])


def change(
    context: Context,
    spec: Pretrain,
    backbone: Backbone,
    accelerator: Accelerator,
    replacements: Replacements,
) -> dict[str, float]:
    """Return how far a stage without labels moved the features of the images that it watches.

    It is shown, and chooses nothing. A collective call.
    """
    if spec.monitor is None or spec.monitor.data is not None:
        return {}
    watched = watched_pool(context, spec, spec.monitor)
    layout = torch_format(spec.numerics)
    with torch.random.fork_rng(devices=[]):  # a new network draws weights, and training goes on
        initial = backbone_of(context).to(accelerator.device).to(memory_format=layout)
    before, after = (
        features_of(context, network, accelerator, watched, replacements)
        for network in (initial, backbone)
    )
    k = min(_NEIGHBOURS, len(watched) - 1)
    found = {"images": len(watched), "cosine": mean_cosine(before, after)}
    return found | ({"k": k, "neighbours": kept_neighbours(before, after, k)} if k else {})


def share_of(indices: Ints, accelerator: Accelerator) -> Ints:
    """Return this rank's consecutive share of some images."""
    share: Ints = np.array_split(indices, accelerator.num_processes)[accelerator.process_index]
    return share


def chosen(pool: Pool, images: int, seed: int) -> Pool:
    """Return some images of a pool, in its order; which ones is a function of the seed."""
    if len(pool) <= images:
        return pool
    indices, _ = Order("monitor", seed, [len(pool)], window=len(pool)).batch(0, images)
    return pool.subset(np.sort(indices))


def _look_at_spread(
    context: Context,
    backbone: Backbone,
    accelerator: Accelerator,
    watched: Pool,
    replacements: Replacements,
) -> Look:
    return Look(_spread(features_of(context, backbone, accelerator, watched, replacements)))


def _look_at_labelled(
    context: Context,
    backbone: Backbone,
    accelerator: Accelerator,
    bank: Pool,
    val: Pool,
    monitor: Monitor,
) -> Look:
    manifest = manifest_of(context, str(monitor.data))
    several, num_classes = manifest.label == "multi", len(manifest.classes)
    train, judging = (
        Labelled(
            features_of(context, backbone, accelerator, pool),
            torch.from_numpy(pool.members if several else pool.labels),
        )
        for pool in (bank, val)
    )
    spread = _spread(judging.features)
    scores = probes.scores(
        monitor.probe,
        train,
        judging.features,
        num_classes,
        k=monitor.k,
        temperature=monitor.temperature,
    )
    metric = _metric(context, monitor)
    name, labels, images = f"{monitor.probe}/{metric}", judging.labels.numpy(), len(val)
    if metric == "top1":
        right = torch.from_numpy(metrics.hits(scores, labels, 1))
        return Look({name: right.double().mean().item(), **spread}, right, images=images)
    value = metrics.compute(metric, scores, labels)
    drawn = bootstrap.replicates([metric], scores, labels)[metric]
    return Look({name: value, **spread}, replicates=torch.from_numpy(drawn), images=images)


def _spread(features: Tensor) -> dict[str, float]:
    unit = functional.normalize(features, dim=1)
    return {RANKME: rankme(features), SPREAD: float(feature_std(unit))}


def features_of(
    context: Context,
    backbone: Backbone,
    accelerator: Accelerator,
    pool: Pool,
    replacements: Replacements | None = None,
) -> Tensor:
    """Return the features [n, d] of a pool's images in its order, each rank having made a share."""
    normalize = Normalize(*mean_std(context), accelerator.device)
    # Rows of the whole pool: what replaces an image must not depend on the number of ranks.
    share = share_of(np.arange(len(pool)), accelerator)
    batches = center_batches(
        pool,
        batch=EVAL_BATCH,
        size=context.order.image_size,
        workers=context.order.threads,
        rows=share,
        replacements=replacements,
    )
    ours = torch.empty(0, backbone.feature_dim)
    if len(share):
        alone = accelerator.num_processes == 1
        heeded = context.interrupt.heeding(batches) if alone else batches
        ours = extract(backbone, (normalize(b.images[0]) for b in heeded), accelerator.device)
    if accelerator.num_processes == 1:
        return ours
    shares: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(shares, ours)
    return torch.cat(shares)
