"""Lists in Parquet: the columns of CSV, or with the images inside as on Hugging Face.

Images inside are a column `image`, binary or a struct of `bytes` and `path`. Only the columns of
names and labels are read for the list; the sizes of its images follow from the sizes of its row
groups. `ClassLabel`s in the metadata name the classes; -1 is no label. Other columns are ignored.

An image is read with its whole row group, and a shard has images from all over the file: row groups
of about 100 images, as Hugging Face writes them, keep that cheap. Files below `_HELD_BYTES` stay in
memory.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from sys import intern
from threading import Lock
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet as pq

from hpt_dist.errors import DataError, RequestError, nearest
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import FIELDS, MAX_ROWS, Embedded, Row, Rows

_HELD_BYTES = 256 * 2**20
_MAX_TEXT_BYTES = 8 * 2**30
_BATCH_ROWS = 65_536
_SHOWN = 300
# What pyarrow raises for damaged bytes; invalid UTF-8 is a ValueError.
_DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError)
# A column whose cells are all empty has the type null.
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def read(file: Path) -> Rows:
    """Read a Parquet list, without the images that it holds.

    Raises:
        RequestError: it is no Parquet file, or a column is missing or of the wrong type.
    """
    try:
        with pq.ParquetFile(file) as opened:
            return _rows(file, opened)
    except _DAMAGED as error:
        what = f"cannot be read as Parquet: {str(error)[:_SHOWN] or type(error).__name__}"
        raise RequestError(what, where=str(file), fix="write or download it again") from error


def _rows(file: Path, opened: Any) -> Rows:
    schema = opened.schema_arrow
    column = _check_columns(file, schema)
    has_images = "image" in schema.names
    leaves = {opened.schema.column(i).path for i in range(len(opened.schema))}
    columns = [*(set(schema.names) & set(FIELDS)), *({"image.path"} & leaves)]
    table = _read_texts(file, opened, columns)
    nothing: list[Any] = [None] * opened.metadata.num_rows
    if "path" in table.column_names:
        paths = _texts(file, "path", table["path"])
    elif "image" in table.column_names:
        paths = _texts(file, "image.path", pc.struct_field(table["image"], "path"))
    else:
        paths = nothing
    splits, groups = (
        _texts(file, name, table[name]) if name in schema.names else nothing
        for name in ("split", "group")
    )
    classes = _class_names(schema, column) if column else None
    labels = _labels(file, column, table[column], classes) if column else nothing
    images = _images(file, opened) if has_images else nothing
    rows = []
    for line, image in enumerate(images):
        path = paths[line] or ""
        if image:  # names inside need not be unique, and there may be none
            path = "/".join(filter(None, [file.name, str(line), path]))
        split = intern(splits[line] or "")
        group = "" if groups[line] is None else plain(str(groups[line]))
        rows.append(Row(file, line, path, labels[line], split, image, group))
    return Rows(rows, column == "labels", classes)


def _read_texts(file: Path, opened: Any, columns: list[str]) -> Any:
    """Read columns without images, up to what a list of images can hold.

    The metadata of a column says its size, too, but asking a damaged file for it ends the process.
    """
    rows = opened.metadata.num_rows
    batches, size_bytes = [], 0
    if 0 <= rows <= MAX_ROWS:
        for batch in opened.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
            batches.append(batch)
            size_bytes += batch.nbytes
            if size_bytes > _MAX_TEXT_BYTES:
                break
        else:
            return pa.Table.from_batches(batches) if batches else opened.read(columns=columns)
    raise RequestError(
        f"it says that it has {rows:,} rows; {size_bytes:,} bytes of names and labels were read",
        where=str(file),
        allowed=f"up to {MAX_ROWS:,} rows and {_MAX_TEXT_BYTES:,} bytes",
        fix="write or download it again, or make several datasets",
    )


def _check_columns(file: Path, schema: Any) -> str | None:
    """Return the name of the column of labels, or None without one."""
    names = set(schema.names)
    columns = f"its columns are {', '.join(schema.names)[:_SHOWN]}"
    if len(names) < len(schema.names):
        raise RequestError(f"two columns have one name; {columns}", where=str(file))
    if not names & {"path", "image"}:
        raise RequestError(f"no column path or image; {columns}", where=str(file))
    image = schema.field("image").type if "image" in names else None
    if image and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if image and not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        what = f"the column image is of the type {image}"
        allowed = "binary, or a struct of bytes and path"
        raise RequestError(what, where=str(file), allowed=allowed)
    label_columns = sorted(names & {"label", "labels"})
    if len(label_columns) == 2:
        raise RequestError("label and labels in one list", where=str(file))
    # A list may have no labels, but not because of a misspelt column.
    if not label_columns and (near := nearest("label", names - {*FIELDS, "image"})):
        what = f"no column label or labels; {columns}"
        raise RequestError(what, where=str(file), fix=near)
    return label_columns[0] if label_columns else None


def _texts(file: Path, name: str, column: Any) -> list[Any]:
    """Return a column of texts or whole numbers."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    may_be_numbers = name in {"label", "labels", "group"}
    is_numbers = may_be_numbers and pa.types.is_integer(kind)
    if not (is_numbers or any(is_kind(kind) for is_kind in _TEXTS)):
        allowed = "texts or whole numbers" if may_be_numbers else "texts"
        raise RequestError(
            f"the column {name} is of the type {kind}", where=str(file), allowed=allowed
        )
    return cast("list[Any]", column.to_pylist())


def _labels(
    file: Path, name: str, column: Any, classes: list[str] | None
) -> list[tuple[str, ...] | None]:
    """Return the names of the classes of each row."""
    problems = Problems()

    def named(line: int, value: Any) -> str:
        if classes is None:
            return "" if value is None else plain(str(value))
        if isinstance(value, str):
            if value not in classes:
                problems.add(f"{file}:row {line}", f"no class is {value!r}", value, classes)
            return value
        if value is None or not 0 <= value < len(classes):
            what = f"no class is {value}; allowed: 0 to {len(classes) - 1}"
            problems.add(f"{file}:row {line}", what)
            return ""
        return classes[int(value)]

    labels: list[tuple[str, ...] | None]
    if name == "label":
        none = {None, ""} | ({-1} if classes else set())
        values = _texts(file, name, column)
        names = ("" if one in none else named(i, one) for i, one in enumerate(values))
        labels = [(one,) if one else None for one in names]
    else:
        labels = [
            None if values is None else tuple(named(i, one) for one in values)
            for i, values in enumerate(_lists(file, column))
        ]
    problems.refuse(f"the list {file}")
    return labels


def _lists(file: Path, column: Any) -> Iterator[list[Any] | None]:
    """Yield each row's list of texts or whole numbers."""
    if pa.types.is_null(column.type):
        yield from column.to_pylist()
        return
    if not any(is_kind(column.type) for is_kind in _LISTS):
        what = f"the column labels is of the type {column.type}"
        raise RequestError(what, where=str(file), allowed="lists of texts or whole numbers")
    values = iter(_texts(file, "labels", pc.list_flatten(column)))
    for length in pc.list_value_length(column).to_pylist():
        yield None if length is None else list(islice(values, length))


def _class_names(schema: Any, column: str) -> list[str] | None:
    """Return the names of Hugging Face's `ClassLabel`, if the column is one or a list of it."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        feature = metadata["info"]["features"][column]
        if isinstance(feature, list):
            feature = feature[0]
        feature = feature.get("feature", feature)
        return [str(name) for name in feature["names"]]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return None  # other programs may write this key too, or without names


def _images(file: Path, opened: Any) -> list[Embedded | None]:
    """Return each row's image, or None where it has only a path."""
    status = file.stat()
    version = f"{status.st_size} {status.st_mtime_ns}"
    images: list[Embedded | None] = []
    for group in range(opened.metadata.num_row_groups):
        for row, size_bytes in enumerate(_sizes(opened, group)):
            image = Embedded(
                partial(read_image, file, group, row), f"{version} {len(images)}", size_bytes or 0
            )
            images.append(None if size_bytes is None else image)
    return images


def _sizes(opened: Any, group: int) -> list[int | None]:
    """Return the sizes of a group's images: their mean, unless some rows have none."""
    metadata = opened.metadata.row_group(group)
    rows = metadata.num_rows
    columns = (metadata.column(i) for i in range(metadata.num_columns))
    column = next((one for one in columns if one.path_in_schema in {"image", "image.bytes"}), None)
    if column is None:
        raise ValueError("the images have another name in a row group")
    has_null_count = column.statistics is not None and column.statistics.has_null_count
    if has_null_count and not column.statistics.null_count:
        return [column.total_uncompressed_size // max(rows, 1)] * rows
    return cast("list[int | None]", pc.binary_length(_column(opened, group)).to_pylist())


def _column(opened: Any, group: int) -> Any:
    """Read the images of a row group."""
    flat = pa.types.is_struct(opened.schema_arrow.field("image").type)
    name = "image.bytes" if flat else "image"
    column = opened.read_row_group(group, columns=[name], use_threads=False)["image"]
    return pc.struct_field(column, "bytes") if flat else column


class _Groups:
    """The row groups that this process read last: one at least, `_HELD_BYTES` at most."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Path, int, int], Any] = OrderedDict()
        self._lock = Lock()

    def images(self, file: Path, group: int) -> Any:
        """Return the images of a row group."""
        key = (file, file.stat().st_mtime_ns, group)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        with pq.ParquetFile(file) as opened:
            column = _column(opened, group)
        with self._lock:
            self._held[key] = column
            while len(self._held) > 1 and self._bytes() > _HELD_BYTES:
                self._held.popitem(last=False)
        return column

    def _bytes(self) -> int:
        return sum(column.nbytes for column in self._held.values())


_GROUPS = _Groups()


def read_image(file: Path, group: int, row: int) -> bytes:
    """Return one image of a Parquet file.

    Args:
        file: the Parquet file.
        group: number of its row group.
        row: in the group.

    Raises:
        DataError: the file is damaged, or changed since it was listed.
    """
    try:
        image = _GROUPS.images(file, group)[row].as_py()
    except _DAMAGED as error:
        raise DataError(f"cannot be read from Parquet: {error}", where=file.name) from error
    if image is None:
        raise DataError("the row holds no image", where=file.name)
    return cast("bytes", image)
