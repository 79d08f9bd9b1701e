"""Whole shards of a remote store on this node's disk, shared by all processes of one user.

```
<folder>/<sha256>          a finished shard, verified; its modification time is its last use
<folder>/<sha256>.part     a download in its final length, locked by the process that downloads
<folder>/lock              held while files are evicted, and while a part gets its final name
```
The locks are flocks, which the kernel releases when their holder dies. A file is named by its
content, so no two processes can disagree about it.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import mmap
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hpt_dist.errors import DataError, RequestError
from hpt_dist.store import PIECE_BYTES, Store, absent
from hpt_dist.store.paths import local_path

DEFAULT_LIMIT_GB = 20.0

_PART = ".part"
_CACHE_FILE = re.compile(r"[0-9a-f]{64}(\.part)?")
_LOCK = "lock"
_POLL_S = 0.02
_STUCK_S = 60.0  # a download that did not grow for this long counts as stuck

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeCache:
    """A folder that holds finished and unfinished shards up to a number of bytes.

    Threads and processes may share the folder. An open file can be read to its end even if it is
    evicted meanwhile.

    Args:
        folder: of this user alone; created if missing.
        limit_bytes: of all files together.

    Raises:
        RequestError: the folder belongs to somebody else, or cannot be written.
    """

    folder: Path
    limit_bytes: int

    def __post_init__(self) -> None:
        try:
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700, parents=True)
            if self.folder.stat().st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user")
            with self._locked():
                pass
        except OSError as error:
            raise RequestError(
                f"this folder cannot keep shards: {error.strerror or error}",
                where=str(self.folder),
                fix="set HPT_CACHE to a folder of your own on a local disk, or HPT_CACHE_GB=0",
            ) from error

    def path(self, sha256: str) -> Path | None:
        """Return the finished file of this content, marked as used now; None if it is absent."""
        file = self.folder / sha256
        try:
            # Files are not forced to disk, so a crash of the machine may lose a part of one. A file
            # that was last used before the boot is therefore checked.
            if file.stat().st_ctime < _booted_at_s() and _digest(file) != sha256:
                file.unlink()
                return None
            os.utime(file)
        except OSError:
            return None
        return file

    def fetch(
        self,
        store: Store,
        path: str,
        size_bytes: int,
        sha256: str,
        intact: Callable[[mmap.mmap], bool] | None = None,
        give_up: threading.Event | None = None,
    ) -> Path | None:
        """Return the file of a shard, downloaded first if it is absent; one process does that.

        Args:
            store: where the shard lies.
            path: of the shard in the store.
            size_bytes: of the shard, as its manifest says.
            sha256: of the shard, as its manifest says.
            intact: checks the downloaded content, if the caller has a faster way than its SHA-256.
            give_up: ends the download soon once it is set.

        Returns:
            The file; None if the shard cannot be cached and must be read by ranges: there is no
            room beside the running downloads, the disk is full, another process's download hangs,
            or it was given up.

        Raises:
            StoreError: the shard is not in the store, or the store cannot be read.
            DataError: the shard differs from its manifest, in two downloads.
        """
        if size_bytes > self.limit_bytes:
            return None
        part = self.folder / f"{sha256}{_PART}"
        check = intact or (lambda content: hashlib.sha256(content).hexdigest() == sha256)
        try:
            while True:
                finished = self._finished_file(sha256, size_bytes)
                if finished:
                    return finished
                with _claimed(part) as claim:
                    if claim.is_stuck:
                        return None
                    # Else another process has finished it, or removed a dead process's part.
                    if claim.is_valid:
                        if not self._finished_file(sha256, size_bytes):
                            copy = partial(
                                _copy, store, path, size_bytes, claim.descriptor, check, give_up
                            )
                            return self._download(copy, size_bytes, sha256, claim.descriptor)
                        part.unlink()
        except _GivenUpError:
            return None
        except OSError as error:
            _warn(f"shards are not kept in {self.folder}: {error.strerror or error}")
            return None

    def _finished_file(self, sha256: str, size_bytes: int) -> Path | None:
        file = self.path(sha256)
        with suppress(FileNotFoundError):  # evicted meanwhile
            if file and file.stat().st_size != size_bytes:
                file.unlink()
                return None
        return file

    def _download(
        self, copy: Callable[[], None], size_bytes: int, sha256: str, descriptor: int
    ) -> Path | None:
        """Fill the claimed part, check it and give it its final name."""
        part, finished = self.folder / f"{sha256}{_PART}", self.folder / sha256
        try:
            if not self._reserve(part, descriptor, size_bytes):
                part.unlink()
                return None
            try:
                copy()
            except DataError:  # damaged in transfer, or in the store
                copy()
            # Who counts the files lists them first: one that changed its name then would be missed.
            with self._locked():
                part.rename(finished)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return finished

    def _reserve(self, part: Path, descriptor: int, size_bytes: int) -> bool:
        """Evict files and allocate the part's full length; return False if there is no room."""
        with self._locked():
            finished, others_bytes = [], 0
            for file in self.folder.iterdir():
                if not _CACHE_FILE.fullmatch(file.name):
                    continue  # the cache did not create it, so it may not remove it
                if file.suffix != _PART:
                    with suppress(FileNotFoundError):
                        finished.append((file.stat().st_mtime_ns, file.stat().st_size, file))
                elif file != part and not _clear_abandoned(file):
                    with suppress(FileNotFoundError):
                        others_bytes += file.stat().st_size
            if others_bytes + size_bytes > self.limit_bytes:
                return False
            total_bytes = others_bytes + size_bytes + sum(size for _, size, _ in finished)
            for _, evicted_bytes, file in sorted(finished):
                if total_bytes <= self.limit_bytes:
                    break
                file.unlink(missing_ok=True)
                total_bytes -= evicted_bytes
            os.truncate(descriptor, 0)
            if size_bytes:
                os.posix_fallocate(descriptor, 0, size_bytes)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def default_cache() -> NodeCache | None:
    """Return `configured_cache`; warn and return None if its folder cannot be used.

    Raises:
        RequestError: HPT_CACHE_GB is no size.
    """
    _limit_gb()
    try:
        return configured_cache()
    except RequestError as error:
        _warn(str(error))
        return None


def configured_cache() -> NodeCache | None:
    """Return the cache that HPT_CACHE (a folder) and HPT_CACHE_GB (0 is none) configure.

    The folder is `hpt-dist-UID` in HPT_CACHE, or `hpt-dist/shards` in the user's cache folder.

    Raises:
        RequestError: HPT_CACHE_GB is no size, or the folder cannot be used.
    """
    limit_bytes = int(_limit_gb() * 1e9)
    return NodeCache(default_folder(), limit_bytes) if limit_bytes else None


def _limit_gb() -> float:
    text = os.environ.get("HPT_CACHE_GB") or str(DEFAULT_LIMIT_GB)
    try:
        limit_gb = float(text)
    except ValueError:
        limit_gb = -1
    if not 0 <= limit_gb < 1e9:
        raise RequestError(f"{text!r} is no size", where="HPT_CACHE_GB", allowed="gigabytes from 0")
    return limit_gb


def default_folder() -> Path:
    """Return the folder of this user's cache on this node; see `configured_cache`."""
    named = os.environ.get("HPT_CACHE")
    if named:  # perhaps a node's scratch folder, which other users share
        return local_path(named).absolute() / f"hpt-dist-{os.geteuid()}"
    base = local_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base / "hpt-dist" / "shards"


class _GivenUpError(Exception):
    """No reader needs the shard any more."""


@dataclass(frozen=True)
class _Claim:
    """The result of waiting for a part.

    Args:
        descriptor: of the part, open.
        is_valid: this process holds its lock, and the file still has its name.
        is_stuck: another process holds its lock, and the file does not grow.
    """

    descriptor: int
    is_valid: bool
    is_stuck: bool = False


@contextmanager
def _claimed(part: Path) -> Iterator[_Claim]:
    """Wait for a part and hold its lock in the block."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(descriptor):
            if time.time() - os.fstat(descriptor).st_mtime > _STUCK_S:
                yield _Claim(descriptor, is_valid=False, is_stuck=True)
                return
            time.sleep(_POLL_S)
        try:
            is_valid = os.path.samestat(part.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            is_valid = False
        try:
            yield _Claim(descriptor, is_valid)
        finally:
            # A child forked meanwhile shares the lock: closing alone would not release it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_abandoned(part: Path) -> bool:
    """Remove a part whose process is dead; return whether it was."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        # Under the lock, so that a process that opened it a moment ago sees that it is gone.
        is_abandoned = _try_lock(descriptor)
        if is_abandoned:
            part.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return is_abandoned


def _copy(
    store: Store,
    path: str,
    size_bytes: int,
    descriptor: int,
    intact: Callable[[mmap.mmap], bool],
    give_up: threading.Event | None,
) -> None:
    """Write an object to the beginning of a file, and check the file's content."""
    where = f"{store.uri}/{path}"
    info = store.stat(path)
    if info is None:
        raise absent(where)
    if info.bytes != size_bytes:
        raise _wrong_shard(f"it has {info.bytes} bytes; its manifest says {size_bytes}", where)
    position = 0
    for piece in store.stream(info):
        if give_up and give_up.is_set():
            raise _GivenUpError
        view = memoryview(piece)
        while view:
            count = os.pwrite(descriptor, view, position)
            view = view[count:]
            position += count
    with mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ) as content:
        if not intact(content):
            raise _wrong_shard("its content differs", where)


def _wrong_shard(what: str, where: str) -> DataError:
    return DataError(
        f"the shard differs from its manifest: {what}",
        where=where,
        fix="delete it and run the same hpt-dist shard again",
    )


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while piece := content.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _booted_at_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def _warn(message: str) -> None:
    """Warn once a process."""
    log.warning("%s", message)
