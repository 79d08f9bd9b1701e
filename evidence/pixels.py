"""What raw pixels are worth: the evaluations of a recipe without any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence.collect import settings_of
from evidence.records import TrialRecord, packed
from hpt_dist.datasets import fewshot
from hpt_dist.evals import knn, logistic
from hpt_dist.evals.features import Labelled
from hpt_dist.reading.stream import Pool, center_batches, open_split
from hpt_dist.recipe import Knn, Linear, fractions
from hpt_dist.recipe.kinds.frozen import dataset_of, trained_on
from hpt_dist.recipe.trial import Trial, key_of
from hpt_dist.stages.inputs import EVAL_BATCH, few_of
from hpt_dist.store import Store

_SIZE = 28  # pixels a side
_VERSION = 2  # raised by hand when the code gives another result


def document(trial: Trial) -> dict[str, Any]:
    """Return what determines the worth of pixels under the settings of another arm's evaluation."""
    return {**trial.document, "init": "", "backbone": f"pixels {_SIZE}, version {_VERSION}"}


def key(trial: Trial) -> str:
    """Return the key of `document`."""
    return key_of(document(trial))


def evaluate(store: Store, trial: Trial, sitting: int) -> TrialRecord:
    """Return what pixels are worth under the settings of another arm's evaluation.

    Args:
        store: that holds the images.
        trial: a `knn`, or a `linear` of solver lbfgs, of images with one label each.
        sitting: the place of this sitting in the unit's list.
    """
    spec = trial.spec
    if not isinstance(spec, Knn | Linear):
        raise TypeError(f"{trial.name} judges no features")
    data = dataset_of(spec.data)
    num_classes = trial.datasets[data].classes
    learned = _pool(store, trial, trained_on(spec.data))
    if isinstance(spec, Linear) and spec.shots:
        learned = few_of(learned, num_classes, spec.shots, spec.seed, several=False)
    splits = _once([_pixels(pool) for pool in (learned, *_judges(store, trial, data))])
    found = _judged(spec, splits, num_classes)
    answered = found["scores"]["test"].argmax(axis=1) == splits[2].labels.numpy()
    return TrialRecord(
        key(trial),
        settings_of(document(trial)),
        sitting,
        0.0,
        top1=found["test/top1"],
        val=found["val/top1"],
        labels=len(learned),
        right=packed(answered),
        images=len(answered),
    )


def _judges(store: Store, trial: Trial, data: str) -> tuple[Pool, Pool]:
    return _pool(store, trial, f"{data}/val"), _pool(store, trial, f"{data}/test")


def _judged(spec: Knn | Linear, splits: list[Labelled], num_classes: int) -> dict[str, Any]:
    train, val, test = splits
    if isinstance(spec, Knn):
        k, temperature = spec.k, spec.temperature
        return knn.evaluate(train, val, test, num_classes=num_classes, k=k, temperature=temperature)
    return logistic.choose(train, val, test, num_classes=num_classes, l2=spec.l2)[0]


def _pool(store: Store, trial: Trial, reference: str) -> Pool:
    """Return a split, or the seeded share of it that a reference names."""
    data, _, part = reference.partition("/")
    split, _, share = part.partition("@")
    pool = Pool([open_split(store, trial.datasets[data].name, split)])
    if not share:
        return pool
    percentage = fractions.percent(share)
    return pool.subset(fewshot.percent(pool.keys, percentage, trial.spec.seed))


def _once(splits: Sequence[Labelled]) -> list[Labelled]:
    """Return gray images with one channel: three that are the same cost minutes and add nothing."""
    channels = [one.features.view(len(one.features), 3, -1) for one in splits]
    if any(bool((one != one[:, :1]).any()) for one in channels):
        return list(splits)
    return [Labelled(gray[:, 0], one.labels) for one, gray in zip(splits, channels, strict=True)]


def _pixels(pool: Pool) -> Labelled:
    """Return images as float32 [n, 3 * 28 * 28], 0 to 1, in the pool's order."""
    batches = center_batches(pool, batch=EVAL_BATCH, size=_SIZE)
    images = torch.cat([batch.images[0].flatten(1) for batch in batches])
    return Labelled(images.float() / 255, torch.from_numpy(np.asarray(pool.labels)))
