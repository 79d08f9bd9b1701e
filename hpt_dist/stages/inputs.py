"""What a trial reads: its datasets as pools of images, and the batches that training consumes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from hpt_dist.datasets import fewshot
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.subset import read_subset
from hpt_dist.errors import DataError, TrainingError
from hpt_dist.images.normalization import NORMALIZE, RGB
from hpt_dist.images.photometric import Photometric
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import (
    Pool,
    ReadableSplit,
    Stream,
    open_split,
)
from hpt_dist.recipe import Augment, fractions
from hpt_dist.store import committed, open_store
from hpt_dist.store.paths import stage_prefix
from hpt_dist.train.loop import Accelerator, make_accelerator
from hpt_dist.trial.context import Context
from hpt_dist.weights import match as weights
from hpt_dist.weights import values

# Images that are looked at together where nothing is trained.
EVAL_BATCH = 256
T = TypeVar("T")


def _dataset(context: Context, reference: str) -> tuple[Any, str]:
    """Return the store and the name of a dataset that the recipe names in its own way."""
    dataset = context.order.trial.datasets[reference.split("/")[0]]
    return open_store(dataset.store) if dataset.store else context.store, dataset.name


def manifest_of(context: Context, reference: str) -> Manifest:
    """Read the manifest of a dataset, which must be the one that the plan was made with.

    Raises:
        DataError: it has changed since.
    """
    manifest = read_manifest(*_dataset(context, reference))
    planned = context.order.trial.datasets[reference.split("/")[0]].digest
    if manifest.digest != planned:
        raise DataError(
            f"{manifest.name} has changed since the launch",
            fix="launch again: what depends on it gets new keys",
        )
    return manifest


def pool_of(context: Context, references: tuple[str, ...]) -> Pool:
    """Open dataset/split, dataset/split@subset and dataset/split@10% references as one pool."""
    splits = []
    for reference in references:
        _check_kept_back(context, reference)
        manifest_of(context, reference)
        store, name = _dataset(context, reference)
        splits.append(open_split(store, name, _split_of(reference)))
    if not any("@" in reference for reference in references):
        return Pool(splits)
    firsts = np.cumsum([0, *map(len, splits)])
    rows = [_rows(context, *pair) for pair in zip(references, splits, strict=True)]
    return Pool(splits, np.concatenate([a + b for a, b in zip(firsts, rows, strict=False)]))


def few_of(pool: Pool, num_classes: int, shots: int, seed: int, *, several: bool) -> Pool:
    """Return so many images of each class, or all of a class that has fewer; see `fewshot.k_shot`.

    Args:
        pool: labelled images.
        num_classes: of the dataset.
        shots: images of each class.
        seed: chooses them.
        several: whether an image has several labels.
    """
    return pool.subset(fewshot.k_shot(classes_of(pool, several=several), num_classes, shots, seed))


def classes_of(pool: Pool, *, several: bool) -> fewshot.Labels:
    """Return the labels of a pool as `fewshot` takes them."""
    if not several:
        return pool.labels
    return [tuple(np.flatnonzero(row).tolist()) for row in pool.members]


def _check_kept_back(context: Context, reference: str) -> None:
    """Refuse to show a candidate the images that only what is chosen may read."""
    trial = context.order.trial
    kept_back = trial.spec.kept_back() if trial.is_candidate else ()
    if reference.partition("@")[0] in kept_back:
        raise TrainingError(
            f"{trial.name} reads {reference}, which is kept back from candidates",
            fix="that is a bug in the code of this kind of stage: validation chooses, test is read "
            "by what it chose",
        )


def _split_of(reference: str) -> str:
    return reference.partition("/")[2].partition("@")[0]


def _rows(context: Context, reference: str, split: ReadableSplit) -> Ints:
    """Return which samples of a split a reference means, ascending."""
    alias, _, split_of = reference.partition("/")
    subset_name = split_of.partition("@")[2]
    if not subset_name:
        return np.arange(len(split))
    if fractions.is_fraction(subset_name):
        seed = context.order.trial.spec.seed
        return fewshot.percent(split.keys, fractions.percent(subset_name), seed)
    subset = read_subset(*_dataset(context, reference), subset_name)
    if subset.digest != context.order.trial.datasets[alias].subsets[split_of]:
        raise DataError(
            f"the subset {subset_name} of {split.name} has changed since the launch",
            fix="launch again: what depends on it gets new keys",
        )
    keys = set(subset.keys)
    return np.flatnonzero([key in keys for key in split.keys])


def backbone_of(context: Context) -> Backbone:
    """Return the backbone with the weights of the trial that this one starts from.

    Raises:
        StoreError: they are not what that trial committed.
        WeightsError: they are not finite.
    """
    backbone = backbones.create(context.order.trial.backbone)
    parent = context.order.trial.init
    state, _ = weights.read(committed.read(context.store, parent, committed.WEIGHTS))
    values.require_finite(state, where=f"{context.store.uri}/{stage_prefix(parent)}")
    backbone.load_state_dict(state)
    backbones.check_size(backbone, context.order.image_size)
    return backbone


def accelerator_of(context: Context) -> Accelerator:
    """Return the device and the ranks that a trial works on: those that it was planned for."""
    trial = context.order.trial
    return make_accelerator(
        threads=context.order.threads,
        seed=trial.spec.seed,
        device=trial.device,
        numerics=trial.numerics,
    )


def mean_std(context: Context) -> tuple[RGB, RGB]:
    """Return how pixels are normalised; over several datasets, the mean of their statistics."""
    if context.order.normalize in NORMALIZE:
        return NORMALIZE[context.order.normalize]
    reads = [read for read in context.order.trial.spec.reads() if read.normalizes]
    aliases = sorted({read.split.split("/")[0] for read in reads})
    manifests = [manifest_of(context, alias) for alias in aliases]
    mean = np.mean([manifest.mean for manifest in manifests], axis=0)
    std = np.mean([manifest.std for manifest in manifests], axis=0)
    return tuple(mean.tolist()), tuple(std.tolist())


def photometric_of(context: Context, policy: Augment, device: torch.device) -> Photometric:
    """Return a policy of random colours with the trial's normalisation."""
    return Photometric(policy, *mean_std(context), device)


def stream_of(context: Context, pool: Pool, accelerator: Accelerator, **settings: Any) -> Stream:
    """Return a stream of this rank's share of each batch; see `Stream` for its settings."""
    return Stream(
        pool,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        nodes=_nodes(accelerator),
        workers=context.order.threads,
        **settings,
    )


def _nodes(accelerator: Accelerator) -> int:
    """Return over how many machines the ranks are spread, as the environment has it."""
    ranks = int(accelerator.num_processes)
    return max(1, ranks // int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))


@contextmanager
def ahead(batches: Iterator[T], device: torch.device) -> Iterator[Iterator[T]]:
    """Make each batch while the one before is trained on; on a GPU its own queue does that."""
    if device.type != "cpu":
        yield batches
        return
    # By one core alone, which each thread sets for itself: beside another team of
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
