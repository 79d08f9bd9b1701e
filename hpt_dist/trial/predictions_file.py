"""Predictions as a Parquet file: a row for each image, in the split's order.

Equal answers are equal bytes, as one version of pyarrow writes them. docs/evaluations.md describes
the columns to users, and the file itself does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet as pq
from pydantic import Field
from scipy.special import expit

from hpt_dist.errors import DataError
from hpt_dist.store import records
from hpt_dist.store.records import Count, DamagedRecordError, Line, PathPart
from hpt_dist.trial.predictions import Predictions

Ints = npt.NDArray[np.int64]

_FORMAT = 1
_FACTS = b"hpt_dist"
_TOP = 5
_ROWS_AT_ONCE = 4096  # bounds the orders in memory to 4096 num_classes
_PROBABILITY = "probability, 0 to 1"
_REPEATED = ("label", "class", "top_label", "top_class")  # names and ids, of lists
# Whatever could differ between two runs, or tells readers nothing, is off.
_WRITER: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 9,
    "write_statistics": False,
    "use_dictionary": ["label", "class", *(f"{name}.list.element" for name in _REPEATED)],
    "row_group_size": 2**20,
}
# What pyarrow raises for bytes that are no such file.
_DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError)


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


def _schema(*, several: bool) -> pa.Schema:
    def each(kind: pa.DataType) -> pa.DataType:
        return pa.list_(kind) if several else kind

    its, best = (
        ("its classes", "the five likeliest classes, or all above one half where these are more")
        if several
        else ("its class", "the five likeliest classes, the likeliest first")
    )
    return pa.schema(
        [
            _field("key", pa.string(), "the image's name in the dataset"),
            _field("file", pa.string(), "its file in the source; null where it was not noted"),
            _field("label", each(pa.int32()), its, "class id"),
            _field("class", each(pa.string()), f"{its}, by name"),
            _field("label_score", each(pa.float32()), f"of {its}", _PROBABILITY),
            _field("top_label", pa.list_(pa.int32()), best, "class id"),
            _field("top_class", pa.list_(pa.string()), f"{best}, by name"),
            _field("top_score", pa.list_(pa.float32()), "of these", _PROBABILITY),
            _field(
                "correct",
                pa.bool_(),
                "whether the likeliest class is its own; null of several labels an image",
            ),
        ]
    )


def encoded(one: Predictions) -> bytes:
    """Return the file of some predictions."""
    labels: Ints
    if one.several:
        rows, labels = np.nonzero(one.labels)
    else:
        rows, labels = np.arange(len(one.keys)), one.labels.astype(np.int64)
    top, ends = _best(one)
    top_rows = np.repeat(np.arange(len(one.keys)), np.diff(ends, prepend=0))
    names = pa.array(one.classes, pa.string())
    of_labels = _columns(one, names, rows, labels)
    if one.several:
        starts = np.searchsorted(rows, np.arange(len(one.keys) + 1))
        of_labels = [_lists(starts, column) for column in of_labels]
    starts = np.concatenate([[0], ends])
    columns = [
        pa.array(one.keys, pa.string()),
        pa.array([one.files.get(key) for key in one.keys], pa.string()),
        *of_labels,
        *(_lists(starts, column) for column in _columns(one, names, top_rows, top)),
        pa.nulls(len(one.keys), pa.bool_())
        if one.several
        else pa.array(top[starts[:-1]] == one.labels),
    ]
    schema = _schema(several=one.several).with_metadata({_FACTS: _facts(one)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, **_WRITER)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _best(one: Predictions) -> tuple[Ints, Ints]:
    """Return the likeliest classes of all images in turn, and where those of each image end.

    Among equally likely classes the answer is the first id, as top-1 accuracy has it, and of the
    others the last ids stand first, as scikit-learn's top-5 accuracy has it.
    """
    at_least = min(_TOP, one.scores.shape[1])
    found, counts = [], []
    for start in range(0, len(one.scores), _ROWS_AT_ONCE):
        scores = one.scores[start : start + _ROWS_AT_ONCE].copy()
        above = (scores > 0).sum(axis=1) if one.several else np.zeros(len(scores), np.int64)
        scores[np.arange(len(scores)), scores.argmax(axis=1)] = np.inf
        order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
        many = np.maximum(above, at_least)
        found.append(order[np.arange(order.shape[1]) < many[:, None]])
        counts.append(many)
    return np.concatenate(found), np.cumsum(np.concatenate(counts))


def _columns(one: Predictions, names: pa.Array, rows: Ints, ids: Ints) -> list[pa.Array]:
    """Return the ids, the names and the probabilities of some classes of some images."""
    scores = expit(one.scores[rows, ids]).astype(np.float32)
    return [pa.array(ids.astype(np.int32)), names.take(pa.array(ids)), pa.array(scores)]


def _lists(starts: Ints, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), values)


def _facts(one: Predictions) -> bytes:
    facts = {
        "format": _FORMAT,
        "dataset": one.dataset,
        "digest": one.digest,
        "split": one.split,
        "several": one.several,
        "classes": one.classes,
        "average_precisions": one.average_precisions,
    }
    return json.dumps(facts, sort_keys=True).encode()


@dataclass(frozen=True)
class Facts:
    """What a file says of all its images.

    Args:
        format: version of the file's format.
        dataset: its name in its store.
        digest: of its manifest.
        split: its name.
        several: whether an image has several labels.
        classes: class names in the order of their ids.
        average_precisions: see `Predictions`.
    """

    format: Count
    dataset: Line
    digest: Line
    split: PathPart
    several: bool
    classes: tuple[str, ...]
    average_precisions: tuple[Annotated[float, Field(ge=0, le=1)] | None, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a model answered about one image.

    Args:
        key: of the image.
        file: of the source; empty where it was not noted.
        labels: its classes, ids.
        label_scores: their probabilities.
        top: the likeliest classes, ids.
        top_scores: their probabilities.
    """

    key: str
    file: str
    labels: tuple[int, ...]
    label_scores: tuple[float, ...]
    top: tuple[int, ...]
    top_scores: tuple[float, ...]


@dataclass(frozen=True)
class Hits:
    """Which images of a split a model answered rightly.

    Args:
        facts: of the split.
        labels: int64 [n], class ids, in the split's order.
        right: bool [n], whether the likeliest class is the image's.
    """

    facts: Facts
    labels: Ints
    right: npt.NDArray[np.bool_]

    def is_of_the_same(self, other: Hits) -> bool:
        """Return whether another model answered the same images."""
        ours, its = self.facts, other.facts
        same = (ours.digest, ours.split, ours.classes) == (its.digest, its.split, its.classes)
        return same and np.array_equal(self.labels, other.labels)


def read(data: bytes, where: str) -> tuple[Facts, list[Answer]]:
    """Return the answers that a file holds.

    Args:
        data: what `encoded` returned.
        where: the file, for messages.

    Raises:
        DataError: it is no such file, or of a format that this version does not know.
    """
    with _opened(data, where) as (facts, file):
        table = file.read().cast(_schema(several=facts.several))
        return facts, list(_answers(facts, table.to_pydict()))


def hits(data: bytes, where: str) -> Hits | None:
    """Return which images were answered rightly; None of several labels an image.

    Args: as of `read`, and it raises the same.
    """
    with _opened(data, where) as (facts, file):
        if facts.several:
            return None
        table = file.read(columns=["label", "correct"])
        labels, right = (table.column(name).to_numpy() for name in ("label", "correct"))
        known = labels.size == 0 or 0 <= labels.min() <= labels.max() < len(facts.classes)
        if not known or right.dtype != np.bool_:
            raise ValueError("an image has a class that is none, or no answer")
        return Hits(facts, labels.astype(np.int64), right)


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[tuple[Facts, pq.ParquetFile]]:
    """Open a file; whatever its reader finds wrong is an error that names it."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            metadata = file.metadata.metadata or {}
            facts = records.decoded(metadata[_FACTS], Facts, where=where)
            if facts.format != _FORMAT:
                raise DataError(
                    f"predictions of format {facts.format} are not known",
                    where=where,
                    allowed=str(_FORMAT),
                    fix="update hpt-dist",
                )
            yield facts, file
    except (*_DAMAGED, DamagedRecordError) as error:
        raise DataError(f"this is no file of predictions: {error}", where=where) from error


def _answers(facts: Facts, columns: dict[str, list[Any]]) -> Iterator[Answer]:
    def several(name: str) -> Sequence[Any]:
        return columns[name] if facts.several else [(one,) for one in columns[name]]

    ids = range(len(facts.classes))
    for key, file, labels, scores, top, top_scores in zip(
        columns["key"],
        columns["file"],
        several("label"),
        several("label_score"),
        columns["top_label"],
        columns["top_score"],
        strict=True,
    ):
        if not top or any(one not in ids for one in (*labels, *top)):
            raise ValueError(f"the image {key} has a class that is none")
        yield Answer(key, file or "", *map(tuple, (labels, scores, top, top_scores)))
