"""What a plan needs to know of the world: plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpt_dist.recipe.numerics import THIS_CPU, Device


@dataclass(frozen=True)
class DatasetFacts:
    """What a plan needs to know of a dataset.

    Args:
        name: its name in its store, such as openmoji/line.
        store: URI of the store that holds it; empty for the recipe's own.
        digest: of its manifest.
        classes: how many classes; 0 without labels.
        label: single, multi, boxes or none; see `manifest.Manifest`.
        metric: of its evaluations, as the manifest names it; empty for the label's usual one.
        class_names: of its classes, in order; empty if unknown.
        class_counts: images of each class, by split.
        images: images by split, and by `split@subset` and `split@10%` of the parts that the recipe
            names.
        masks: of boxes, whether each object has a mask.
        stand_in: whether it is only assumed, so that nothing can run on it.
        subsets: digests of the subsets that the recipe names, by `split@subset`.
    """

    name: str
    store: str
    digest: str
    classes: int
    images: Mapping[str, int]
    class_counts: Mapping[str, Sequence[int]]
    label: str = "single"
    metric: str = ""
    class_names: Sequence[str] = ()
    masks: bool = False
    stand_in: bool = False
    subsets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What the plan needs of datasets, weights and the device.

    Args:
        datasets: by the recipe's names.
        weights: fingerprints by their source.
        device: where the trials will compute.
    """

    datasets: Mapping[str, DatasetFacts]
    weights: Mapping[str, str]
    device: Device = THIS_CPU
