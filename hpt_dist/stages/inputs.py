"""What a trial reads: its datasets as pools of images, and the batches that training consumes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.subset import read_subset
from hpt_dist.errors import DataError
from hpt_dist.images.photometric import Photometric
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import (
    Batch,
    Pool,
    Split,
    Stream,
    batch_keys,
    network_views,
    open_split,
)
from hpt_dist.recipe import Augment, Mme, Pretrain
from hpt_dist.recipe.file import data_of
from hpt_dist.store import open_store
from hpt_dist.store.paths import stage_prefix
from hpt_dist.train.loop import Accelerator, Feed, Inputs, make_accelerator
from hpt_dist.trial.run import Context
from hpt_dist.weights import match as weights

RGB = tuple[float, float, float]
T = TypeVar("T")

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


def backbone_of(context: Context) -> Backbone:
    """Return the backbone with the weights of the trial that this one starts from."""
    backbone = backbones.create(context.job.trial.backbone)
    prefix = stage_prefix(context.job.trial.init)
    state, _ = weights.read(context.store.get(f"{prefix}/weights.safetensors"))
    backbone.load_state_dict(state)
    backbones.check_size(backbone, context.job.image_size)
    return backbone


def accelerator_of(context: Context) -> Accelerator:
    """Return the device and the ranks that a trial works on: those that it was planned for."""
    trial = context.job.trial
    return make_accelerator(
        threads=context.job.threads,
        seed=trial.spec.seed,
        device=trial.device,
        numerics=trial.numerics,
    )


def mean_std(context: Context) -> tuple[RGB, RGB]:
    """Return how pixels are normalised; over several datasets, the mean of their statistics."""
    if context.job.normalize in _NORMALIZE:
        return _NORMALIZE[context.job.normalize]
    spec = context.job.trial.spec
    read = [ref for name, ref in data_of(spec) if name != "monitor"]
    aliases = sorted({reference.split("/")[0] for reference in read})
    manifests = [manifest_of(context, alias) for alias in aliases]
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


def two_view_feed(
    context: Context,
    spec: Pretrain,
    pool: Pool,
    accelerator: Accelerator,
    memory_format: torch.memory_format,
) -> Feed:
    """Feed two random views of each image."""
    policies = (spec.augment, spec.augment_other or spec.augment)
    photometrics = [photometric_of(context, policy, accelerator.device) for policy in policies]

    def inputs(batch: Batch) -> tuple[Inputs, ...]:
        views = network_views(batch, photometrics, spec.seed)
        return (tuple(view.contiguous(memory_format=memory_format) for view in views),)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with _stream(
            context,
            pool,
            accelerator,
            batch=spec.batch,
            seed=spec.seed,
            views=2,
            crop_area=spec.augment.crop_area,
            streams=spec.shuffle.streams,
            window=spec.shuffle.window,
            max_bad=spec.max_bad,
        ) as stream:
            stream.load_state_dict({"step": start})
            with _ahead(map(inputs, stream), accelerator.device) as batches:
                yield batches

    return feed


def two_view_keys(spec: Pretrain, pool: Pool, step: int) -> list[str]:
    """Return the keys of the images of a step's global batch."""
    streams, window = spec.shuffle.streams, spec.shuffle.window
    return batch_keys(pool, step, batch=spec.batch, seed=spec.seed, streams=streams, window=window)


def mme_keys(spec: Mme, pools: dict[str, Pool], step: int) -> list[str]:
    """Return the keys of the images of a step's global batches, those with labels first."""
    batches = _mme_batches(spec)
    return [
        key
        for name, batch in batches.items()
        for key in batch_keys(pools[name], step, batch=batch, seed=spec.seed)
    ]


def _mme_batches(spec: Mme) -> dict[str, int]:
    """Return how many images of each pool a step takes."""
    batches = {"source": spec.batch_labelled, "labelled": spec.batch_labelled}
    if spec.objective != "s+t":
        batches["unlabelled"] = spec.batch_unlabelled
    return batches


@contextmanager
def _ahead(batches: Iterator[T], device: torch.device) -> Iterator[Iterator[T]]:
    """Make each batch while the one before is trained on; on a GPU its own queue does that."""
    if device.type != "cpu":
        yield batches
        return
    # By one core alone, which the setting of a thread says for itself: beside another team of
    # threads, training waits for whichever of its own has to wait (153 images/s instead of 189).
    with ThreadPoolExecutor(
        1, thread_name_prefix="views", initializer=torch.set_num_threads, initargs=(1,)
    ) as thread:

        def one_ahead() -> Iterator[T]:
            pending = thread.submit(next, batches)
            while True:
                batch = pending.result()
                pending = thread.submit(next, batches)
                yield batch

        yield one_ahead()


def mme_feed(
    context: Context,
    spec: Mme,
    pools: dict[str, Pool],
    accelerator: Accelerator,
    memory_format: torch.memory_format,
) -> Feed:
    """Feed (source and labelled target images, labels) and (unlabelled target images,)."""
    policy = Augment(crop_area=spec.crop_area, jitter=0, gray=0, blur=0)
    photometric = photometric_of(context, policy, accelerator.device)

    def view(batch: Batch) -> Tensor:
        (images,) = network_views(batch, [photometric], spec.seed)
        return images.contiguous(memory_format=memory_format)

    def inputs(*parts: Batch) -> tuple[Inputs, ...]:
        source, labelled, *unlabelled = parts
        labels = torch.cat([source.labels, labelled.labels]).to(accelerator.device)
        images = torch.cat([view(source), view(labelled)])
        return ((images, labels), *((view(batch),) for batch in unlabelled))

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        with ExitStack() as stack:
            streams = []
            for name, batch in _mme_batches(spec).items():
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
            batches = (inputs(*parts) for parts in zip(*streams, strict=True))
            yield stack.enter_context(_ahead(batches, accelerator.device))

    return feed
