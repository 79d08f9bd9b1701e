"""Lists in Parquet: the columns of CSV, or with the images inside as on Hugging Face.

Images inside are a column such as `image`, binary or a struct of `bytes` and `path`; a column of
paths may lie beside it. Only the columns of names and labels are read for the list; the sizes of
its images follow from the sizes of its row groups. `ClassLabel`s in the metadata name the classes;
-1 is no label. Other columns are ignored.

An image is read with its whole row group, and a shard has images from all over the file: row groups
of about 100 images, as Hugging Face writes them, keep that cheap. Files below `_HELD_BYTES` stay in
memory.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from sys import intern
from threading import Lock
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet as pq

from hpt_dist.errors import DataError, RequestError, nearest
from hpt_dist.sources import columns
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.columns import LABELS, ROLES, Columns
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import MAX_ROWS, Embedded, Row, Rows

_HELD_BYTES = 256 * 2**20
_MAX_TEXT_BYTES = 8 * 2**30
_BATCH_ROWS = 65_536
_SHOWN = 300
# What pyarrow raises for damaged bytes; invalid UTF-8 is a ValueError.
_DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError)
# A column whose cells are all empty has the type null.
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def read(file: Path, chosen: Mapping[str, str]) -> Rows:
    """Read a Parquet list, without the images that it holds.

    Args:
        file: the list.
        chosen: see `columns.parse`; a path may be a column of images.

    Raises:
        RequestError: it is no Parquet file, or a column is missing or of the wrong type.
    """
    try:
        with pq.ParquetFile(file) as opened:
            return _rows(file, opened, chosen)
    except _DAMAGED as error:
        what = f"cannot be read as Parquet: {str(error)[:_SHOWN] or type(error).__name__}"
        raise RequestError(what, where=str(file), fix="write or download it again") from error


class _Found(NamedTuple):
    """The columns of a file: those of texts by their roles, and that of images if there is one."""

    columns: Columns
    image: str

    def name(self, role: str) -> str:
        """Return the column of a role that is read as a whole, or an empty text."""
        name = self.columns.names.get(role, "")
        return "" if role == "path" and name == self.image else name


def _rows(file: Path, opened: Any, chosen: Mapping[str, str]) -> Rows:
    schema = opened.schema_arrow
    found = _find_columns(file, schema, chosen)
    leaves = {opened.schema.column(i).path for i in range(len(opened.schema))}
    texts = [name for role in ROLES if (name := found.name(role))]
    image_path = f"{found.image}.path"
    table = _read_texts(file, opened, [*texts, *({image_path} & leaves)])
    nothing: list[Any] = [None] * opened.metadata.num_rows
    if name := found.name("path"):
        paths = _texts(file, name, table[name])
    elif found.image in table.column_names:
        paths = _texts(file, image_path, pc.struct_field(table[found.image], "path"))
    else:
        paths = nothing
    splits, groups = (
        _texts(file, name, table[name], may_be_numbers=role == "group") if name else nothing
        for role in ("split", "group")
        for name in [found.name(role)]
    )
    problems, label = Problems(), found.columns.label
    column = found.name(label)
    classes = _class_names(schema, column) if column else None
    labels = _Labels(file, column, classes, problems)
    names = labels.of(table[column], is_list=label == "labels") if column else nothing
    images = _images(file, opened, found.image) if found.image else nothing
    rows = []
    for line, image in enumerate(images):
        path = paths[line] or ""
        if image:  # names inside need not be unique, and there may be none
            path = "/".join(filter(None, [file.name, str(line), path]))
        split = intern(splits[line] or "")
        group = "" if groups[line] is None else plain(str(groups[line]))
        rows.append(Row(file, line, path, names[line], split, image, group))
    how = "read as Parquet" + (f" with images in {found.image}" if found.image else "")
    return Rows(rows, found.columns, problems, classes, how)


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


def _find_columns(file: Path, schema: Any, chosen: Mapping[str, str]) -> _Found:
    """Return the columns of a file.

    Raises:
        RequestError: there are no images or paths, two columns may be meant, or one has another
            type.
    """
    if len(set(schema.names)) < len(schema.names):
        listed = ", ".join(schema.names)[:_SHOWN]
        raise RequestError(f"two columns have one name; its columns are {listed}", where=str(file))
    with_bytes = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    image = _image_column(file, schema, chosen, with_bytes)
    texts = [name for name in schema.names if name not in with_bytes]
    of_texts = {role: name for role, name in chosen.items() if not (image and role == "path")}
    found = columns.find(texts, of_texts, str(file))
    if image:
        names = {"path": image, **found.names}
        others = tuple(one for one in schema.names if one not in {image, *names.values()})
        found = Columns(names, others)
    elif "path" not in found.names:
        columns.refuse_no_path(schema.names, str(file))
    # A list may have no labels, but not because of a misspelt column.
    is_asked = any(role in chosen for role in LABELS)
    if not found.label and not is_asked and (near := nearest("label", found.others)):
        listed = ", ".join(schema.names)[:_SHOWN]
        raise RequestError(
            f"no column label or labels; its columns are {listed}",
            where=str(file),
            fix=f"{near} say {columns.OPTION} label=NAME; or {columns.OPTION} label= for none",
        )
    return _Found(found, image)


def _holds_bytes(kind: Any) -> bool:
    """Return whether a column of this type holds images."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_column(
    file: Path, schema: Any, chosen: Mapping[str, str], with_bytes: Sequence[str]
) -> str:
    """Return the column of images: the one that is asked for, of a usual name, or the only one."""
    if wanted := chosen.get("path", ""):
        return columns.written(wanted, with_bytes)
    if usual := columns.find(with_bytes, {}, str(file)).names.get("path", ""):
        return usual
    structs = [name for name in with_bytes if pa.types.is_struct(schema.field(name).type)]
    return structs[0] if len(structs) == 1 else ""


def _texts(file: Path, name: str, column: Any, *, may_be_numbers: bool = False) -> list[Any]:
    """Return a column of texts or, where they may be, whole numbers."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    is_numbers = may_be_numbers and pa.types.is_integer(kind)
    if not (is_numbers or any(is_kind(kind) for is_kind in _TEXTS)):
        allowed = "texts or whole numbers" if may_be_numbers else "texts"
        raise RequestError(
            f"the column {name} is of the type {kind}", where=str(file), allowed=allowed
        )
    return cast("list[Any]", column.to_pylist())


@dataclass(frozen=True)
class _Labels:
    """Reads the column of labels.

    Args:
        file: the list.
        name: of the column.
        classes: that the metadata names.
        problems: receives values that are none of them.
    """

    file: Path
    name: str
    classes: list[str] | None
    problems: Problems

    def of(self, column: Any, *, is_list: bool) -> list[tuple[str, ...] | None]:
        """Return the names of the classes of each row."""
        if is_list:
            return [
                None if values is None else tuple(self._named(i, one) for one in values)
                for i, values in enumerate(self._lists(column))
            ]
        none = {None, ""} | ({-1} if self.classes else set())
        values = _texts(self.file, self.name, column, may_be_numbers=True)
        names = ("" if one in none else self._named(i, one) for i, one in enumerate(values))
        return [(one,) if one else None for one in names]

    def _named(self, line: int, value: Any) -> str:
        if self.classes is None:
            return "" if value is None else plain(str(value))
        where, at = f"{self.file}:row {line}", (str(self.file), line)
        if isinstance(value, str):
            if value not in self.classes:
                self.problems.add(where, f"no class is {value!r}", value, self.classes, at)
            return value
        if value is None or not 0 <= value < len(self.classes):
            what = f"no class is {value}; allowed: 0 to {len(self.classes) - 1}"
            self.problems.add(where, what, at=at)
            return self.classes[0]
        return self.classes[int(value)]

    def _lists(self, column: Any) -> Iterator[list[Any] | None]:
        """Yield each row's list of texts or whole numbers."""
        if pa.types.is_null(column.type):
            yield from column.to_pylist()
            return
        if not any(is_kind(column.type) for is_kind in _LISTS):
            what = f"the column {self.name} is of the type {column.type}"
            allowed = "lists of texts or whole numbers"
            raise RequestError(what, where=str(self.file), allowed=allowed)
        flat = pc.list_flatten(column)
        values = iter(_texts(self.file, self.name, flat, may_be_numbers=True))
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


def _images(file: Path, opened: Any, column: str) -> list[Embedded | None]:
    """Return each row's image, or None where it has only a path."""
    status = file.stat()
    version = f"{status.st_size} {status.st_mtime_ns}"
    images: list[Embedded | None] = []
    for group in range(opened.metadata.num_row_groups):
        for row, size_bytes in enumerate(_sizes(opened, group, column)):
            image = Embedded(
                partial(read_image, file, group, row, column),
                f"{version} {len(images)}",
                size_bytes or 0,
            )
            images.append(None if size_bytes is None else image)
    return images


def _sizes(opened: Any, group: int, name: str) -> list[int | None]:
    """Return the sizes of a group's images: their mean, unless some rows have none."""
    metadata = opened.metadata.row_group(group)
    rows = metadata.num_rows
    columns = (metadata.column(i) for i in range(metadata.num_columns))
    column = next((one for one in columns if one.path_in_schema in {name, f"{name}.bytes"}), None)
    if column is None:
        raise ValueError("the images have another name in a row group")
    has_null_count = column.statistics is not None and column.statistics.has_null_count
    if has_null_count and not column.statistics.null_count:
        return [column.total_uncompressed_size // max(rows, 1)] * rows
    return cast("list[int | None]", pc.binary_length(_column(opened, group, name)).to_pylist())


def _column(opened: Any, group: int, name: str) -> Any:
    """Read the images of a row group."""
    is_struct = pa.types.is_struct(opened.schema_arrow.field(name).type)
    leaf = f"{name}.bytes" if is_struct else name
    column = opened.read_row_group(group, columns=[leaf], use_threads=False)[name]
    return pc.struct_field(column, "bytes") if is_struct else column


class _Groups:
    """The row groups that this process read last: one at least, `_HELD_BYTES` at most."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Path, int, int, str], Any] = OrderedDict()
        self._lock = Lock()

    def images(self, file: Path, group: int, name: str) -> Any:
        """Return the images of a row group."""
        key = (file, file.stat().st_mtime_ns, group, name)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        with pq.ParquetFile(file) as opened:
            column = _column(opened, group, name)
        with self._lock:
            self._held[key] = column
            while len(self._held) > 1 and self._bytes() > _HELD_BYTES:
                self._held.popitem(last=False)
        return column

    def _bytes(self) -> int:
        return sum(column.nbytes for column in self._held.values())


_GROUPS = _Groups()


def read_image(file: Path, group: int, row: int, column: str = "image") -> bytes:
    """Return one image of a Parquet file.

    Args:
        file: the Parquet file.
        group: number of its row group.
        row: in the group.
        column: of the images.

    Raises:
        DataError: the file is damaged, or changed since it was listed.
    """
    try:
        image = _GROUPS.images(file, group, column)[row].as_py()
    except _DAMAGED as error:
        raise DataError(f"cannot be read from Parquet: {error}", where=file.name) from error
    if image is None:
        raise DataError("the row holds no image", where=file.name)
    return cast("bytes", image)
