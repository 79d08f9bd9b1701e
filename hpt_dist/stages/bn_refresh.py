"""Take a backbone's batch-norm statistics anew on other images."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hpt_dist.errors import RequestError
from hpt_dist.evals import knn, logistic
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks import refresh
from hpt_dist.networks.backbones import Backbone
from hpt_dist.networks.refresh import AMPLIFIED, Change, Moments
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import Ints, Order, streams_for
from hpt_dist.reading.stream import Pool, center_batches
from hpt_dist.recipe import Knn, Linear
from hpt_dist.recipe.kinds.bn_refresh import BnRefresh
from hpt_dist.recipe.kinds.frozen import dataset_of, trained_on
from hpt_dist.stages.frozen import Frozen, judged, metric_for
from hpt_dist.stages.inputs import accelerator_of, backbone_of, manifest_of, mean_std, pool_of
from hpt_dist.train.interrupt import BY_PEOPLE
from hpt_dist.train.loop import Accelerator
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights import values

log = logging.getLogger(__name__)

_SHOWN = 5  # layers in a warning


def run(context: Context, spec: BnRefresh) -> Result:
    """Take the statistics on every image once, as evaluations see it, in a seeded order."""
    accelerator, backbone = accelerator_of(context), backbone_of(context)
    if not refresh.layers_of(backbone):
        raise RequestError(
            f"{context.order.trial.backbone} has no batch-norm statistics to take anew",
            where=f"stage {context.order.trial.stage}",
            fix="leave the stage out",
        )
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    pool = pool_of(context, spec.data)
    replacements = Replacements(spec.max_bad)
    rows = _order(pool, spec)
    of_batches = _moments(context, spec, accelerator, backbone, pool.subset(rows), replacements)
    moments = {
        name: refresh.pooled([batch[name] for batch in of_batches]) for name in of_batches[0]
    }
    state = refresh.refreshed(before, moments, spec.mix)
    values.require_finite(state)
    changes = refresh.changes(backbone, before, moments)
    _warn(context, changes)
    near_zero = sum(len(change.near_zero) for change in changes.values())
    amplified = sum(len(change.amplified) for change in changes.values())
    on_val = _judged(context, spec, state) if accelerator.is_main_process else Result({})
    return Result(
        {
            **on_val.metrics,
            "refresh/near_zero_channels": near_zero,
            "refresh/amplified_channels": amplified,
        },
        {
            **on_val.details,
            "images": len(rows),
            "batches": len(of_batches),
            "channels": sum(len(found.mean) for found in moments.values()),
            "layers": {name: asdict(change) for name, change in changes.items()},
        },
        weights=state,
        replaced=replacements.until(0),
    )


def _judged(context: Context, spec: BnRefresh, state: Mapping[str, Tensor]) -> Result:
    """Return what an evaluation of the features says on val; nothing without one."""
    if not spec.judge:
        return Result({})
    data, frozen = spec.judge.data, Frozen(context, state=state)
    train, val = (frozen.features(one) for one in (trained_on(data), f"{dataset_of(data)}/val"))
    num_classes = len(manifest_of(context, data).classes)
    metric = metric_for(context, data, spec.judge.metric)
    if spec.judge.kind == "knn":
        defaults = Knn(kind="knn", init=spec.init, data=data)
        found = knn.evaluate(
            *(train, val, None),
            num_classes=num_classes,
            k=defaults.k,
            temperature=defaults.temperature,
            metric=metric,
        )
    else:
        l2 = Linear(kind="linear", init=spec.init, data=data, solver="lbfgs").l2
        found, _ = logistic.choose(
            *(train, val, None), num_classes=num_classes, l2=l2, metric=metric
        )
    return judged(context, data, found)


def _order(pool: Pool, spec: BnRefresh) -> Ints:
    """Return each image of the pool once, without one that would be alone in the last batch."""
    count = len(pool)
    if count < 2:
        raise RequestError(f"{count} images have no variance", where="data", allowed="at least 2")
    order = Order(pool.digest, spec.seed, pool.shard_sizes, streams=streams_for(count, spec.batch))
    return order.at(np.arange(count - (count % spec.batch == 1)))[0]


def _moments(
    context: Context,
    spec: BnRefresh,
    accelerator: Accelerator,
    backbone: Backbone,
    pool: Pool,
    replacements: Replacements,
) -> list[dict[str, Moments]]:
    """Return the moments of every batch, in order; each rank computes every n-th one."""
    device, world = accelerator.device, accelerator.num_processes
    backbone.to(device).to(memory_format=torch.channels_last)
    normalize = Normalize(*mean_std(context), device)
    count = -(-len(pool) // spec.batch)
    ours = [
        np.arange(first, min(first + spec.batch, len(pool)))
        for first in range(accelerator.process_index * spec.batch, len(pool), world * spec.batch)
    ]
    batches = center_batches(
        pool,
        batch=spec.batch,
        size=context.order.image_size,
        workers=context.order.threads,
        rows=np.concatenate(ours) if ours else np.arange(0),
        replacements=replacements,
    )
    heeded = context.interrupt.heeding(batches, *BY_PEOPLE) if world == 1 else batches
    found, began = list[dict[str, Moments]](), time.monotonic()
    for batch in heeded:
        found.append(refresh.moments_of(backbone, normalize(batch.images[0])))
        done = min(world * len(found), count)
        rate = done * spec.batch / (time.monotonic() - began)
        context.progress(done, count, rate)
    if world == 1:
        return found
    shares: list[Any] = [None] * world
    dist.all_gather_object(shares, (found, replacements.until(0)))
    for _, names in shares:
        replacements.restore(names)
    return [shares[number % world][0][number // world] for number in range(count)]


def _warn(context: Context, changes: Mapping[str, Change]) -> None:
    """Say which channels the new statistics amplify, and which hardly vary."""
    amplified = {name: c.amplified for name, c in changes.items() if c.amplified}
    near_zero = {name: c.near_zero for name, c in changes.items() if c.near_zero}
    lines = []
    if amplified:
        most = max(change.most for change in changes.values())
        lines.append(
            f"new statistics alone would amplify {_channels(amplified)} more than "
            f"{AMPLIFIED:g}-fold, up to {most:.1f}-fold: features may become noise; see mix"
        )
    if near_zero:
        lines.append(f"variance of nearly 0 on these images: {_channels(near_zero)}")
    if lines:
        context.note(lines)


def _channels(by_layer: Mapping[str, Sequence[int]]) -> str:
    """Return how many channels there are, and the layers that have most of them."""
    ordered = sorted(by_layer.items(), key=lambda pair: -len(pair[1]))
    named = [f"{name} {len(channels)}" for name, channels in ordered[:_SHOWN]]
    more = [f"{len(ordered) - _SHOWN} more layers"] if len(ordered) > _SHOWN else []
    return f"{sum(map(len, by_layer.values()))} channels ({', '.join([*named, *more])})"
