"""Several processes that train one trial together, on this machine or on the nodes of a job.

Rank 0 is the trial's own process: it holds the lease, saves, and logs to the tracker. The others
compute the same with their shares of each batch, and end with it. A launch on this machine, or a
scheduler, starts them all; those that are there before rank 0 wait to hear whether to begin.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from hpt_dist.errors import HptError, Interrupted, StoreAwayError, TrainingError

# Of a meeting; wide enough for a node that is slow to start its processes.
_COMING_S = 600.0
# Where ranks meet: below the range from which the kernel gives outgoing connections theirs.
PORTS = range(16_384, 32_768)
_FOR_EVER = timedelta(days=365)
_BEGUN, _HERE, _FAILED = "hpt/begun", "hpt/here", "hpt/failed"
_AWAY = "away"
_SAYING_S = 2.0  # in which a rank that failed has said why
# Texts of torch when a process at the other end has gone; it has no error class for that.
_BROKEN = re.compile(r"onnection (was )?(closed|reset|refused)|gloo|NCCL", re.IGNORECASE)


@contextlib.contextmanager
def hosting(ranks: int) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Be rank 0 of processes that a scheduler started, which wait to hear whether to begin.

    MASTER_ADDR and MASTER_PORT say where. Leaving without having begun lets the others end.

    Args:
        ranks: how many processes in all.

    Yields:
        What to call when training begins: a context that lasts as long as it does.

    Raises:
        PortTakenError: another program listens at MASTER_PORT.
        TrainingError: another rank failed; from the context, which says why.
        StoreAwayError: another rank found the store out of reach; from the context too.
    """
    if ranks == 1:
        yield contextlib.nullcontext
        return
    store = _open_store(is_host=True)
    begun = False

    @contextlib.contextmanager
    def begin() -> Iterator[None]:
        nonlocal begun
        begun = True
        store.set(_BEGUN, "yes")
        try:
            with noticing_losses():
                yield
        except ProcessLostError as lost:
            if reason := _reason(store):
                kind = StoreAwayError if reason.pop(_AWAY) else TrainingError
                raise kind(**reason) from lost
            raise
        finally:
            leave()

    try:
        yield begin
    finally:
        if not begun:
            store.set(_BEGUN, "no")
            patience = time.monotonic() + _COMING_S
            while int(store.add(_HERE, 0)) < ranks - 1 and time.monotonic() < patience:
                time.sleep(0.1)


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """Tell the end of another process from a fault of this one.

    Raises:
        ProcessLostError: torch reports that the connection to another process broke.
    """
    try:
        yield
    except RuntimeError as error:
        if not _BROKEN.search(str(error)):
            raise
        raise ProcessLostError(
            "another process of this trial ended", fix="look at the logs of its other ranks for why"
        ) from error


@contextlib.contextmanager
def taking_part() -> Iterator[None]:
    """Be another rank: where this one fails, say so to rank 0, whose error it then is.

    Raises:
        ProcessLostError: see `noticing_losses`.
    """
    try:
        with noticing_losses():
            yield
    except (ProcessLostError, Interrupted):
        raise  # rank 0 has noticed too
    except HptError as error:
        with contextlib.suppress(RuntimeError):
            said = asdict(error.problem) | {_AWAY: isinstance(error, StoreAwayError)}
            _open_store(is_host=False).set(_FAILED, json.dumps(said))
        raise


def _reason(store: Any) -> dict[str, Any] | None:
    """Return the problem of a rank that failed before its connections broke, if one said so.

    With it comes whether the store was away for that rank.
    """
    patience = time.monotonic() + _SAYING_S
    while not store.check([_FAILED]):
        if time.monotonic() > patience:
            return None
        time.sleep(0.1)
    reason: dict[str, Any] = json.loads(store.get(_FAILED))
    return reason


def is_begun() -> bool:
    """Wait, as another rank, for rank 0 to say whether the training begins.

    Raises:
        TrainingError: it cannot be reached.
    """
    try:
        store = _open_store(is_host=False)
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            "rank 0 does not answer",
            where=where,
            fix="see that nodes reach each other by name and port: hpt-dist doctor PROFILE",
        ) from error
    try:
        store.add(_HERE, 1)
        store.wait([_BEGUN], _FOR_EVER)
        return bool(store.get(_BEGUN) == b"yes")
    except RuntimeError:
        return False  # rank 0 has gone; its log, or Slurm, has the reason


class ProcessLostError(TrainingError):
    """Another process of the trial was killed, or failed."""


class PortTakenError(HptError):
    """Another program listens where the ranks were to meet."""


def _open_store(*, is_host: bool) -> Any:
    import torch.distributed as dist

    # torch then meets at the store that is there, as under torchrun, and starts none of its own.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if is_host:
        _check_free(port)
    return dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        is_master=is_host,
        timeout=timedelta(seconds=_COMING_S),
        wait_for_workers=False,
    )


def _check_free(port: int) -> None:
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise PortTakenError(f"port {port} is taken: {error.strerror}") from error


def leave() -> None:
    """Leave the process group, if one was joined."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the variables by which the ranks of one machine know each other, in torch's words.

    Args:
        rank: of the process.
        count: how many there are; one alone needs none of them.
        port: where rank 0 listens; another program may take it before.
    """
    if count == 1:
        return {}
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """Return a port of this machine at which nothing listened a moment ago."""
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port
