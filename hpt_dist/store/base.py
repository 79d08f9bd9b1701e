"""The protocol of a store, and the errors that all stores share."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hpt_dist.errors import DataError, StoreAwayError, StoreError


@dataclass(frozen=True)
class ObjectInfo:
    """The description of an object, known without reading it.

    Args:
        path: relative to the store, parts separated by "/".
        bytes: its size.
        etag: differs whenever the content differs; compare it only for equality.
        modified_s: when it was written, Unix time by the store's clock; 0 where that is not known.
    """

    path: str
    bytes: int
    etag: str
    modified_s: float = field(default=0.0, compare=False)


Content = bytes | bytearray | memoryview | Path

PIECE_BYTES = 1 << 20
# Unfinished files of a folder lie in its subfolder of this name, so on the same file system.
SCRATCH = ".tmp"


class Store(Protocol):
    """Objects below one URI. A path is relative, without "." and ".." and the name ".tmp".

    All methods may be called from many threads and processes, and raise StoreError where the
    store refuses or cannot be reached.
    """

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store again."""

    @property
    def folder(self) -> Path | None:
        """The folder of the objects, which may not exist yet; None if objects are no files."""

    def put(self, path: str, data: Content) -> ObjectInfo:
        """Write an object atomically, replacing any other; a Path uploads that file's content."""

    def get(self, path: str, start: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """Read an object, or the part of `length` bytes from `start` as a slice would give it.

        Args:
            path: of the object.
            start: position of the first byte.
            length: bytes to read at most; None is all up to the end.
            etag: that the object must have; empty for any.

        Raises:
            StoreError: also if there is no such object.
            DataError: the object has another etag, or changed while it was read.
        """

    def stream(self, info: ObjectInfo) -> Iterator[bytes]:
        """Yield a whole object in order, in pieces of at most 1 MB.

        Over a network several parts are read at a time, in about 50 MB of memory.

        Args:
            info: the object, as `stat` described it.

        Raises:
            StoreError: also if there is no such object.
            DataError: the object has another etag, or changed while it was read.
        """

    def stat(self, path: str) -> ObjectInfo | None:
        """Describe an object, or return None if there is none."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Describe all objects whose path begins with `prefix`, sorted by path."""

    def delete(self, path: str) -> None:
        """Remove an object; an absent one is fine."""

    def swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """Write an object only if its etag still is `expected` (None: if it is absent).

        Of any number of callers that expect the same, in any processes, exactly one wins. This
        holds between swaps only: `put` and `delete` check nothing.

        Returns:
            The new etag, or None if another caller was first.
        """

    def unfinished(self) -> Iterator[ObjectInfo]:
        """Describe what living and killed writers have begun and not finished.

        These are no objects yet: their paths, of which several may be equal, are for people.
        """

    def sweep(self) -> None:
        """Delete what killed writers left unfinished; only its one writer may call it."""

    def at(self, prefix: str) -> Store:
        """Return the same store seen from the folder `prefix`."""

    def local(self, path: str) -> Path | None:
        """Return the object's file, which may not exist; None if `folder` is None."""


def checked(path: str, uri: str) -> str:
    """Return the path if it stays inside the store; paths also come from files in the store."""
    parts = path.split("/")
    if not {"", ".", "..", SCRATCH}.isdisjoint(parts) or "\0" in path:
        raise StoreError(
            f"{path!r} cannot be the path of an object",
            where=uri,
            allowed=f'parts separated by "/", none of them empty, ".", ".." or "{SCRATCH}"',
        )
    return path


def absent(where: str) -> StoreError:
    """Return the error of a read whose object does not exist."""
    return StoreError("there is no such object", where=where)


def changed(where: str) -> DataError:
    """Return the error of a read whose object has another etag than expected."""
    return DataError(
        "the object changed while it was read",
        where=where,
        fix="start again, and do not write the object while others read it",
    )


_OS_FIXES = {
    errno.ENOSPC: "free some space, or choose a store elsewhere",
    errno.EDQUOT: "free some space, or choose a store elsewhere",
    errno.EACCES: "give this user the right to read and write there",
    errno.EPERM: "give this user the right to read and write there",
    errno.EROFS: "choose a store on a file system that can be written",
    errno.EISDIR: "move that folder away, or choose another store",
    errno.ENOTDIR: "choose a store whose path leads through folders only",
    errno.ENAMETOOLONG: "choose a store with a shorter path",
}


# What network file systems answer while their server is away.
_AWAY = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "ECONNREFUSED", "ECONNRESET"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)


@contextmanager
def os_errors(where: Path | str) -> Iterator[None]:
    """Raise OSErrors as StoreError, or StoreAwayError; messages name `where`."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename not in (None, str(where)) else ""
        what = f"{error.strerror or error}{place}"
        number = error.errno or 0
        kind = StoreAwayError if number in _AWAY else StoreError
        raise kind(what, where=str(where), fix=_OS_FIXES.get(number, "")) from error
