"""What a trial reads: its datasets as pools of images, and the batches that training consumes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt_dist.augment import Photometric
from hpt_dist.errors import DataError
from hpt_dist.manifest import Manifest, read_manifest
from hpt_dist.order import Ints
from hpt_dist.recipe import Augment, Mme, Pretrain
from hpt_dist.stage import Context
from hpt_dist.store import open_store
from hpt_dist.stream import Batch, Pool, Split, Stream, network_views, open_split
from hpt_dist.subset import read_subset
from hpt_dist.train import Accelerator, Feed, Inputs

RGB = tuple[float, float, float]

_NORMALIZE: dict[str, tuple[RGB, RGB]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def _dataset(context: Context, reference: str) -> tuple[Any, str]:
    """Return the store and the name of a dataset that the recipe names in its own way."""
    dataset = context.job.trial.datasets[reference.split("/")[0]]
    return open_store(dataset.store) if dataset.store else context.store, dataset.name


def manifest_of(context: Context, reference: str) -> Manifest:
    """Read the manifest of a dataset, which must be the one that the plan was made with.

    Raises:
        DataError: it has changed since.
    """
    manifest = read_manifest(*_dataset(context, reference))
    planned = context.job.trial.datasets[reference.split("/")[0]].digest
    if manifest.digest != planned:
        raise DataError(
            f"{manifest.name} has changed since the launch",
            fix="launch again: what depends on it gets new keys",
        )
    return manifest


def pool_of(context: Context, references: tuple[str, ...]) -> Pool:
    """Open dataset/split and dataset/split@subset references as one pool."""
    splits = []
    for reference in references:
        manifest_of(context, reference)
        store, name = _dataset(context, reference)
        splits.append(open_split(store, name, _split_of(reference)))
    if not any("@" in reference for reference in references):
        return Pool(splits)
    firsts = np.cumsum([0, *map(len, splits)])
    rows = [_rows(context, *pair) for pair in zip(references, splits, strict=True)]
    return Pool(splits, np.concatenate([a + b for a, b in zip(firsts, rows, strict=False)]))


def _split_of(reference: str) -> str:
    return reference.partition("/")[2].partition("@")[0]


def _rows(context: Context, reference: str, split: Split) -> Ints:
    """Return which samples of a split a reference means, ascending."""
    alias, _, split_of = reference.partition("/")
    subset_name = split_of.partition("@")[2]
    if not subset_name:
        return np.arange(len(split))
    subset = read_subset(*_dataset(context, reference), subset_name)
    if subset.digest != context.job.trial.datasets[alias].subsets[split_of]:
        raise DataError(
            f"the subset {subset_name} of {split.name} has changed since the launch",
            fix="launch again: what depends on it gets new keys",
        )
    keys = set(subset.keys)
    return np.flatnonzero([key in keys for key in split.keys])


def mean_std(context: Context) -> tuple[RGB, RGB]:
    """Return how pixels are normalised; over several datasets, the mean of their statistics."""
    if context.job.normalize in _NORMALIZE:
        return _NORMALIZE[context.job.normalize]
    manifests = [manifest_of(context, alias) for alias in context.job.trial.datasets]
    mean = np.mean([manifest.mean for manifest in manifests], axis=0)
    std = np.mean([manifest.std for manifest in manifests], axis=0)
    return tuple(mean.tolist()), tuple(std.tolist())


def photometric_of(context: Context, policy: Augment, device: torch.device) -> Photometric:
    """Return a policy of random colours with the trial's normalisation."""
    return Photometric(policy, *mean_std(context), device)


def _stream(context: Context, pool: Pool, accelerator: Accelerator, **settings: Any) -> Stream:
    return Stream(
        pool,
        size=context.job.image_size,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        nodes=_nodes(accelerator),
        workers=context.job.threads,
        **settings,
    )


def _nodes(accelerator: Accelerator) -> int:
    """Return over how many machines the ranks are spread, as the launcher tells them."""
    ranks = int(accelerator.num_processes)
    return max(1, ranks // int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))


def two_view_feed(context: Context, spec: Pretrain, pool: Pool, accelerator: Accelerator) -> Feed:
    """Feed two random views of each image."""
    photometric = photometric_of(context, spec.augment, accelerator.device)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        area = spec.augment.crop_area
        with _stream(
            context,
            pool,
            accelerator,
            batch=spec.batch,
            seed=spec.seed,
            views=2,
            crop_area=area,
            streams=spec.shuffle.streams,
            window=spec.shuffle.window,
            max_bad=spec.max_bad,
        ) as stream:
            stream.load_state_dict({"step": start})
            yield ((tuple(network_views(batch, photometric, spec.seed)),) for batch in stream)

    return feed


def mme_feed(context: Context, spec: Mme, pools: dict[str, Pool], accelerator: Accelerator) -> Feed:
    """Feed (source and labelled target images, labels) and (unlabelled target images,)."""
    policy = Augment(crop_area=spec.crop_area, jitter=0, gray=0, blur=0)
    photometric = photometric_of(context, policy, accelerator.device)
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
                        max_bad=spec.max_bad,
                    )
                )
                stream.load_state_dict({"step": start})
                streams.append(stream)
            yield (inputs(*parts) for parts in zip(*streams, strict=True))

    return feed
