"""Compare how the backbones and classifiers of linear evaluations see the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpt_dist.errors import DataError
from hpt_dist.evals import similarity, similarity_tables
from hpt_dist.evals.features import require_finite
from hpt_dist.evals.similarity import Doubles, Features
from hpt_dist.page import markdown
from hpt_dist.reading.pool import Pool
from hpt_dist.recipe.kinds.similarity import Similarity, pairs
from hpt_dist.stages.frozen import Frozen, test_of
from hpt_dist.stages.inputs import EVAL_BATCH, manifest_of, pool_of
from hpt_dist.store import committed
from hpt_dist.store.committed import HEAD
from hpt_dist.trial.records import SpecPart, document
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights import head

_AT_ONCE = 8 * EVAL_BATCH  # images whose flattened features are in memory


@dataclass(frozen=True)
class _Seen:
    """What a trial's network makes of n test images.

    Args:
        features: float32 [n, d], pooled after the last convolution.
        outputs: float32 [n, classes], of its linear classifier.
        wrong: bool [n], whether it misclassifies each.
    """

    features: Tensor
    outputs: Tensor
    wrong: Tensor


def run(context: Context, spec: Similarity) -> Result:
    """Compare every pair of trials on the test images; see the module."""
    names = list(context.order.trial.compared)
    groups = [pairs(names, one, other) for one, other in spec.groups]
    seen = _all_seen(context, spec)
    wrong = [one.wrong.numpy() for one in seen]
    compared = {
        "features": [one.features.numpy() for one in seen],
        "outputs": [one.outputs.numpy() for one in seen],
    }
    if spec.flattened:
        compared["flattened"] = _all_flattened(context, spec, spec.flattened)
    # By their names in a result: of what, by which measure.
    matrices = {
        f"{what}/{measure}": matrix
        for what, features in compared.items()
        for measure, matrix in zip(("rv2", "cka"), similarity.matrices(features), strict=True)
    }
    iou = [[similarity.errors_iou(one, other) for other in wrong] for one in wrong]
    matrices["errors/iou"] = np.array(iou)
    welch = {name: _welch(matrix, groups) for name, matrix in matrices.items()} if groups else {}
    details = {
        "trials": names,
        "n_test": len(wrong[0]),
        "matrices": {name: _plain(matrix) for name, matrix in matrices.items()},
        "welch": welch,
    }
    if context.tracker:
        page = markdown(similarity_tables.blocks(details))
        context.tracker.artifact("similarity.md", page.encode())
    above = np.triu_indices(len(names), 1)
    means = {f"similarity/{name}": float(m[above].mean()) for name, m in matrices.items()}
    return Result(
        {name: mean for name, mean in means.items() if np.isfinite(mean)},
        details,
    )


def _all_seen(context: Context, spec: Similarity) -> list[_Seen]:
    """Return what each trial makes of the test images; those of one backbone share its features.

    The features are those that its classifier was trained on, maybe from inside the backbone.
    """
    classes = list(manifest_of(context, spec.data).classes)
    features: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    found = []
    for name, key in context.order.trial.compared.items():
        backbone = str(document(context.store, key, "spec.json", SpecPart)["init"])
        classifier, _ = head.read(committed.read(context.store, key, HEAD), name)
        if tuple(classifier.classes) != tuple(classes):
            raise DataError(
                f"the classes of {name} are not those of {spec.data}",
                fix="compare trials of one dataset, and name that as data",
            )
        place = backbone, classifier.features
        if place not in features:
            test = test_of(Frozen(_judging(context, backbone), classifier.features), spec.data)
            features[place] = test.features, test.labels
        pooled, labels = features[place]
        outputs = torch.nn.functional.linear(pooled, classifier.state["weight"])
        outputs += classifier.state["bias"]
        found.append(_Seen(pooled, outputs, outputs.argmax(dim=1) != labels))
    return found


def _judging(context: Context, backbone: str) -> Context:
    """Return the context of a trial that starts from another backbone, given by its key."""
    trial = replace(context.order.trial, init=backbone)
    return replace(context, order=replace(context.order, trial=trial))


def _all_flattened(context: Context, spec: Similarity, part: str) -> list[Features]:
    """Return what a part of each trial's network gives for the test images, flattened."""
    found: dict[str, Features] = {}
    keys = [
        str(document(context.store, key, "spec.json", SpecPart)["init"])
        for key in context.order.trial.compared.values()
    ]
    for key in dict.fromkeys(keys):
        its = _judging(context, key)
        pool = pool_of(its, (f"{spec.data}/test",))
        found[key] = _flattened(Frozen(its, part, flat=True), pool, context.order.folder)
    return [found[key] for key in keys]


def _flattened(frozen: Frozen, pool: Pool, folder: Path) -> Features:
    """Return float32 [n, values] in a file that has no name any more, so that none is left over.

    It lies there by values, of which `similarity` reads tiles.
    """
    array: npt.NDArray[np.float32] | None = None
    for start in range(0, len(pool), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(pool)))
        part, _ = frozen.computed(pool.subset(rows), None, None)
        require_finite(part)
        if array is None:
            with tempfile.TemporaryFile(dir=folder) as file:
                shape = (part.shape[1], len(pool))
                array = np.memmap(file, np.float32, "w+", shape=shape)
        array[:, rows] = part.T.numpy()
    if array is None:
        raise DataError("there are no images to compare on")
    return array.T


def _welch(matrix: Doubles, groups: Sequence[Sequence[tuple[int, int]]]) -> dict[str, Any]:
    found = similarity.welch(*([matrix[pair] for pair in group] for group in groups))
    values = {name: _number(value) for name, value in found._asdict().items() if name != "means"}
    means = [_number(mean) for mean in found.means]
    return {"means": means, "pairs": [len(group) for group in groups], **values}


def _plain(matrix: Doubles) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in matrix]


def _number(value: float) -> float | None:
    """Return a number as JSON has it: null for one that cannot be computed."""
    return float(value) if np.isfinite(value) else None
