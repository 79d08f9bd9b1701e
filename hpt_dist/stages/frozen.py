"""Frozen features of a dataset, for the kinds that judge them.

They are computed once for the weights, the images and what is done to these; see `store.features`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hpt_dist.errors import HptError
from hpt_dist.evals.features import Labelled, extract
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks.inner_features import POOL, features_at, flattened_at
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import Batch, Pool, View, center_batches, crop_batches, network_views
from hpt_dist.recipe import Augment
from hpt_dist.recipe.kinds.frozen import dataset_of, trained_on
from hpt_dist.recipe.metrics import metric_of
from hpt_dist.recipe.numerics import FLOAT32
from hpt_dist.stages.inputs import (
    EVAL_BATCH,
    accelerator_of,
    backbone_of,
    manifest_of,
    mean_std,
    photometric_of,
    pool_of,
)
from hpt_dist.stages.predictions import predictions_of
from hpt_dist.store import committed
from hpt_dist.store import features as shared
from hpt_dist.train.interrupt import BY_PEOPLE
from hpt_dist.train.loop import Accelerator
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result
from hpt_dist.weights import files
from hpt_dist.weights.head import Head

log = logging.getLogger(__name__)

# torchvision's default of random resized crops, which linear evaluation trains on.
_CROP_AREA = (0.08, 1.0)
_FORMAT = 1  # raised when the same document gives other features
_JUDGED = ("val", "test")


def features_of(
    context: Context,
    data: str,
    *,
    views: int,
    seed: int,
    replacements: Replacements | None = None,
    where: str = POOL,
    learned: Callable[[Pool], Pool] | None = None,
) -> tuple[Labelled, Labelled, Labelled | None]:
    """Return the frozen features of a dataset's train, val and, not for a candidate, test.

    Those of train are [n, d] without augmented copies (`views` 0), else [views, n, d]. Only damaged
    images of train may be replaced, by others with their labels: val and test judge.

    Args:
        context: of the trial.
        data: the dataset or what is learned from, as the recipe names it.
        views: augmented copies of train.
        seed: of their crops.
        replacements: of damaged images of train; None refuses them.
        where: in the backbone; see `inner_features.features_at`.
        learned: chooses those of train that it learns from; None takes all.
    """
    frozen, named, dataset = Frozen(context, where), trained_on(data), dataset_of(data)
    copies = [
        frozen.features(named, Copy(seed, epoch) if views else None, replacements, learned)
        for epoch in range(views or 1)
    ]
    train = copies[0]
    if views:
        stacked = torch.stack([copy.features for copy in copies])
        train = Labelled(stacked, copies[-1].labels)
    val = frozen.features(f"{dataset}/val")
    return train, val, None if context.order.trial.is_candidate else test_of(frozen, data)


def test_of(frozen: Frozen, data: str) -> Labelled:
    """Return the frozen features of the split that judges what validation chose."""
    return frozen.features(f"{dataset_of(data)}/test")


class Copy(NamedTuple):
    """An augmented copy of a split, by random crops and flips: its seed, and which one it is."""

    seed: int
    epoch: int


class Frozen:
    """The features that a trial's backbone makes of images; those that are shared are read.

    Args:
        context: of the trial.
        where: in the backbone; see `inner_features.features_at`.
        flat: whether the part `where` is flattened; see `inner_features.flattened_at`.
        state: of the backbone; None is that of the trial that this one starts from.
    """

    def __init__(
        self,
        context: Context,
        where: str = POOL,
        *,
        flat: bool = False,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._context = context
        self._where = where
        self._flat = flat
        self._state = state

    @cached_property
    def accelerator(self) -> Accelerator:
        """The device that they are computed on."""
        return accelerator_of(self._context)

    @cached_property
    def backbone(self) -> nn.Module:
        """Images -> features, on its device."""
        backbone = backbone_of(self._context)
        if self._state is not None:
            backbone.load_state_dict(self._state)
        place = flattened_at if self._flat else features_at
        inner = place(backbone, self._where, self._context.order.image_size)
        return inner.to(self.accelerator.device).to(memory_format=torch.channels_last)

    @cached_property
    def _weights(self) -> str:
        """The digest of the backbone's weights."""
        if self._state is not None:
            return files.content_digest(files.save(self._state, {}))
        trial = self._context.order.trial
        data = committed.read(self._context.store, trial.init, committed.WEIGHTS)
        return files.content_digest(data)

    def features(
        self,
        reference: str,
        copy: Copy | None = None,
        replacements: Replacements | None = None,
        chosen: Callable[[Pool], Pool] | None = None,
    ) -> Labelled:
        """Return the features of a split, in its order.

        Args:
            reference: dataset/split, by the recipe's names.
            copy: an augmented one; None is the middle of each image.
            replacements: of damaged images; None refuses them.
            chosen: some images of the split; None is all of them.
        """
        pool = pool_of(self._context, (reference,))
        if chosen:
            pool = chosen(pool)
        document = self._document(reference, pool, copy)
        rows = np.arange(len(pool))
        features = self._shared(document, len(pool))
        if features is None:
            features, rows = self.computed(pool, copy, replacements)
            # Others may find the images mended, or may not replace any.
            if not replacements:
                data = files.save({"features": features}, {})
                shared.commit(self._context.store, document, data)
        several = manifest_of(self._context, reference).label == "multi"
        return Labelled(
            features, torch.from_numpy((pool.members if several else pool.labels)[rows])
        )

    def _shared(self, document: dict[str, Any], images: int) -> Tensor | None:
        data = shared.find(self._context.store, document)
        if data is None:
            return None
        try:
            features = files.read(data)[0]["features"]
        except (HptError, KeyError) as error:
            log.warning("features are computed again: %s", error)
            return None
        log.info("features of %s are shared", document["split"])
        return features if features.ndim == 2 and len(features) == images else None

    def computed(
        self, pool: Pool, copy: Copy | None, replacements: Replacements | None
    ) -> tuple[Tensor, Ints]:
        """Compute the features [n, d] anew, and return which samples of the pool they are of."""
        device, order = self.accelerator.device, self._context.order
        prepared: Callable[[Batch], Tensor]
        if copy is None:
            normalize = Normalize(*mean_std(self._context), device)
            batches = center_batches(
                pool,
                batch=EVAL_BATCH,
                size=order.image_size,
                workers=order.threads,
                replacements=replacements,
            )
            prepared = lambda batch: normalize(batch.images[0])  # noqa: E731
        else:
            policy = Augment(jitter=0, gray=0, blur=0)
            photometric = photometric_of(self._context, policy, device)
            batches = crop_batches(
                pool,
                batch=EVAL_BATCH,
                view=View(order.image_size, _CROP_AREA),
                seed=copy.seed,
                epoch=copy.epoch,
                workers=order.threads,
                replacements=replacements,
            )
            prepared = lambda batch: network_views(batch, [photometric], copy.seed)[0]  # noqa: E731
        rows = []

        def images() -> Iterator[Tensor]:
            # Sets that are complete are shared; at a scheduler's warning this one may end too.
            for batch in self._context.interrupt.heeding(batches, *BY_PEOPLE):
                rows.append(batch.indices)
                yield prepared(batch)

        return extract(self.backbone, images(), device), np.concatenate(rows)

    def _document(self, reference: str, pool: Pool, copy: Copy | None) -> dict[str, Any]:
        """Return what determines the features of a split, in plain JSON values."""
        trial, order = self._context.order.trial, self._context.order
        mean, std = mean_std(self._context)
        return {
            "format": _FORMAT,
            "backbone": trial.backbone,
            "plugin": trial.document.get("plugins", {}).get("backbone", {}),
            "weights": self._weights,
            "features": self._where,
            "dataset": manifest_of(self._context, reference).digest,
            "split": reference.partition("/")[2],
            "images": pool.digest,
            "view": {"crop": list(_CROP_AREA), **copy._asdict()} if copy else {"crop": "center"},
            "size": order.image_size,
            "mean": list(mean),
            "std": list(std),
            "numerics": f"{FLOAT32}, {trial.device}",
        }


def metric_for(context: Context, data: str, asked: str | None) -> str:
    """Return the metric by which val chooses on a dataset: the recipe's, else the manifest's."""
    return metric_of(asked, context.order.trial.datasets[dataset_of(data)])


def head_of(context: Context, data: str, classifier: nn.Linear, where: str = POOL) -> Head:
    """Return a classifier with all that `load_classifier` needs to put it on its backbone.

    Args:
        context: of the trial.
        data: the dataset or what is learned from, as the recipe names it.
        classifier: features [b, d] -> scores [b, num_classes].
        where: in the backbone the features are; see `inner_features.features_at`.
    """
    manifest = manifest_of(context, data)
    return Head(
        {name: value.cpu() for name, value in classifier.state_dict().items()},
        manifest.classes,
        context.order.image_size,
        *mean_std(context),
        features=where,
        several=manifest.label == "multi",
    )


def judged(
    context: Context,
    data: str,
    found: dict[str, Any],
    replacements: Replacements | None = None,
    head: Head | None = None,
) -> Result:
    """Return the result of an evaluation: its metrics, its details, and its answers to images.

    Args:
        context: of the trial.
        data: the dataset or what is learned from, as the recipe names it.
        found: by a function of `evals`; see `answers.results`.
        replacements: of damaged images.
        head: the classifier that it leaves.
    """
    splits = tuple(f"{split}/" for split in _JUDGED)
    names = [n for n, v in found.items() if n.startswith(splits) and isinstance(v, float)]
    metrics = {name: found.pop(name) for name in names}
    manifest = manifest_of(context, data)
    predictions = {}
    for split, scores in found.pop("scores", {}).items():
        reference = f"{dataset_of(data)}/{split}"
        pool = pool_of(context, (reference,))
        predictions[split] = predictions_of(context, reference, pool, scores)
    if excluded := found.pop("excluded", {}):
        found["excluded"] = _named(excluded, manifest.classes)
    replicates = found.pop("replicates", {})
    replaced = replacements.until(0) if replacements else ()
    return Result(
        metrics,
        found,
        head=head,
        replaced=replaced,
        predictions=predictions,
        replicates=replicates,
    )


def _named(
    excluded: Mapping[str, Mapping[str, list[int]]], classes: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """Return the classes that metrics leave out, by their names."""
    return {
        split: {metric: [classes[c] for c in ids] for metric, ids in by_metric.items()}
        for split, by_metric in excluded.items()
    }
