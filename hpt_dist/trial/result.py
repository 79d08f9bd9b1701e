"""What a trial leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpt_dist.trial.predictions import Predictions
from hpt_dist.trial.replicates import Replicates
from hpt_dist.weights.head import Head

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Result:
    """What a trial leaves.

    Args:
        metrics: named as in MLflow, such as test/top1.
        details: anything else that its reader needs, in JSON.
        weights: the backbone to start other stages from; None where there is none.
        model: a whole model that is an end in itself, such as an adapted classifier.
        head: the classifier on the features that it judged; None where there is none.
        seconds_before: time that earlier, interrupted processes had put into it.
        numerics: precision, memory format and device of its training, in words; empty without one.
        curves: metrics whose points were logged in training; the value of what is kept has a name
            of its own beside them, `kept/...`.
        replaced: the names of damaged images that others stand in for.
        predictions: what its model answered about each image, by split.
        chose: the settings that validation chose, in words; empty where it chose nothing.
        taken: predictions of a trial that read the same, or that validation chose: files by name,
            which it commits as they are.
        replicates: of its metrics, shares of 1, [draws]; see `evals.bootstrap`.
        out: why it is no candidate any more; empty where it has a result.
        pictures: what it saw, changed and found, WebP or JSON by file name; shown, and used for
            nothing.
        detections: what its detector found, files by name; see `detections_file`.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] | None = None
    model: dict[str, Tensor] | None = None
    head: Head | None = None
    seconds_before: float = 0.0
    numerics: str = ""
    curves: tuple[str, ...] = ()
    replaced: Sequence[str] = ()
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    chose: str = ""
    taken: Mapping[str, bytes] = field(default_factory=dict)
    replicates: Replicates = field(default_factory=dict)
    out: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    detections: Mapping[str, bytes] = field(default_factory=dict)
