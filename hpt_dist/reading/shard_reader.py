"""Parts of shards: from a file of the store, from the node's cache, or by ranged requests."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from hpt_dist.datasets.manifest import Shard
from hpt_dist.errors import DataError, StoreError
from hpt_dist.reading.node_cache import NodeCache
from hpt_dist.store import ObjectInfo, Store

OPEN_FILES = 128
_DOWNLOADS = 2  # shards at a time; each uses several connections
_PATIENCE_S = 0.5

Intact = Callable[[mmap.mmap], bool]


class ShardReader:
    """Reads parts of a dataset's shards. Threads may share it.

    A shard that is not as long as its manifest says, or changes while it is read, is refused.

    Args:
        store: the folder of the dataset in its store.
        cache: where whole shards of a remote store may be kept on this node.
        fix: what to do about a shard that cannot be used.
    """

    def __init__(self, store: Store, cache: NodeCache | None = None, fix: str = "") -> None:
        # Reading then waits for a network, and many reads at a time are faster.
        self.is_remote = store.folder is None
        self._store = store
        self._cache = cache
        self._fix = fix
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._remote: dict[str, ObjectInfo] = {}
        self._downloads: dict[str, Future[Path | None]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._give_up = threading.Event()
        self._patience_ends: dict[str, float] = {}

    def read(self, shard: Shard, start: int, length: int, *, anew: bool = False) -> bytes:
        """Return `length` bytes of a shard from `start`.

        Args:
            shard: of the dataset.
            start: position of the first byte.
            length: number of bytes.
            anew: read from the remote store itself, not from this node's cache.

        Raises:
            StoreError: the shard does not exist.
            DataError: it is cut, or differs from its manifest.
        """
        file = None
        if not (anew and self.is_remote):
            file = self._open.get(shard.path) or self._open_file(shard)
        if file is None:
            data = self._store.get(shard.path, start, length, self._remote_info(shard).etag)
        else:
            data = os.pread(file.descriptor, length, start)
        if len(data) != length:
            raise self._wrong_length(shard, start + len(data))
        return data

    def prefetch(self, shards: Iterable[tuple[Shard, Intact]]) -> None:
        """Start to download shards to this node's cache, unless they are there or on their way.

        Args:
            shards: each with a function that checks its downloaded content.
        """
        if self._cache is None or not self.is_remote:
            return
        for shard, intact in shards:
            with self._lock:
                if shard.path in self._downloads:
                    continue
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="shards")
                self._downloads[shard.path] = self._executor.submit(
                    self._cache.fetch,
                    self._store,
                    shard.path,
                    shard.bytes,
                    shard.sha256,
                    intact,
                    self._give_up,
                )

    def close(self) -> None:
        """Give up downloads and close the files; reading opens them again."""
        self._give_up.set()
        if self._executor:
            self._executor.shutdown(cancel_futures=True)
        self._executor = None
        self._give_up = threading.Event()
        self._patience_ends.clear()
        self._downloads.clear()
        self._open.clear()

    def _open_file(self, shard: Shard) -> _OpenFile | None:
        """Return the file that holds a shard, opened; None if this node has none."""
        path = self._store.local(shard.path)
        if path is None:
            path = self._downloaded(shard)
            if path is None:
                return None
        file = self._opened(path, shard)
        if file is None:
            return None
        if file.size_bytes != shard.bytes:
            raise self._wrong_length(shard, file.size_bytes)
        with self._lock:
            if self.is_remote:  # an evicted file takes room on the disk while it is open
                for other in [name for name, one in self._open.items() if one.is_deleted()]:
                    del self._open[other]
            self._open[shard.path] = file
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return file

    def _opened(self, path: Path, shard: Shard) -> _OpenFile | None:
        """Open the file of a shard; None if this node's cache has just evicted it."""
        try:
            return _OpenFile(path)
        except FileNotFoundError as error:
            if self.is_remote:
                return None
            if self._store.stat(shard.path):  # it waited for a store that was away
                return self._opened(path, shard)
            raise StoreError("the shard does not exist", where=str(path), fix=self._fix) from error
        except OSError as error:
            raise StoreError(error.strerror or str(error), where=str(path)) from error

    def _downloaded(self, shard: Shard) -> Path | None:
        """Return the shard's file in the cache if it is there; raise what its download raised."""
        if self._cache is None:
            return None
        download = self._downloads.get(shard.path)
        if download is not None and not download.done():
            # Wait a moment, once, for a running download; do not wait for a queued one.
            if download.running():
                now = time.monotonic()
                end = self._patience_ends.setdefault(shard.path, now + _PATIENCE_S)
                wait([download], max(0.0, end - now))
            if not download.done():
                return None
        path = self._cache.path(shard.sha256)
        if path is None and download is not None:  # it failed, does not fit, or was evicted
            with self._lock:
                self._downloads.pop(shard.path, None)  # so that it can be tried again
            download.result()
        return path

    def _remote_info(self, shard: Shard) -> ObjectInfo:
        """Return the store's description of a shard, read once: later reads must match it."""
        info = self._remote.get(shard.path)
        if info is None:
            info = self._store.stat(shard.path)
            if info is None:
                where = f"{self._store.uri}/{shard.path}"
                raise StoreError("the shard does not exist", where=where, fix=self._fix)
            if info.bytes != shard.bytes:
                raise self._wrong_length(shard, info.bytes)
            self._remote[shard.path] = info
        return info

    def _wrong_length(self, shard: Shard, actual_bytes: int) -> DataError:
        return DataError(
            f"the shard ends after {actual_bytes} bytes; its manifest says {shard.bytes}",
            where=f"{self._store.uri}/{shard.path}",
            fix=self._fix,
        )


class _OpenFile:
    """An open file that closes itself when its last reader drops it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self.descriptor).st_size

    def is_deleted(self) -> bool:
        """Return whether no folder holds the file any more."""
        return os.fstat(self.descriptor).st_nlink == 0

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
