"""JSON records that processes leave for each other, checked against a spec when they are read.

A record may have been cut, edited or written by other software. Whoever reads it gets a value that
is what the spec says, or one error.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from hpt_dist.errors import HptError, StoreError
from hpt_dist.page import one_line
from hpt_dist.store.base import Store

R = TypeVar("R")

# For the fields of a spec: what Python and every other reader of JSON hold exactly.
Count = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# In one line, without the characters that control a terminal.
SEEN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
Line = Annotated[str, Field(pattern=f"^{SEEN}*$")]
# A part of a path: it names nothing outside the folder that it is looked for in.
PathPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=250)]

# The record of a launch of 10,000 trials has about 30 MB.
_LARGEST_BYTES = 64 << 20

_FAULTS_SHOWN = 3


class DamagedRecordError(HptError):
    """A record is not JSON, or not what its spec says."""


def decoded(data: bytes, spec: type[R], *, where: str, fix: str = "") -> R:
    """Return a record.

    Types are not converted: the text "1" and the number 1.0 are no integer. Fields that the spec
    does not have are left out: another version of this software may have written them.

    Args:
        data: JSON in UTF-8, without NaN and infinity.
        spec: what it must be: a dataclass, whose fields may be annotated with pydantic's limits, or
            any other type of which pydantic knows how to check it, such as `dict[str, int]`.
        where: its path or URI, for the error.
        fix: what to do if it is damaged.

    Raises:
        DamagedRecordError: it is not such a record.
    """
    try:
        # Not all is seen by the spec: fields that it leaves out, numbers that become infinite.
        json.dumps(from_json(data, allow_inf_nan=False), allow_nan=False)
        record: R = _adapter(spec).validate_json(data, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        what = _in_words(error)
    except ValueError as error:
        what = f"it is not JSON, {error}" if data else "it is empty"
    else:
        return record
    raise DamagedRecordError(f"the record is damaged: {what}", where=where, fix=fix)


def document(data: bytes, part: type[Any], *, where: str, fix: str = "") -> dict[str, Any]:
    """Return a record as the JSON object that it is, once the part of it that is used is right.

    Args:
        data: see `decoded`.
        part: the spec of the fields that its reader uses.
        where: see `decoded`.
        fix: see `decoded`.

    Raises:
        DamagedRecordError: it is no JSON object, or not what the spec says.
    """
    decoded(data, part, where=where, fix=fix)
    return decoded(data, dict[str, Any], where=where, fix=fix)


def read(store: Store, path: str, spec: type[R], *, fix: str = "") -> R | None:
    """Return a record of a store; None if it does not exist.

    Args:
        store: where it is.
        path: of the record.
        spec: see `decoded`.
        fix: see `decoded`.

    Raises:
        DamagedRecordError: it is not such a record, or this object alone cannot be read.
        StoreError: the store cannot be reached.
    """
    where = f"{store.uri}/{path}"
    info = store.stat(path)
    if info is None:
        return None
    if info.bytes > _LARGEST_BYTES:
        what = f"the record is damaged: it has {info.bytes:,} bytes"
        raise DamagedRecordError(what, where=where, allowed=f"{_LARGEST_BYTES:,} bytes", fix=fix)
    try:
        data = store.get(path)
    except StoreError as error:
        if store.stat(path) is None:  # deleted in between
            return None
        what = f"the record cannot be read: {error.problem.what}"
        raise DamagedRecordError(what, where=where, fix=fix) from error
    return decoded(data, spec, where=where, fix=fix)


@functools.cache
def _adapter(spec: Any) -> TypeAdapter[Any]:
    return TypeAdapter(spec)


def _in_words(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = []
    for fault in faults[:_FAULTS_SHOWN]:
        path = one_line(".".join(map(str, fault["loc"])), 100)
        what = fault["msg"][:1].lower() + fault["msg"][1:]
        shown.append(f"{path}: {what}" if path else what)
    left = len(faults) - _FAULTS_SHOWN
    return "; ".join(shown) + (f"; and {left} more" if left > 0 else "")
