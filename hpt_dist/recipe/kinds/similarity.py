"""How alike trained networks see the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hpt_dist.recipe.kinds.frozen import MODULE
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec
from hpt_dist.recipe.yaml_values import listed

# The matrices of a result, of what by which measure; those of `flattened` are there if it is set.
MATRICES = (
    "features/rv2",
    "features/cka",
    "flattened/rv2",
    "flattened/cka",
    "outputs/rv2",
    "outputs/cka",
    "errors/iou",
)
_LEAST = 2  # trials to compare, and pairs of a group, which has no variance else


class Similarity(StageSpec):
    """How alike the backbones and classifiers of linear evaluations see a dataset's test images.

    RV2 (Smilde et al. 2009) and linear CKA (arXiv 1905.00414) of pooled features and of outputs,
    and the intersection over union of the misclassified images.
    """

    VERSION: ClassVar[int] = 1
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["similarity"]
    of: tuple[str, ...] = Field(
        min_length=1, description="stages of kind linear; all their trials are compared"
    )
    data: str = Field(description="the dataset with the test images, of the classifiers' classes")
    flattened: Annotated[str, Field(pattern=MODULE)] | None = Field(
        None,
        description="a part of the network by its name, such as layer4: what it gives, flattened "
        "over channels and positions, is compared too, beside pooled features",
    )
    groups: tuple[tuple[str, str], ...] = Field(
        (),
        max_length=2,
        description="two groups of pairs of trials, whose means Welch's t-test compares: [ONE, "
        "OTHER] is each trial that ONE fits with each that OTHER fits; * and ? stand for any text",
    )

    @model_validator(mode="after")
    def _none_or_two(self) -> Similarity:
        if len(self.groups) == 1:
            raise ValueError("groups are two, or none")
        return self

    @property
    def compared(self) -> tuple[str, ...]:
        """The stages whose trials are compared."""
        return self.of

    def compared_faults(self, trials: Mapping[str, Sequence[StageSpec]]) -> list[Fault]:
        """Return why there is nothing to compare, or no group to test."""
        names = list(trials)
        for name, specs in trials.items():
            parts = {str(getattr(spec, "features", "pool")) for spec in specs} - {"pool"}
            if parts:
                what = f"{name} judges features of {', '.join(sorted(parts))}, not pooled ones"
                return [Fault("of", f"{what}, whose classifiers are compared")]
        if len(names) < _LEAST:
            return [Fault("of", f"{len(names)} trial has none to be compared with", "2 trials")]
        return [
            Fault(
                "groups",
                f"{one} and {other} make {count} pair{'' if count == 1 else 's'} of trials",
                f"patterns of at least 2 pairs of: {listed(names)}",
            )
            for one, other in self.groups
            if (count := len(pairs(names, one, other))) < _LEAST
        ]

    def remark(self) -> str:
        """Return what is compared."""
        return f"compares all trials of {', '.join(self.of)} on {self.data}/test"

    def reads(self) -> list[Read]:
        """Return its dataset's test split, with its labels."""
        return [Read("data", f"{self.data}/test", labelled=True)]


def always(matrix: str) -> bool:
    """Return whether every result has a matrix."""
    return not matrix.startswith("flattened/")


def pairs(names: Sequence[str], one: str, other: str) -> list[tuple[int, int]]:
    """Return the pairs of different trials that two patterns mean, each once, by their places."""

    def fit(first: str, second: str) -> bool:
        return fnmatchcase(first, one) and fnmatchcase(second, other)

    return [
        (i, j) for (i, a), (j, b) in combinations(enumerate(names), 2) if fit(a, b) or fit(b, a)
    ]
