"""Features of a sample of images on a base, and what they say of it. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.advice.clock import Clock
from hpt_dist.advice.facts import Difference, Score, Verdict
from hpt_dist.evals import answers, bootstrap, frechet, knn, resampled
from hpt_dist.evals.features import Labelled, extract
from hpt_dist.evals.metrics import Floats
from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks import refresh
from hpt_dist.networks.backbones import Backbone
from hpt_dist.networks.refresh import Moments
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import Ints
from hpt_dist.reading.stream import Pool, center_batches
from hpt_dist.recipe.metrics import METRICS

_BATCH = 64
_PIXELS = 16  # side of the pictures whose raw pixels are compared
_TEMPERATURE = 0.07
_MOMENTS_BATCHES = 4
_NEAR_ZERO = 1e-5  # a channel of this variance is dead: any other value would be infinitely far
_HALVES = 8  # random divisions, over which a distance varies
_MOST_DIMS = 32
_IMAGES_A_DIM = 4


@dataclass(frozen=True)
class Sample:
    """Images of a pool as a base sees them.

    Args:
        features: float32 [n, d].
        pixels: float32 [n, 3 * 16 * 16], their raw pixels.
        labels: int64 [n], -1 for none; or of several labels bool [n, num_classes].
        moments: of what its batch-norm layers get, by name.
        seconds: that computing took.
    """

    features: Tensor
    pixels: Tensor
    labels: Tensor
    moments: dict[str, Moments]
    seconds: float


def of_pool(
    backbone: Backbone,
    pool: Pool,
    rows: Sequence[int],
    *,
    size: int,
    normalize: str,
    several: bool,
    device: torch.device,
    threads: int,
    clock: Clock,
) -> Sample:
    """Return a sample of a pool, cut out of the middle of each image.

    Args:
        backbone: on the device.
        pool: the images; damaged ones are replaced by the next.
        rows: which of them, in a random order: the first ones if time is up.
        size: side of the images, pixels.
        normalize: by which name their pixels are normalised.
        several: whether an image has several labels.
        device: that computes.
        threads: that read and decode.
        clock: at least a batch is looked at.
    """
    normalized = Normalize(*NORMALIZE[normalize], device)
    indices: list[Ints] = []
    pixels: list[Tensor] = []
    batches = center_batches(
        pool,
        batch=_BATCH,
        size=size,
        workers=threads,
        rows=np.array(rows, np.int64),
        replacements=Replacements(len(pool)),
    )

    def images() -> Iterator[Tensor]:
        for batch in clock.within(batches):
            indices.append(batch.indices)
            small = functional.adaptive_avg_pool2d(batch.images[0].float(), _PIXELS)
            pixels.append(small.flatten(1))
            yield normalized(batch.images[0])

    began = time.monotonic()
    with _watched(backbone) as moments:
        features = extract(backbone, images(), device)
    batches.close()  # type: ignore[attr-defined]
    seen = np.concatenate(indices)
    labels = torch.from_numpy((pool.members if several else pool.labels)[seen])
    found = {name: refresh.pooled(parts) for name, parts in moments.items()}
    return Sample(features, torch.cat(pixels), labels, found, time.monotonic() - began)


class _watched:  # noqa: N801 - a context, as contextlib names them
    """Collects the moments of what the batch-norm layers get of the first batches."""

    def __init__(self, backbone: Backbone) -> None:
        self._layers = refresh.layers_of(backbone)
        self._found: dict[str, list[Moments]] = {}

    def __enter__(self) -> dict[str, list[Moments]]:
        self._hooks = [
            layer.register_forward_pre_hook(
                lambda _, inputs, name=name: self._look(name, inputs[0])
            )
            for name, layer in self._layers.items()
        ]
        return self._found

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _look(self, name: str, x: Tensor) -> None:
        seen = self._found.setdefault(name, [])
        if len(seen) < _MOMENTS_BATCHES:
            dims = [dim for dim in range(x.ndim) if dim != 1]
            var, mean = torch.var_mean(x.float(), dims, correction=0)
            seen.append(Moments(x.numel() // x.shape[1], mean.double().cpu(), var.double().cpu()))


def shift(backbone: Backbone, moments: dict[str, Moments]) -> float | None:
    """Return how far data are from what batch-norm layers know; None without such layers.

    Of each channel the Fréchet distance of two Gaussians, that of the data and that of the running
    statistics, in standard deviations of the latter; the mean over channels, the median over
    layers. A single measure of many, and not one of how well features serve.
    """
    shifts = []
    for name, layer in refresh.layers_of(backbone).items():
        mean, var = layer.running_mean, layer.running_var
        if name in moments and mean is not None and var is not None:
            mean, var = mean.double().cpu(), var.double().cpu()
            alive = var > _NEAR_ZERO
            apart = (moments[name].mean - mean).square()
            apart += (moments[name].var.sqrt() - var.sqrt()).square()
            if alive.any():
                shifts.append(float((apart[alive] / var[alive]).sqrt().mean()))
    return float(np.median(shifts)) if shifts else None


@dataclass(frozen=True)
class Judged:
    """A score with what a comparison needs.

    Args:
        score: of nearest neighbours.
        replicates: of resampled images; see `bootstrap`.
    """

    score: Score
    replicates: Floats


def judged(
    bank: Labelled, queries: Labelled, *, num_classes: int, k: int, metric: str, split: str
) -> Judged:
    """Return how well the nearest neighbours of images answer.

    Args:
        bank: the neighbours, features [n, d].
        queries: what is classified, features [q, d].
        num_classes: number of classes.
        k: neighbours; all of the bank where it has fewer.
        metric: see `recipe.metrics`.
        split: of the queries, for `Score`.
    """
    scores = knn.answer(bank, queries, num_classes, k=k, temperature=_TEMPERATURE)
    value = answers.value(metric, scores, queries)
    drawn = bootstrap.replicates([metric], scores, queries.labels.numpy())[metric]
    images = len(queries.labels)
    ends = bootstrap.interval(value, drawn, images)
    return Judged(Score(metric, value, ends, images, len(bank.labels), split), drawn)


def compared(one: str, first: Judged, other: str, second: Judged, comparisons: int) -> Difference:
    """Return the difference of two scores of the same images.

    Args:
        one: name of the first.
        first: its score.
        other: name of the second.
        second: its score.
        comparisons: that this look makes in all, for which the interval allows (Bonferroni).
    """
    apart = (first.replicates - second.replicates).tolist()
    half = resampled.half_width(apart, first.score.images, 1 - 0.05 / comparisons)
    mean = first.score.value - second.score.value
    verdict: Verdict = "undecided"
    if abs(mean) > half:
        is_better = (mean > 0) != METRICS[first.score.metric].lower_is_better
        verdict = "better" if is_better else "worse"
    return Difference(one, other, mean, half, verdict)


def distances(target: Tensor, sources: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Return how far sources are from the target: mean and deviation over random halves.

    A Fréchet distance (`evals.frechet`) of few images is mostly noise, which is larger the fewer
    they are. So half of the target is compared with equally many images of a source, and with the
    other half of the target: the first over the second is returned. It is 1 for a source that is
    like the target. Both are computed on the leading principal components of all features.

    Args:
        target: features [n, d], at least 4.
        sources: of each [n, d], at least 2.
    """
    everything = torch.cat([target, *sources]).double()
    count = min(len(target) // 2, *map(len, sources)) if sources else 0
    dims = max(1, min(_MOST_DIMS, count // _IMAGES_A_DIM))
    centred = everything - everything.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    flat = (centred @ axes[:dims].T).numpy()
    ends = np.cumsum([len(target), *map(len, sources)])
    own, *others = np.split(flat, ends[:-1])
    generator = np.random.Generator(np.random.PCG64(0))
    ratios: list[list[float]] = [[] for _ in sources]
    for _ in range(_HALVES):
        order = generator.permutation(len(own))
        half, rest = (frechet.moments(own[order[at : at + count]]) for at in (0, count))
        floor = frechet.distance(half, rest)
        for found, other in zip(ratios, others, strict=True):
            some = generator.permutation(len(other))[:count]
            found.append(frechet.distance(half, frechet.moments(other[some])) / max(floor, 1e-12))
    return [(float(np.mean(one)), float(np.std(one))) for one in ratios]
