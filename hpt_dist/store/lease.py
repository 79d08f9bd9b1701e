"""One writer for each trial: a lease in the store, renewed while its holder lives.

The lease is an object that only compare-and-swap changes, so one of several processes gets it, on
any store. The death of a holder on this host shows in its process; that of a holder elsewhere, in
its silence: a waiting process watches whether the object changes, by its own clock alone. No two
clocks are compared, and the lease does not say how long to wait.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from pydantic_core import from_json

from hpt_dist.errors import HptError, StoreError
from hpt_dist.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)

# Each renewal is a request to the store, and there may be thousands of trials.
RENEW_S = 15.0
# Three renewals in a row may fail before others take the holder for dead.
TTL_S = 60.0
_ATTEMPTS = 20
_POLL_S = 0.5
# The names of fields in the stored JSON, where they differ: other versions of this code read them.
_STORED_NAMES = {"process_space": "pids", "restarts": "term"}
_NUMBER_LIMIT = 10**15
_LARGEST_BYTES = 1 << 20


class LeaseTakenError(HptError):
    """Another process holds the lease."""


class LeaseLostError(HptError):
    """The lease was taken over or deleted; this process may not write any more."""


@dataclass(frozen=True)
class LeaseInfo:
    """The content of a lease.

    Args:
        owner: a random name; two leases of one process differ.
        host: of the holder.
        pid: of the holder.
        started: start time of that process, clock ticks since boot: pids are reused.
        process_space: the boot and the process namespace of the pid; containers on one machine may
            share its host name, but not its processes.
        facts: the holder's progress, in numbers.
        job: the scheduler's name for the holder's job; empty without a scheduler.
        restarts: number of earlier starts of that job by the scheduler.
    """

    owner: str
    host: str
    pid: int
    started: str
    process_space: str
    facts: Mapping[str, float] = field(default_factory=dict)
    job: str = ""
    restarts: int = 0

    @property
    def on_this_host(self) -> bool:
        """Whether the holder is, or was, a process that this one could see."""
        return self.process_space == _process_space()

    @property
    def died(self) -> bool:
        """Whether the holder was a process of this host that has ended.

        One look cannot decide this for a holder elsewhere: see `LeaseWatch`.
        """
        return self.on_this_host and self.started != _start_time(self.pid)

    def precedes(self, job: str, restarts: int) -> bool:
        """Whether the scheduler has started the holder's job again since.

        The scheduler then considers the node lost. The holder may still live there, and write.
        """
        return bool(job) and self.job == job and self.restarts < restarts


class LeaseWatch:
    """Detects holders on other hosts that stopped renewing their leases.

    Args:
        clock: returns seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], _WatchedLease] = {}

    def look(self, store: Store, path: str) -> tuple[LeaseInfo | None, str]:
        """Look at a lease; call this every few seconds while waiting for it.

        An unchanged lease costs a single request.

        Returns:
            (its living holder, ""); or (None, the version of a dead holder), which `hold` takes as
            `silent`; or (None, "") if no process holds it.
        """
        version = store.stat(path)
        if version is None:
            return None, ""
        now = self._clock()
        seen = self._seen.get((store.uri, path))
        if seen is None or seen.etag != version.etag:
            holder, etag = _read_version(store, version)
            if etag is None:
                return None, ""
            seen = self._seen[store.uri, path] = _WatchedLease(holder, etag, now)
        # A watcher that was suspended, or cut off with everybody else, has seen no silence.
        seen.silent_s += min(now - seen.looked, RENEW_S)
        seen.looked = now
        if seen.holder is None or seen.holder.died:
            return None, seen.etag
        if not seen.holder.on_this_host and seen.silent_s >= TTL_S:
            return None, seen.etag
        return seen.holder, ""


@dataclass
class _WatchedLease:
    """The state of a lease at a watch's last look.

    Args:
        holder: None if the lease is damaged.
        etag: the version of the lease.
        looked: the clock at the last look.
        silent_s: seconds for which the lease did not change.
    """

    holder: LeaseInfo | None
    etag: str
    looked: float
    silent_s: float = 0.0


class Lease:
    """A lease that this process holds; see `hold`."""

    def __init__(
        self, store: Store, path: str, info: LeaseInfo, etag: str, on_loss: Callable[[], None]
    ) -> None:
        self._on_loss = on_loss
        self._store = store
        self._path = path
        self._info = info
        self._etag = etag
        self._facts: dict[str, float] = {}
        self._lost: LeaseLostError | None = None
        self._lock = threading.Lock()

    @property
    def is_lost(self) -> bool:
        """Whether it is known that this process no longer holds it."""
        return self._lost is not None

    def beat(self, **facts: float) -> None:
        """Note progress; the next renewal shows it to others."""
        # Without the lock: training must not wait for a renewal that waits for the store.
        self._facts = {**self._facts, **facts}

    def check(self) -> None:
        """Renew the lease now.

        Raises:
            LeaseLostError: another process has it, or somebody deleted it.
        """
        with self._lock:
            if not self._lost:
                self._renew()
            if self._lost:
                raise self._lost

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until `stop` is set; a failed renewal is tried again later."""
        while not stop.wait(RENEW_S):
            with self._lock, _tolerated():
                if not self._lost:
                    self._renew()

    def release(self) -> None:
        """Give the lease up."""
        with self._lock, _tolerated():
            version = self._store.stat(self._path)
            if not self._lost and version and version.etag == self._etag:
                self._store.delete(self._path)

    def _renew(self) -> None:
        info = replace(self._info, facts=self._facts)
        etag = self._store.swap(self._path, _encoded(info), self._etag)
        if etag is None:
            # An earlier renewal may have succeeded and its answer been lost: we still hold it then.
            holder, current_etag = _current(self._store, self._path)
            if holder and holder.owner == info.owner:
                etag = self._store.swap(self._path, _encoded(info), current_etag)
        if etag is None:
            where, version = f"{self._store.uri}/{self._path}", self._store.stat(self._path)
            self._lost = _lost(where, taken=version is not None)
            self._on_loss()
        else:
            self._etag = etag


@contextlib.contextmanager
def hold(
    store: Store,
    path: str,
    *,
    silent: str = "",
    job: str = "",
    restarts: int = 0,
    patience_s: float = 0.0,
    on_loss: Callable[[], None] = lambda: None,
) -> Iterator[Lease]:
    """Hold a lease while the block runs.

    Args:
        store: where the lease is.
        path: of the lease.
        silent: the version that a `LeaseWatch` returned for a dead holder; from a holder on another
            host, only this version is taken over.
        job: the scheduler's name for this job, if there is a scheduler.
        restarts: number of earlier starts of this job; the lease of an earlier start is taken over
            even from a living holder, which then may not write any more.
        patience_s: how long to wait for a holder to release it, or to count as dead.
        on_loss: called, in another thread, once the lease was taken over or deleted.

    Raises:
        LeaseTakenError: another process holds it and may be alive.
    """
    watch, deadline = LeaseWatch(), time.monotonic() + patience_s
    while True:
        try:
            lease = _acquire(store, path, silent, job, restarts, on_loss)
            break
        except LeaseTakenError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_S)
        _, silent = watch.look(store, path)
    stop = threading.Event()
    thread = threading.Thread(target=lease.keep, args=(stop,), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        lease.release()


def read(store: Store, path: str) -> LeaseInfo | None:
    """Return the content of a lease, or None if no process holds it."""
    return _current(store, path)[0]


def _acquire(
    store: Store, path: str, silent: str, job: str, restarts: int, on_loss: Callable[[], None]
) -> Lease:
    info = LeaseInfo(
        owner=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_start_time(os.getpid()),
        process_space=_process_space(),
        job=job,
        restarts=restarts,
    )
    for _ in range(_ATTEMPTS):
        holder, etag = _current(store, path)
        precedes = bool(holder and holder.precedes(job, restarts))
        if holder and not (holder.died or precedes or etag == silent):
            raise _taken(store, path, holder)
        own_etag = store.swap(path, _encoded(info), etag)
        if own_etag is not None:
            return Lease(store, path, info, own_etag, on_loss)
        if not precedes:
            break  # another process was quicker
        # An earlier start of this job renewed it in between.
    raise _taken(store, path, read(store, path))


def _lost(where: str, *, taken: bool) -> LeaseLostError:
    if taken:
        return LeaseLostError(
            "another process has taken this trial over",
            where=where,
            fix="nothing: the other process goes on from the last saved state",
        )
    return LeaseLostError(
        "the lease of this trial was deleted, or another process took it over and has ended",
        where=where,
        fix="launch again: it goes on from the last saved state",
    )


def _taken(store: Store, path: str, info: LeaseInfo | None) -> LeaseTakenError:
    who = f"process {info.pid} on {info.host}" if info else "another process"
    return LeaseTakenError(
        f"this trial is held by {who}",
        where=f"{store.uri}/{path}",
        fix="wait for it, or hpt-dist cancel",
    )


def _current(store: Store, path: str) -> tuple[LeaseInfo | None, str | None]:
    """Return a lease, None if it is damaged, and the etag it was read under, None if absent."""
    version = store.stat(path)
    return _read_version(store, version) if version else (None, None)


def _read_version(store: Store, version: ObjectInfo) -> tuple[LeaseInfo | None, str | None]:
    """Return a version of a lease; see `_current`."""
    if version.bytes > _LARGEST_BYTES:
        return None, version.etag
    # Should it change between the two requests, a swap under this etag fails: nothing is lost.
    try:
        data = store.get(version.path)
    except StoreError:  # released in between
        return None, None
    try:
        return _decoded(data), version.etag
    except (ValueError, TypeError, AttributeError):
        return None, version.etag


def _decoded(data: bytes) -> LeaseInfo:
    """Return a lease, of this version of the code or another; some Exception if it is damaged.

    It drops damaged numbers, which are shown to people and computed with.
    """
    document = from_json(data)
    names = {_STORED_NAMES.get(one.name, one.name): one.name for one in fields(LeaseInfo)}
    info = LeaseInfo(**{names[name]: value for name, value in document.items() if name in names})
    texts = (info.owner, info.host, info.started, info.process_space)
    if not all(texts) or not all(text.isprintable() for text in (*texts, info.job)):
        raise ValueError("a lease without the names of its holder")
    if not all(isinstance(n, int) and _is_valid(n) for n in (info.pid, info.restarts)):
        raise ValueError("a lease with damaged numbers")
    return replace(info, facts={name: n for name, n in info.facts.items() if _is_valid(n)})


def _is_valid(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return 0 <= number < _NUMBER_LIMIT


def _encoded(info: LeaseInfo) -> bytes:
    # Jobs in a queue may run older code, which reads the additional fields; the time makes each
    # version differ.
    content = {_STORED_NAMES.get(name, name): value for name, value in asdict(info).items()}
    document = content | {"ttl_s": TTL_S, "renewed": time.time()}
    return json.dumps(document, sort_keys=True).encode()


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Turn a store's failure into a warning: it may answer again before the lease expires."""
    try:
        yield
    except StoreError as error:
        log.warning("the lease could not be renewed: %s", error)


def _start_time(pid: int) -> str:
    """Return the start time of a living process, or an empty string."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    # The name in brackets may hold spaces; field 3 is the state, field 22 the start time.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _process_space() -> str:
    """Return a name for the set of processes visible from here: the boot and the namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
