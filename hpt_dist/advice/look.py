"""A look at data, bases and this machine, of seconds; in a process of its own, which imports torch.

It opens no more images than its time allows, trains nothing that is kept, and writes nothing. What
it reads of test is whether images of it are also trained on: nothing is chosen by test.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpt_dist.advice import pictures, rules
from hpt_dist.advice.clock import Clock, OutOfTimeError
from hpt_dist.advice.evidence import NEIGHBOURS, WATCHED
from hpt_dist.advice.facts import (
    Base,
    Copies,
    Dataset,
    Difference,
    Facts,
    Pictures,
    Source,
    Speed,
)
from hpt_dist.datasets import leaks
from hpt_dist.datasets.inventory import StoredDataset
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.processes import environment, workers
from hpt_dist.recipe.numerics import Device, DeviceKind, decide
from hpt_dist.store import open_store

if TYPE_CHECKING:
    import torch

    from hpt_dist.advice.features import Judged, Sample
    from hpt_dist.networks.backbones import Backbone
    from hpt_dist.reading.pool import Pool

Tell = Callable[[str], None]

PIXELS = "raw pixels"
_DECODED = 300  # images whose look is described
_HASHED = 4_000  # of each side, that are compared by look
_COMPARED = 300_000  # images of a dataset whose bytes are compared
_SEEN = 512  # images of a source, and of a target without labels
_HELD_OUT = 0.25  # of train, that is classified where there is no val


@dataclass(frozen=True)
class Place:
    """Where a dataset lies.

    Args:
        dataset: what its manifest says.
        store: URI of its store.
        name: in that store.
    """

    dataset: Dataset
    store: str
    name: str


@dataclass(frozen=True)
class Question:
    """What is looked at.

    Args:
        target: the dataset that a recipe is for.
        sources: candidates to pretrain on before.
        bases: weights and the backbone of each.
        store: URI, in which relative paths of weights are looked up.
        device: that trials would compute on.
        cores: that they may use.
        seconds: that the look may take, but for loading libraries and weights.
    """

    target: Place
    sources: tuple[Place, ...]
    bases: tuple[tuple[str, str], ...]
    store: str
    device: DeviceKind
    cores: int
    seconds: float


def in_process(question: Question, tell: Tell) -> Facts:
    """Look, in a process of its own that ends with this call, also at Ctrl-C.

    Raises:
        HptError: what `look` raises.
    """
    variables = environment.for_trials(os.environ)[0] | environment.threads(question.cores)
    with contextlib.closing(workers.fed(look, [question], 1, variables)) as found:
        for answer in found:
            if answer.is_last:
                facts: Facts = answer.value
                return facts
            tell(str(answer.value))
    raise AssertionError("the worker's last answer is its result")


def look(question: Question, tell: Tell) -> Facts:
    """Look; see the module.

    Raises:
        RequestError: there are no such weights, or they do not fit their backbone.
        DataError: the dataset is damaged, or none of its images decodes.
        TrainingError: the device is not there, or its memory is too small.
        StoreError: a store cannot be read.
    """
    return _Look(question, tell).facts()


class _Look:
    """One look, part after part, each of which knows what the ones before saw."""

    def __init__(self, question: Question, tell: Tell) -> None:
        import torch

        from hpt_dist.networks import precision

        precision.require(question.device)
        torch.set_num_threads(question.cores)
        self._device = torch.device("cuda" if question.device == "gpu" else "cpu")
        self._question, self._tell = question, tell
        self._target = question.target.dataset
        self._skipped: list[str] = []

    def facts(self) -> Facts:
        """Return all that was seen."""
        question, target = self._question, self._target
        clock = Clock(question.seconds)
        self._tell(f"looking at images of {target.alias}")
        pool = self._pool(question.target, target.pool)
        shown = self._pictures(pool, clock.part(0.15))
        copies = self._copies(pool, clock.part(0.2))
        size = rules.size(shown, question.device, [one for _, one in question.bases]).value
        looked = []
        for number, (weights, backbone) in enumerate(question.bases):
            self._tell(f"looking through the features of {weights}")
            share = 0.5 / (len(question.bases) - number)
            looked.append(self._base(weights, backbone, size, clock.part(share)))
        differences = self._differences(looked)
        bases = tuple(one.base for one in looked)
        chosen = rules.base(bases, differences).value
        looked_at = looked[bases.index(chosen)]
        sources = self._sources(looked_at, chosen, size, clock.part(0.5))
        self._tell("measuring how fast this machine trains")
        speed = self._speed(pool, chosen, shown, size, clock.part(0.8))
        pixels = looked_at.pixels.score if looked_at.pixels else None
        return Facts(
            *(target, question.device, question.cores, shown, copies, bases, pixels),
            *(differences, sources, speed, round(clock.spent, 1), tuple(self._skipped)),
        )

    def _pool(self, place: Place, splits: Sequence[str]) -> Pool:
        from hpt_dist.reading.pool import Pool
        from hpt_dist.reading.split import open_split

        store = open_store(place.store)
        return Pool([open_split(store, place.name, split) for split in splits])

    def _pictures(self, pool: Pool, clock: Clock) -> Pictures:
        rows = clock.within(pictures.sampled(len(pool), _DECODED), least=2)
        return pictures.looked_at(rows, pool.read, pool.name)

    def _copies(self, pool: Pool, clock: Clock) -> Copies | None:
        """Return which images are there more than once; None where nothing judges."""
        judging = [split for split in self._target.images if split not in self._target.pool]
        if not judging:
            return None
        others = self._pool(self._question.target, judging)
        exact = self._exact(clock.part(0.3))
        sources = [self._pool(one, one.dataset.pool) for one in self._question.sources]
        pools = [others, pool, *sources]
        words = []
        for number, one in enumerate(pools):
            part = clock.part(1 / (len(pools) - number))
            rows = part.within(pictures.sampled(len(one), _HASHED))
            words.append(pictures.words_of(rows, one.read))
        # Those that show no contrast, or do not decode, are compared by their bytes alone.
        whole = sum(map(len, words)) >= 0.9 * sum(map(len, pools))
        return pictures.copies(words[0], np.concatenate(words[1:]), exact, whole=whole)

    def _exact(self, clock: Clock) -> int | None:
        """Return the pairs of equal files of which one judges; None where there was no time."""
        places = [self._question.target, *self._question.sources]
        if sum(sum(one.dataset.images.values()) for one in places) > _COMPARED:
            self._skipped.append("copies by their bytes: too many images")
            return None
        datasets = []
        for place in places:
            store = open_store(place.store)
            datasets.append(StoredDataset(store, read_manifest(store, place.name)))
        try:
            found = leaks.find(datasets, distance=None, progress=lambda *_: clock.check())
        except OutOfTimeError:
            self._skipped.append("copies by their bytes")
            return None
        target = self._question.target
        own = {target.name, f"{datasets[0].store.uri}/datasets/{target.name}"}
        return len({(one.a, one.a_key) for one in found.leaks if one.b.dataset in own})

    def _backbone(self, weights: str, backbone: str) -> Backbone:
        import torch

        from hpt_dist.weights.backbone import load_backbone

        torch.manual_seed(0)
        try:
            loaded = load_backbone(backbone, weights, store=self._question.store)
        except (WeightsError, RequestError) as error:
            problem = error.problem
            what = f"{weights} cannot be a base: {problem.what}"
            raise RequestError(
                what, where="--base", allowed=problem.allowed, fix=problem.fix
            ) from error
        return loaded.to(self._device).to(memory_format=torch.channels_last)

    def _base(self, weights: str, name: str, size: int, clock: Clock) -> _LookedAt:
        """Return what the features of a base are worth, as far as labels tell."""
        from hpt_dist.advice import features

        backbone = self._backbone(weights, name)
        target, place = self._target, self._question.target
        splits = (
            ("train",) if target.label != "none" and target.images.get("train") else target.pool
        )
        pool = self._pool(place, splits)
        bank = self._sample(backbone, pool, WATCHED, size, clock.part(0.6))
        shift = features.shift(backbone, bank.moments)
        seen, seconds = len(bank.features), bank.seconds
        judged = pixels = None
        if splits == ("train",) and target.classes > 1:
            split, queries = "val", bank
            if target.images.get("val"):
                val = self._pool(place, ("val",))
                queries = self._sample(backbone, val, WATCHED, size, clock.part(0.9))
                seen, seconds = seen + len(queries.features), seconds + queries.seconds
            else:
                split = "train"
            judged, pixels = self._judged(bank, queries, split)
        base = Base(
            *(weights, name, backbone.feature_dim, round(seen / seconds, 1)),
            score=judged.score if judged else None,
            shift=round(shift, 3) if shift is not None else None,
        )
        return _LookedAt(base, bank.features, judged, pixels)

    def _sample(self, backbone: Backbone, pool: Pool, most: int, size: int, clock: Clock) -> Sample:
        from hpt_dist.advice import features

        return features.of_pool(
            backbone,
            pool,
            pictures.sampled(len(pool), most),
            size=size,
            normalize=rules.normalize().value,
            several=self._target.label == "multi",
            device=self._device,
            threads=self._question.cores,
            clock=clock,
        )

    def _judged(
        self, bank: Sample, queries: Sample, split: str
    ) -> tuple[Judged | None, Judged | None]:
        """Return the scores of features and of raw pixels; None where labels do not tell."""
        from hpt_dist.advice import features
        from hpt_dist.evals.features import Labelled
        from hpt_dist.evals.metrics import computable

        def labelled(sample: Sample, rows: slice, pixels: bool) -> Labelled:
            has = sample.labels[rows]
            known = has >= 0 if has.ndim == 1 else has.new_ones(len(has)).bool()
            if pixels:  # about the bank's mean: cosines of positive vectors are all alike
                values = sample.pixels[rows] - bank.pixels.mean(dim=0)
            else:
                values = sample.features[rows]
            return Labelled(values[known], has[known])

        learned = asked = slice(None)
        if queries is bank:
            cut = max(1, round(_HELD_OUT * len(bank.features)))
            asked, learned = slice(cut), slice(cut, None)
        found = []
        for pixels in (False, True):
            known, query = labelled(bank, learned, pixels), labelled(queries, asked, pixels)
            metric, classes = self._target.metric, self._target.classes
            if min(len(known.labels), len(query.labels)) < 2 or metric not in computable(
                query.labels.numpy(), classes
            ):
                return None, None
            k = min(NEIGHBOURS, len(known.labels))
            found.append(
                features.judged(known, query, num_classes=classes, k=k, metric=metric, split=split)
            )
        return found[0], found[1]

    def _differences(self, looked: Sequence[_LookedAt]) -> tuple[Difference, ...]:
        """Return how the others compare with the best base, and that one with raw pixels."""
        from hpt_dist.advice import features

        scored = [one for one in looked if one.judged]
        if not scored or len(scored) < len(looked):
            return ()
        best = rules.best([one.base for one in scored])
        first = next(one for one in scored if one.base == best)
        count = len(scored)
        found = [
            features.compared(one.base.name, one.judged, best.name, first.judged, max(1, count - 1))
            for one in scored
            if one is not first and one.judged and first.judged
        ]
        if first.judged and first.pixels:
            found.append(features.compared(best.name, first.judged, PIXELS, first.pixels, 1))
        return tuple(found)

    def _sources(
        self, target: _LookedAt, base: Base, size: int, clock: Clock
    ) -> tuple[Source, ...]:
        """Return how far each source is from the target, on a base's features."""
        from hpt_dist.advice import features

        places = self._question.sources
        if not places:
            return ()
        backbone = self._backbone(base.weights, base.backbone)
        samples = []
        for number, place in enumerate(places):
            self._tell(f"looking at images of {place.dataset.alias}")
            pool = self._pool(place, place.dataset.pool)
            share = 1 / (len(places) - number)
            samples.append(self._sample(backbone, pool, _SEEN, size, clock.part(share)).features)
        if len(target.features) < 4 or min(map(len, samples)) < 2:
            return tuple(Source(place.dataset) for place in places)
        found = features.distances(target.features[:_SEEN], samples)
        return tuple(
            Source(place.dataset, round(mean, 2), round(spread, 2), len(sample))
            for place, sample, (mean, spread) in zip(places, samples, found, strict=True)
        )

    def _speed(self, pool: Pool, base: Base, shown: Pictures, size: int, clock: Clock) -> Speed:
        from hpt_dist.advice import speed

        question, images = self._question, self._target.pool_images
        settings: dict[str, Any] = rules.measured_settings(images, question.device, shown, size)
        return speed.of_training(
            self._backbone(base.weights, base.backbone),
            pool,
            settings,
            size=size,
            normalize=rules.normalize().value,
            numerics=decide("auto", "auto", base.backbone, Device(question.device)),
            device=self._device,
            threads=question.cores,
            clock=clock,
        )


@dataclass(frozen=True)
class _LookedAt:
    """A base with what comparisons need: features of the target, and both scores."""

    base: Base
    features: torch.Tensor
    judged: Judged | None
    pixels: Judged | None
