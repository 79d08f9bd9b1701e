"""One writer for each trial: a lease in the store, renewed while its holder lives.

The lease is an object that only compare-and-swap changes, so of several processes one gets it, on
any store. A holder that died on this host is known by its process; one elsewhere, by its silence:
whoever waits watches whether the object changes, by its own clock alone. No two clocks are
compared, and nothing in the lease says how long to wait.
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

from hpt_dist.errors import HptError, StoreError
from hpt_dist.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)

# Each renewal is a request to the store, and there may be thousands of trials.
RENEW_S = 15.0
# Three renewals in a row may fail before others take the holder for dead.
TTL_S = 60.0
_ATTEMPTS = 20
_POLL_S = 0.5
_LARGEST = 10**15


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
        facts: what the holder says of its progress, in numbers.
        job: the scheduler's name for the job that the holder is; empty without a scheduler.
        term: how often the scheduler had started that job before.
    """

    owner: str
    host: str
    pid: int
    started: str
    pids: str
    facts: Mapping[str, float] = field(default_factory=dict)
    job: str = ""
    term: int = 0

    @property
    def on_this_host(self) -> bool:
        """Whether the holder is, or was, a process that this one could see."""
        return self.pids == _pids()

    @property
    def died(self) -> bool:
        """Whether the holder was a process of this host, which is gone.

        Of a holder elsewhere a single look says nothing: see `Watch`.
        """
        return self.on_this_host and self.started != _started(self.pid)

    def precedes(self, job: str, term: int) -> bool:
        """Whether the scheduler has started the holder's job again since.

        It believes the holder dead: the node was lost. The holder may live on there, and write.
        """
        return bool(job) and self.job == job and self.term < term


class Watch:
    """Tells holders on other hosts that renew their leases from those that fell silent.

    Args:
        clock: seconds that never go backwards; this process's own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}

    def look(self, store: Store, path: str) -> tuple[LeaseInfo | None, str]:
        """Look at a lease, as often as every few seconds while waiting for it.

        An unchanged one costs a single request.

        Returns:
            (its living holder, ""); or (None, the version that a dead one left), which `hold` takes
            as `silent`; or (None, "") where nobody holds it.
        """
        found = store.stat(path)
        if found is None:
            return None, ""
        now = self._clock()
        seen = self._seen.get((store.uri, path))
        if seen is None or seen.etag != found.etag:
            holder, etag = _read(store, found)
            if etag is None:
                return None, ""
            seen = self._seen[store.uri, path] = _Seen(holder, etag, now)
        # A watcher that was suspended, or cut off with everybody else, has seen no silence.
        seen.silent_s += min(now - seen.looked, RENEW_S)
        seen.looked = now
        if seen.holder is None or seen.holder.died:
            return None, seen.etag
        if not seen.holder.on_this_host and seen.silent_s >= TTL_S:
            return None, seen.etag
        return seen.holder, ""


@dataclass
class _Seen:
    """What a watch knows of a lease.

    Args:
        holder: None where the lease is damaged.
        etag: the version that says so.
        looked: the clock at the last look.
        silent_s: for how long it was seen to stay the same.
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
        self._lost = ""
        self._lock = threading.Lock()

    @property
    def is_lost(self) -> bool:
        """Whether another process is known to have it."""
        return bool(self._lost)

    def beat(self, **facts: float) -> None:
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
        while not stop.wait(RENEW_S):
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
        info = replace(self._info, facts=self._facts)
        etag = self._store.swap(self._path, _encoded(info), self._etag)
        if etag is None:
            # An earlier renewal may have been written and its answer lost: then it is ours still.
            holder, there = _found(self._store, self._path)
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
    silent: str = "",
    job: str = "",
    term: int = 0,
    patience_s: float = 0.0,
    on_loss: Callable[[], None] = lambda: None,
) -> Iterator[Lease]:
    """Hold a lease while the block runs.

    Args:
        store: where the lease is.
        path: of the lease.
        silent: the version that a `Watch` saw a dead holder leave: only that one is taken over from
            a holder on another host.
        job: the scheduler's name for this job, if there is a scheduler.
        term: how often it had started this job before; the lease of an earlier start is taken over
            even from a living holder, who then may not write any more.
        patience_s: how long to wait for a holder to let go, or to be seen to be dead.
        on_loss: called, in another thread, when somebody else has it.

    Raises:
        LeaseTakenError: another process holds it, and is not known to be dead.
    """
    watch, deadline = Watch(), time.monotonic() + patience_s
    while True:
        try:
            lease = _acquire(store, path, silent, job, term, on_loss)
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
    """Return what a lease says, or None if nobody holds it."""
    return _found(store, path)[0]


def _acquire(
    store: Store, path: str, silent: str, job: str, term: int, on_loss: Callable[[], None]
) -> Lease:
    info = LeaseInfo(
        owner=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        pids=_pids(),
        job=job,
        term=term,
    )
    for _ in range(_ATTEMPTS):
        holder, etag = _found(store, path)
        precedes = bool(holder and holder.precedes(job, term))
        if holder and not (holder.died or precedes or etag == silent):
            raise _taken(store, path, holder)
        mine = store.swap(path, _encoded(info), etag)
        if mine is not None:
            return Lease(store, path, info, mine, on_loss)
        if not precedes:
            break  # somebody else was quicker
        # An earlier start of this job renewed it in between.
    raise _taken(store, path, read(store, path))


def _taken(store: Store, path: str, info: LeaseInfo | None) -> LeaseTakenError:
    who = f"process {info.pid} on {info.host}" if info else "another process"
    return LeaseTakenError(
        f"this trial is held by {who}",
        where=f"{store.uri}/{path}",
        fix="wait for it, or hpt-dist cancel",
    )


def _found(store: Store, path: str) -> tuple[LeaseInfo | None, str | None]:
    """Return a lease, None if it is damaged, and the etag it was read under, None if absent."""
    found = store.stat(path)
    return _read(store, found) if found else (None, None)


def _read(store: Store, found: ObjectInfo) -> tuple[LeaseInfo | None, str | None]:
    """Return the lease that was found; see `_found`."""
    # Should it change between the two requests, a swap under this etag fails: nothing is lost.
    try:
        return _decoded(store.get(found.path)), found.etag
    except StoreError:  # released in between
        return None, None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None, found.etag


def _decoded(data: bytes) -> LeaseInfo:
    """Return a lease, of this version of the code or another; some Exception if it is damaged.

    Of damaged numbers none comes through: they are shown to people, and computed with.
    """
    document = json.loads(data)
    known = {one.name for one in fields(LeaseInfo)}
    info = LeaseInfo(**{name: value for name, value in document.items() if name in known})
    texts = (info.owner, info.host, info.started, info.pids)
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(info.job, str):
        raise TypeError("a lease without the names of its holder")
    if not all(isinstance(n, int) and 0 <= n < _LARGEST for n in (info.pid, info.term)):
        raise ValueError("a lease with damaged numbers")
    return replace(info, facts={name: n for name, n in info.facts.items() if _is_sound(n)})


def _is_sound(number: object) -> bool:
    return isinstance(number, int | float) and 0 <= number < _LARGEST


def _encoded(info: LeaseInfo) -> bytes:
    # What this code does not read is for code of before, which may still be in a queue; the time
    # makes each version another one.
    document = asdict(info) | {"ttl_s": TTL_S, "renewed": time.time()}
    return json.dumps(document, sort_keys=True).encode()


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
