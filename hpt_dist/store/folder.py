"""A store in a local or shared folder."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import IO, BinaryIO, TypeVar

from hpt_dist.errors import StoreError
from hpt_dist.store.base import (
    PIECE_BYTES,
    SCRATCH,
    Content,
    ObjectInfo,
    absent,
    changed,
    checked,
    os_errors,
)
from hpt_dist.store.files import replace
from hpt_dist.store.presence import is_back

T = TypeVar("T")

_LOCK = "lock"
_ABANDONED_S = 3600.0
# A swap takes milliseconds; on a busy network file system seconds.
_LOCK_WAIT_S = 60.0


@dataclass(frozen=True)
class FolderStore:
    """A store in a local or shared folder; an object is the file of the same path.

    Its etag is modification time, size and inode; an inode is soon used again, and `files.replace`
    stamps the time itself, in nanoseconds.
    `swap` holds an flock, which the kernel releases when its holder dies.

    Args:
        root: its folder, which is created by the first write, unless there is an anchor.
        anchor: a file or folder that exists as long as the store is there. While it is missing,
            reads and writes wait for a while, and then fail: nothing is made anew in its place.
    """

    root: Path
    anchor: Path | None = None

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store again."""
        return str(self.root)

    @property
    def folder(self) -> Path:
        """The folder itself; see `Store.folder`."""
        return self.root

    def put(self, path: str, data: Content) -> ObjectInfo:
        """Write an object; see `Store.put`."""
        file = self._file(path)
        with os_errors(file):
            return _describe(path, self._written(file, lambda: _replace(file, data)))

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
            status = self._status(file)
        return _describe(path, status) if status and S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Describe objects by the beginning of their path; see `Store.list`."""
        folder = prefix.rpartition("/")[0]
        top = self._file(folder) if folder else self.root
        with os_errors(top):
            paths = _paths(self.root, top)
            while is_back(self.anchor):
                paths = _paths(self.root, top)
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
        """Write an object if its etag is the expected one; see `Store.swap`."""
        file = self._file(path)

        def swapped() -> str | None:
            with _locked(file.parent):
                current = self.stat(path)
                if (current.etag if current else None) != expected:
                    return None
                return _describe(path, _replace(file, data)).etag

        with os_errors(file):
            return self._written(file, swapped)

    def unfinished(self) -> Iterator[ObjectInfo]:
        """Describe what is being written, or was by killed writers; see `Store.unfinished`."""
        with os_errors(self.root):
            for scratch in sorted(path for path in self.root.rglob(SCRATCH) if path.is_dir()):
                for entry in sorted(scratch.iterdir()):
                    with suppress(FileNotFoundError):  # finished in between
                        status = entry.stat()
                        if entry.name != _LOCK:
                            yield _describe(entry.relative_to(self.root).as_posix(), status)

    def sweep(self) -> None:
        """Delete what killed writers left unfinished; see `Store.sweep`."""
        with os_errors(self.root):
            for scratch in [path for path in self.root.rglob(SCRATCH) if path.is_dir()]:
                # Under the lock no swap is at work: others may try one at any time.
                swaps = (scratch / _LOCK).exists()
                with _locked(scratch.parent) if swaps else nullcontext():
                    for entry in scratch.iterdir():
                        if entry.name != _LOCK:
                            entry.unlink(missing_ok=True)
                if not swaps:
                    with suppress(OSError):  # somebody writes after all
                        scratch.rmdir()

    def at(self, prefix: str) -> FolderStore:
        """Return the store seen from a folder; see `Store.at`."""
        prefix = prefix.rstrip("/")
        return FolderStore(self._file(prefix), self.anchor) if prefix else self

    def local(self, path: str) -> Path:
        """Return the object's file; see `Store.local`."""
        return self._file(path)

    def _file(self, path: str) -> Path:
        return self.root / checked(path, self.uri)

    def _status(self, file: Path) -> os.stat_result | None:
        """Return the status of a file, or None if there is none in a store that is there."""
        while True:
            try:
                return file.stat()
            except (FileNotFoundError, NotADirectoryError):
                if not is_back(self.anchor):
                    return None

    def _written(self, file: Path, write: Callable[[], T]) -> T:
        """Write a file by a function that may be called again, if the store was away meanwhile."""
        while True:
            is_back(self.anchor)
            try:
                _make_scratch(file.parent, self.anchor)
                return write()
            except (FileNotFoundError, NotADirectoryError):
                if not is_back(self.anchor):
                    raise

    def _open(self, file: Path) -> BinaryIO:
        while True:
            try:
                return file.open("rb")
            except (FileNotFoundError, NotADirectoryError):
                if not is_back(self.anchor):
                    raise

    @contextmanager
    def _opened(self, path: str, etag: str) -> Iterator[BinaryIO]:
        file = self._file(path)
        try:
            with os_errors(file), self._open(file) as content:
                if etag and _describe(path, os.fstat(content.fileno())).etag != etag:
                    raise changed(str(file))
                yield content
        except StoreError as error:
            if self.stat(path) is None:
                raise absent(str(file)) from error
            raise


def _paths(root: Path, top: Path) -> list[str]:
    """Return the paths below `root` of all files in a folder of it."""
    paths = []
    for place, subfolders, names in os.walk(top, onerror=_raise, followlinks=True):
        if SCRATCH in subfolders:
            subfolders.remove(SCRATCH)
        base = Path(place).relative_to(root)
        paths += [(base / name).as_posix() for name in names]
    return paths


def _describe(path: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(path, status.st_size, etag, status.st_mtime)


def _replace(file: Path, data: Content) -> os.stat_result:
    """Write an object's file, and make its name durable too."""
    status = replace(file, data, _scratch(file.parent) / uuid.uuid4().hex)
    _sync_folder(file.parent)
    return status


def _make_scratch(folder: Path, anchor: Path | None) -> None:
    """Make the folder for unfinished files, but not the root of a store that must be there."""
    scratch = folder / SCRATCH
    if anchor is None:
        scratch.mkdir(parents=True, exist_ok=True)
    elif not scratch.is_dir():
        inside = [one for one in (scratch, *scratch.parents) if anchor.parent in one.parents]
        for one in reversed(inside):
            one.mkdir(exist_ok=True)


def _scratch(folder: Path) -> Path:
    """Return the folder for unfinished files, after deleting those of dead writers."""
    scratch = folder / SCRATCH
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
    """Keep every other process and thread out of `swap` in this folder.

    Raises:
        StoreError: another process holds the lock: it is stopped, or its disk does not answer.
    """
    file = _scratch(folder) / _LOCK
    patience = time.monotonic() + _LOCK_WAIT_S
    pause_s = 0.001
    with file.open("ab") as lock:
        while not _try_lock(lock):
            if time.monotonic() > patience:
                raise StoreError(
                    f"another process has been writing here for {_LOCK_WAIT_S:.0f} s",
                    where=str(folder),
                    fix=f"check whether it is stopped or its disk hangs: fuser {file} names it",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
        yield


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
