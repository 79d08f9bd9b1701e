"""Objects by path below a URI: a local folder or S3, behind one protocol.

An object appears whole or not at all: readers see the old content or the new one, never a part,
and a writer killed in the middle leaves nothing that is listed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from hpt_dist.errors import DataError, RequestError, StoreError


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows of one object without reading it.

    Args:
        path: relative to the store, parts separated by "/".
        bytes: its size.
        etag: differs whenever the content differs; compare it only for equality.
    """

    path: str
    bytes: int
    etag: str


Content = bytes | bytearray | memoryview | Path

PIECE_BYTES = 1 << 20


class Store(Protocol):
    """Objects below one URI. A path is relative, without "." and ".." and the name ".tmp".

    All methods may be called from many threads and processes, and raise StoreError where the
    store refuses or cannot be reached.
    """

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store again."""

    def put(self, path: str, data: Content) -> ObjectInfo:
        """Write an object atomically, replacing any other; a Path uploads that file's content."""

    def get(self, path: str, start: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """Read an object, or the part of `length` bytes from `start` as a slice would give it.

        Args:
            path: of the object.
            start: position of the first byte.
            length: bytes to read at most; None is all up to the end.
            etag: of the object that is meant; empty for the one that is there.

        Raises:
            StoreError: also if there is no such object.
            DataError: the object has another etag, or changed while it was read.
        """

    def stream(self, info: ObjectInfo) -> Iterator[bytes]:
        """Yield a whole object in order, in pieces of at most 1 MB.

        Over a network several parts are on their way at a time: about 50 MB of memory.

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
        holds between swaps only: `put` and `delete` ask nobody.

        Returns:
            The new etag, or None if somebody else was first.
        """

    def at(self, prefix: str) -> Store:
        """Return the same store seen from the folder `prefix`."""

    def local(self, path: str) -> Path | None:
        """Return the file that holds, or would hold, the object; None where there are no files."""


def open_store(uri: str) -> Store:
    """Open `s3://bucket/prefix`, `file:///folder` or a folder's path; nothing is created yet.

    S3 is reached by the standard AWS settings: AWS_ENDPOINT_URL_S3, AWS_PROFILE, AWS_CA_BUNDLE,
    AWS_MAX_ATTEMPTS and so on.

    Raises:
        RequestError: if the URI is none of these.
    """
    try:
        parts = urlsplit(uri)
        if "\0" in uri:
            raise ValueError("it holds a null byte")  # noqa: TRY301 - one way to say it
    except ValueError as error:
        raise RequestError(f"this is not the URI of a store: {error}", where=repr(uri)) from error
    if parts.scheme == "s3" and parts.netloc:
        from hpt_dist.s3 import S3Store  # boto3 takes a tenth of a second to import

        prefix = uri.removeprefix(f"s3://{parts.netloc}").strip("/")
        return S3Store(parts.netloc, checked(prefix, uri) if prefix else "")
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return FolderStore(Path(unquote(parts.path)))
    if uri and "://" not in uri:
        return FolderStore(Path(uri).expanduser().absolute())
    raise RequestError(
        "this is not the URI of a store",
        where=uri or "store",
        allowed="s3://bucket/prefix, file:///folder, or the path of a folder",
    )


def checked(path: str, uri: str) -> str:
    """Return the path if it stays inside the store; paths also come from files in the store."""
    parts = path.split("/")
    if not {"", ".", "..", _SCRATCH}.isdisjoint(parts) or "\0" in path:
        raise StoreError(
            f"{path!r} cannot be the path of an object",
            where=uri,
            allowed=f'parts separated by "/", none of them empty, ".", ".." or "{_SCRATCH}"',
        )
    return path


def absent(where: str) -> StoreError:
    """Make the error of a read that found nothing."""
    return StoreError("there is no such object", where=where)


def changed(where: str) -> DataError:
    """Make the error of a read that met another object than the one that was meant."""
    return DataError(
        "the object changed while it was read",
        where=where,
        fix="start again; and let nobody write it while others read it",
    )


# Unfinished files of a folder lie in its subfolder of this name, so on the same file system.
_SCRATCH = ".tmp"
_LOCK = "lock"
_ABANDONED_S = 3600.0

_OS_FIXES = {
    errno.ENOSPC: "free some space, or choose a store elsewhere",
    errno.EDQUOT: "free some space, or choose a store elsewhere",
    errno.EACCES: "give this user the right to read and write there",
    errno.EPERM: "give this user the right to read and write there",
    errno.EROFS: "choose a store on a file system that can be written",
}


@dataclass(frozen=True)
class FolderStore:
    """A store in a local or shared folder; an object is the file of the same path.

    Its etag is modification time, size and inode, and every write stamps the time itself in
    nanoseconds: the kernel's own stamp may be 4 ms old, and an inode is soon used again.
    `swap` holds an flock, which the kernel releases when its holder dies.
    """

    root: Path

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store again."""
        return str(self.root)

    def put(self, path: str, data: Content) -> ObjectInfo:
        """Write an object; see `Store.put`."""
        file = self._file(path)
        with os_errors(file):
            return _describe(path, _replace(file, data))

    def get(self, path: str, start: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """Read an object or a part of it; see `Store.get`."""
        with self._opened(path, etag) as content:
            content.seek(start)
            return content.read(-1 if length is None else length)

    def stream(self, info: ObjectInfo) -> Iterator[bytes]:
        """Read a whole object in order; see `Store.stream`."""
        with self._opened(info.path, info.etag) as content:
            while piece := content.read(PIECE_BYTES):
                yield piece

    def stat(self, path: str) -> ObjectInfo | None:
        """Describe an object; see `Store.stat`."""
        file = self._file(path)
        with os_errors(file):
            try:
                status = file.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _describe(path, status) if S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Describe objects by the beginning of their path; see `Store.list`."""
        folder = prefix.rpartition("/")[0]
        top = self._file(folder) if folder else self.root
        paths = []
        with os_errors(top):
            for place, subfolders, names in os.walk(top, onerror=_raise, followlinks=True):
                if _SCRATCH in subfolders:
                    subfolders.remove(_SCRATCH)
                base = Path(place).relative_to(self.root)
                paths += [(base / name).as_posix() for name in names]
        for path in sorted(path for path in paths if path.startswith(prefix)):
            info = self.stat(path)
            if info is not None:
                yield info

    def delete(self, path: str) -> None:
        """Remove an object; see `Store.delete`."""
        file = self._file(path)
        if self.stat(path) is not None:
            with os_errors(file):
                file.unlink(missing_ok=True)

    def swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """Write an object if nobody else did; see `Store.swap`."""
        file = self._file(path)
        with os_errors(file), _locked(file.parent):
            found = self.stat(path)
            if (found.etag if found else None) != expected:
                return None
            return _describe(path, _replace(file, data)).etag

    def at(self, prefix: str) -> FolderStore:
        """Return the store seen from a folder; see `Store.at`."""
        prefix = prefix.rstrip("/")
        return FolderStore(self._file(prefix)) if prefix else self

    def local(self, path: str) -> Path:
        """Return the object's file; see `Store.local`."""
        return self._file(path)

    def _file(self, path: str) -> Path:
        return self.root / checked(path, self.uri)

    @contextmanager
    def _opened(self, path: str, etag: str) -> Iterator[BinaryIO]:
        file = self._file(path)
        try:
            with os_errors(file), file.open("rb") as content:
                if etag and _describe(path, os.fstat(content.fileno())).etag != etag:
                    raise changed(str(file))
                yield content
        except StoreError as error:
            if self.stat(path) is None:
                raise absent(str(file)) from error
            raise


def _describe(path: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(path, status.st_size, etag)


def _replace(file: Path, data: Content) -> os.stat_result:
    """Write a whole file beside its place, make it durable, then move it there."""
    temporary = _scratch(file.parent) / uuid.uuid4().hex
    try:
        with temporary.open("xb") as target:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, target, PIECE_BYTES)
            else:
                target.write(data)
            target.flush()
            now_ns = time.time_ns()
            os.utime(target.fileno(), ns=(now_ns, now_ns))
            os.fsync(target.fileno())
            status = os.fstat(target.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(file.parent)
    return status


def _scratch(folder: Path) -> Path:
    """Return the place for a folder's unfinished files, cleared of those of dead writers."""
    scratch = folder / _SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(scratch):
        try:
            abandoned = time.time() - entry.stat().st_mtime > _ABANDONED_S
        except FileNotFoundError:  # its writer has just finished
            continue
        if abandoned and entry.name != _LOCK:
            Path(entry).unlink(missing_ok=True)
    return scratch


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep every other process and thread out of `swap` in this folder."""
    with (_scratch(folder) / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


@contextmanager
def os_errors(where: Path | str) -> Iterator[None]:
    """Raise OSErrors as StoreError; messages name `where`."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename not in (None, str(where)) else ""
        what = f"{error.strerror or error}{place}"
        raise StoreError(what, where=str(where), fix=_OS_FIXES.get(error.errno or 0, "")) from error
