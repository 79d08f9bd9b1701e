"""What a detector found in each image of a split, as a Parquet file: a row for each image.

Equal answers are equal bytes, as one version of pyarrow writes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet as pq

from hpt_dist.errors import DataError

_FORMAT = 1
_FACTS = b"hpt_dist"
# Whatever could differ between two runs is off.
_WRITER: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 9,
    "write_statistics": False,
    "row_group_size": 2**20,
}


class Row(NamedTuple):
    """What was found in one image, likeliest first.

    Args:
        key: the image's name in the dataset.
        boxes: x1, y1, x2, y2 of each, in pixels of the image as it is stored.
        scores: probabilities.
        labels: class ids.
        masks: COCO's compressed run lengths of each, of the image's size; None without masks.
    """

    key: str
    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]
    masks: list[str] | None = None


_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"description": "the image's name in the dataset"}),
        pa.field("box", pa.list_(pa.list_(pa.float32())), metadata={"unit": "x1 y1 x2 y2, pixels"}),
        pa.field("score", pa.list_(pa.float32()), metadata={"unit": "probability, 0 to 1"}),
        pa.field("label", pa.list_(pa.int32()), metadata={"description": "class id"}),
        pa.field("class", pa.list_(pa.string()), metadata={"description": "class name"}),
        pa.field(
            "mask",
            pa.list_(pa.string()),
            metadata={"description": "COCO's compressed run lengths; null without masks"},
        ),
    ]
)


def file_of(split: str) -> str:
    """Return the name of the file of a split's detections, beside result.json."""
    return f"detections.{split}.parquet"


def encoded(
    rows: Sequence[Row], dataset: str, digest: str, split: str, classes: Sequence[str]
) -> bytes:
    """Return the file of a split's detections.

    Args:
        rows: of every image, in the split's order.
        dataset: its name in its store.
        digest: of its manifest.
        split: its name.
        classes: names in the order of their ids.
    """
    facts = {"format": _FORMAT, "dataset": dataset, "digest": digest, "split": split}
    metadata = {_FACTS: json.dumps(facts | {"classes": list(classes)}, sort_keys=True).encode()}
    columns = [
        [one.key for one in rows],
        [one.boxes for one in rows],
        [one.scores for one in rows],
        [one.labels for one in rows],
        [[classes[label] for label in one.labels] for one in rows],
        [one.masks for one in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=_SCHEMA.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **_WRITER)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read(data: bytes, where: str) -> list[Row]:
    """Return what a file holds.

    Args:
        data: what `encoded` returned.
        where: the file, for messages.

    Raises:
        DataError: it is no such file, or of a format that this version does not know.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            found = json.loads((file.metadata.metadata or {})[_FACTS])["format"]
            columns = file.read().cast(_SCHEMA).to_pydict()
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"this is no file of detections: {error}", where=where) from error
    if found != _FORMAT:
        what = f"detections of format {found} are not known"
        raise DataError(what, where=where, allowed=str(_FORMAT), fix="update hpt-dist")
    names = ("key", "box", "score", "label", "mask")
    return [Row(*its) for its in zip(*(columns[name] for name in names), strict=True)]
