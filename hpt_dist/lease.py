"""One writer for each trial: a lease in the store, renewed while its holder lives.

The lease is an object that only compare-and-swap changes, so of several processes one gets it, on
any store. A holder that died on this host is known by its process; elsewhere, by its silence.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpt_dist.errors import HptError, StoreError
from hpt_dist.store import Store

log = logging.getLogger(__name__)

TTL_S = 60.0
_ATTEMPTS = 20


class LeaseTakenError(HptError):
    """Another process holds the lease."""


class LeaseLostError(HptError):
    """Another process has taken the lease over; this one may not write any more."""


@dataclass(frozen=True)
class LeaseInfo:
    """What a lease says.

    Args:
        owner: a random name; two leases of one process differ.
        host: of the holder.
        pid: of the holder.
        started: start time of that process, clock ticks since boot: pids come again.
        pids: the boot and the process namespace that give the pid its meaning; containers on one
            machine may share its host name, and not its processes.
        ttl_s: silence after which a holder counts as dead.
        renewed: unix time.
        facts: what the holder says of its progress.
        job: the scheduler's name for the job that the holder is; empty without a scheduler.
        term: how often the scheduler had started that job before.
    """

    owner: str
    host: str
    pid: int
    started: str
    pids: str
    ttl_s: float
    renewed: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""
    term: int = 0

    @property
    def on_this_host(self) -> bool:
        """Whether the holder is, or was, a process that this one could see."""
        return self.pids == _pids()

    @property
    def age_s(self) -> float:
        """Seconds since it was renewed, by this host's clock."""
        return time.time() - self.renewed

    @property
    def alive(self) -> bool:
        """Whether the holder lives, as far as can be known from here."""
        if self.on_this_host:
            return self.started == _started(self.pid)
        return self.age_s < self.ttl_s

    def precedes(self, job: str, term: int) -> bool:
        """Whether the scheduler has started the holder's job again since.

        It believes the holder dead: the node was lost. The holder may live on there, and write.
        """
        return bool(job) and self.job == job and self.term < term


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
        self._facts: dict[str, Any] = {}
        self._lost = ""
        self._lock = threading.Lock()

    def beat(self, **facts: Any) -> None:
        """Note progress; the next renewal shows it to others."""
        # Without the lock: training must not wait for a renewal that waits for the store.
        self._facts = {**self._facts, **facts}

    def check(self) -> None:
        """Renew the lease now.

        Raises:
            LeaseLostError: another process has it.
        """
        with self._lock:
            if not self._lost:
                self._renew()
            if self._lost:
                raise LeaseLostError(
                    "another process has taken this trial over",
                    where=f"{self._store.uri}/{self._path}",
                    fix="nothing: the other process goes on from the last saved state",
                )

    def keep(self, stop: threading.Event) -> None:
        """Renew until told to stop; a store that does not answer is asked again."""
        # Progress is worth seeing sooner than the lease needs to be renewed.
        while not stop.wait(min(self._info.ttl_s / 4, 2.0)):
            with self._lock, _tolerated():
                if not self._lost:
                    self._renew()

    def release(self) -> None:
        """Let others have it."""
        with self._lock, _tolerated():
            found = self._store.stat(self._path)
            if not self._lost and found and found.etag == self._etag:
                self._store.delete(self._path)

    def _renew(self) -> None:
        info = LeaseInfo(**asdict(self._info) | {"renewed": time.time(), "facts": self._facts})
        etag = self._store.swap(self._path, _encoded(info), self._etag)
        if etag is None:
            # An earlier renewal may have been written and its answer lost: then it is ours still.
            holder, there = _read(self._store, self._path)
            if holder and holder.owner == info.owner:
                etag = self._store.swap(self._path, _encoded(info), there)
        if etag is None:
            self._lost = "lost"
            self._on_loss()
        else:
            self._etag = etag


@contextlib.contextmanager
def hold(
    store: Store,
    path: str,
    *,
    ttl_s: float = TTL_S,
    job: str = "",
    term: int = 0,
    on_loss: Callable[[], None] = lambda: None,
) -> Iterator[Lease]:
    """Hold a lease while the block runs.

    Args:
        store: where the lease is.
        path: of the lease.
        ttl_s: silence, in seconds, after which processes on other hosts may take it over.
        job: the scheduler's name for this job, if there is a scheduler.
        term: how often it had started this job before; the lease of an earlier start is taken over
            even from a living holder, who then may not write any more.
        on_loss: called, in another thread, when somebody else has it.

    Raises:
        LeaseTakenError: a living process holds it.
    """
    lease = _acquire(store, path, ttl_s, job, term, on_loss)
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
    """Return what a lease says, or None if nobody holds it."""
    return _read(store, path)[0]


def _acquire(
    store: Store, path: str, ttl_s: float, job: str, term: int, on_loss: Callable[[], None]
) -> Lease:
    info = LeaseInfo(
        owner=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        pids=_pids(),
        ttl_s=ttl_s,
        renewed=time.time(),
        job=job,
        term=term,
    )
    for _ in range(_ATTEMPTS):
        holder, etag = _read(store, path)
        precedes = bool(holder and holder.precedes(job, term))
        if holder and holder.alive and not precedes:
            raise _taken(store, path, holder)
        mine = store.swap(path, _encoded(info), etag)
        if mine is not None:
            return Lease(store, path, info, mine, on_loss)
        if not precedes:
            break  # somebody else was quicker
        # An earlier start of this job renewed it in between.
    raise _taken(store, path, read(store, path))


def _taken(store: Store, path: str, info: LeaseInfo | None) -> LeaseTakenError:
    who = (
        f"process {info.pid} on {info.host}, {info.age_s:.0f} s ago" if info else "another process"
    )
    return LeaseTakenError(
        f"this trial is held by {who}",
        where=f"{store.uri}/{path}",
        fix="wait for it, or hpt-dist cancel",
    )


def _read(store: Store, path: str) -> tuple[LeaseInfo | None, str | None]:
    """Return a lease, None if it is damaged, and the etag it was read under, None if absent."""
    found = store.stat(path)
    if found is None:
        return None, None
    # Should it change between the two requests, a swap under this etag fails: nothing is lost.
    try:
        return _decoded(store.get(path)), found.etag
    except StoreError:  # released in between
        return None, None
    except (ValueError, TypeError):
        return None, found.etag


def _decoded(data: bytes) -> LeaseInfo:
    """Return a lease; ValueError or TypeError if it is damaged."""
    info = LeaseInfo(**json.loads(data))
    numbers = (info.renewed, info.ttl_s, info.pid)
    if not all(isinstance(n, int | float) for n in numbers) or not isinstance(info.facts, dict):
        raise TypeError("a lease with values of other types")
    return info


def _encoded(info: LeaseInfo) -> bytes:
    return json.dumps(asdict(info), sort_keys=True).encode()


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Let the holder live through a store that does not answer for a while."""
    try:
        yield
    except StoreError as error:
        log.warning("the lease could not be renewed: %s", error)


def _started(pid: int) -> str:
    """Return the start time of a living process, or an empty string."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    # The name in brackets may hold spaces; field 3 is the state, field 22 the start time.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _pids() -> str:
    """Return a name for the processes that this one can see: its boot and its namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
