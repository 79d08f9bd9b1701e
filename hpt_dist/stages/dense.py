"""Judge the features of positions: their classes by a classifier and by nearest neighbours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpt_dist.errors import DataError, HptError
from hpt_dist.evals import dense
from hpt_dist.evals.dense_labels import BACKGROUND, IGNORED, patch_classes
from hpt_dist.evals.features import Labelled, evaluating
from hpt_dist.images.photometric import Normalize
from hpt_dist.images.sheet import Pixels, encoded
from hpt_dist.networks.inner_features import maps_at
from hpt_dist.reading.order import Ints, uniforms
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.stream import center_batches
from hpt_dist.recipe.kinds.dense import PICTURES, Dense
from hpt_dist.recipe.kinds.frozen import dataset_of, trained_on
from hpt_dist.stages.inputs import accelerator_of, backbone_of, manifest_of, mean_std, pool_of
from hpt_dist.train.interrupt import BY_PEOPLE
from hpt_dist.train.loop import Accelerator
from hpt_dist.trial.context import Context
from hpt_dist.trial.records import SpecPart, document
from hpt_dist.trial.result import Result

PICTURE = "patches.webp"

_BATCH = 64  # images whose maps are in memory together
_PX = 96
_METRICS = ("val/miou", "test/miou", "val/knn_miou", "test/knn_miou")

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """Some images.

    Args:
        rows: int64 [b], which samples of the pool.
        images: uint8 [b, 3, s, s].
        maps: float32 [b, d, rows, columns].
    """

    rows: Ints
    images: Tensor
    maps: Tensor


def run(context: Context, spec: Dense) -> Result:
    """Judge the features of positions: their classes by a classifier and by nearest neighbours."""
    accelerator = accelerator_of(context)
    classes = (BACKGROUND, *manifest_of(context, spec.data).classes)
    judged = {
        name: pool_of(context, (f"{dataset_of(spec.data)}/{name}",)) for name in ("val", "test")
    }
    learned = _learned(context, spec, accelerator, len(classes) - 1)
    found = dense.evaluate(
        learned,
        *(
            partial(_patches, context, spec, accelerator, pool, len(classes) - 1)
            for pool in judged.values()
        ),
        classes=classes,
        l2=spec.l2,
        k=spec.k,
        temperature=spec.temperature,
    )
    base = first_of(context)
    pictures: dict[str, bytes] = {}
    grid: tuple[int, ...] = ()
    try:
        pictures[PICTURE], grid = _picture(context, spec, accelerator, judged["val"], base)
    except HptError as error:
        log.warning("%s is left out: %s", PICTURE, error)
    metrics = {name: found.pop(name) for name in _METRICS}
    replicates = found.pop("replicates")
    details = found | {"before": base} | ({"grid": list(grid)} if grid else {})
    return Result(metrics, details, replicates=replicates, pictures=pictures)


def first_of(context: Context) -> str:
    """Return the key of the trial that the pretraining of this backbone began from.

    Empty where that is the backbone that is judged.
    """
    key = start = context.order.trial.init
    while before := str(document(context.store, key, "spec.json", SpecPart).get("init", "")):
        key = before
    return "" if key == start else key


def _seen(
    context: Context,
    spec: Dense,
    accelerator: Accelerator,
    pool: Pool,
    rows: Ints | None = None,
) -> Iterator[_Seen]:
    """Yield the images of a pool and the maps that the backbone makes of them, on the CPU."""
    size, device = context.order.image_size, accelerator.device
    module = maps_at(backbone_of(context), spec.features, size).to(device)
    module = module.to(memory_format=torch.channels_last)
    normalize = Normalize(*mean_std(context), device)
    batches = center_batches(
        pool, batch=_BATCH, size=size, workers=context.order.threads, rows=rows
    )
    with evaluating(module), torch.no_grad():
        for batch in context.interrupt.heeding(batches, *BY_PEOPLE):
            maps = module(normalize(batch.images[0]).to(device)).float().cpu()
            yield _Seen(batch.indices, batch.images[0], maps)


def _labels(context: Context, pool: Pool, seen: _Seen, num_classes: int) -> Tensor:
    """Return the classes of the patches of some images, int64 [b, p].

    Raises:
        DataError: the objects of an image have no masks.
    """
    size, grid = context.order.image_size, (seen.maps.shape[2], seen.maps.shape[3])
    rows = []
    for i in seen.rows.tolist():
        try:
            rows.append(patch_classes(pool.boxes(i), size, grid, num_classes).ravel())
        except ValueError as error:
            raise DataError(
                f"image {pool.name(i)}: {error}",
                fix="dense needs masks: shard the dataset from an export that has them, as COCO's",
            ) from error
    return torch.from_numpy(np.stack(rows))


def _patches(
    context: Context, spec: Dense, accelerator: Accelerator, pool: Pool, num_classes: int
) -> Iterator[dense.Patches]:
    """Yield all patches of a split that judges."""
    for seen in _seen(context, spec, accelerator, pool):
        labels = _labels(context, pool, seen, num_classes)
        yield dense.Patches(seen.maps.flatten(2).transpose(1, 2), labels)


def _learned(context: Context, spec: Dense, accelerator: Accelerator, num_classes: int) -> Labelled:
    """Return the patches that are learned from: as many of each image, chosen by the seed.

    Raises:
        DataError: no patch has a class that is known.
    """
    pool = pool_of(context, (trained_on(spec.data),))
    rows = np.arange(len(pool))
    if len(pool) > spec.patches:
        order = uniforms(spec.seed, np.zeros_like(rows), rows, 0, 1, purpose="dense images")
        rows = np.sort(np.argsort(order[:, 0], kind="stable")[: spec.patches])
    each = max(1, spec.patches // len(rows))
    features, labels = [], []
    for seen in _seen(context, spec, accelerator, pool, rows):
        of_batch = _labels(context, pool, seen, num_classes)
        epochs, count = np.zeros_like(seen.rows), of_batch.shape[1]
        draws = uniforms(spec.seed, epochs, seen.rows, 0, count, purpose="dense patches")
        draws[of_batch.numpy() == IGNORED] = np.inf
        chosen = np.sort(np.argsort(draws, axis=1, kind="stable")[:, :each], axis=1)
        picked = torch.from_numpy(chosen)
        known = of_batch.gather(1, picked)
        vectors = seen.maps.flatten(2).transpose(1, 2)  # [b, p, d]
        taken = vectors.gather(1, picked[:, :, None].expand(-1, -1, vectors.shape[2]))
        features.append(taken[known != IGNORED])
        labels.append(known[known != IGNORED])
    learned = Labelled(torch.cat(features), torch.cat(labels))
    if not len(learned.labels):
        raise DataError(f"no patch of {trained_on(spec.data)} has a class that is known")
    return learned


def _picture(
    context: Context, spec: Dense, accelerator: Accelerator, pool: Pool, base: str
) -> tuple[bytes, tuple[int, int]]:
    """Return images with the principal components of their positions, and rows and columns.

    Args:
        context: of the trial.
        spec: its settings.
        accelerator: its device.
        pool: val.
        base: key of the trial whose backbone is shown first; empty for none.
    """
    rows = np.unique(np.linspace(0, len(pool) - 1, PICTURES).round().astype(np.int64))
    contexts = ([_starting_from(context, base)] if base else []) + [context]
    seen = [
        one
        for each in contexts
        for one in _seen(each, spec, accelerator, pool, rows)  # a single batch each
    ]
    maps = torch.cat([one.maps for one in seen])  # [networks * images, d, r, c]
    grid = (int(maps.shape[2]), int(maps.shape[3]))
    shares = dense.principal(maps.permute(0, 2, 3, 1).flatten(0, 2))
    colours = (shares * 255).round().byte().view(len(contexts), len(rows), *grid, 3).numpy()
    images = seen[-1].images.permute(0, 2, 3, 1).contiguous().numpy()
    cells = [
        [images[at], *(_enlarged(of_network[at]) for of_network in colours)]
        for at in range(len(rows))
    ]
    if len(cells) % 2 == 0:
        cells = [one + other for one, other in zip(cells[::2], cells[1::2], strict=True)]
    return encoded(cells, _PX, wide_gap_after=(len(contexts),)), grid


def _enlarged(pixels: Pixels) -> Pixels:
    """Return a small picture with each of its pixels as a square."""
    times = max(1, _PX // max(pixels.shape[:2]))
    return np.ascontiguousarray(pixels.repeat(times, axis=0).repeat(times, axis=1))


def _starting_from(context: Context, key: str) -> Context:
    """Return the context of a trial that starts from another backbone, given by its key."""
    trial = replace(context.order.trial, init=key)
    return replace(context, order=replace(context.order, trial=trial))
