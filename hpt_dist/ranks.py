"""Several processes that train one trial together, on this machine or on the nodes of a job.

Rank 0 is the trial's own process: it holds the lease, saves, and tells the tracker. The others
compute the same with their shares of each batch, and end with it. On one machine it starts them
(`together`); a scheduler starts them all (`hosting`), and those that are there before it wait.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from hpt_dist.errors import HptError, TrainingError

log = logging.getLogger(__name__)

# Of a meeting; wide enough for a node that is slow to start its processes.
_COMING_S = 600.0
_FOR_EVER = timedelta(days=365)
_BEGUN, _HERE = "hpt/begun", "hpt/here"
# What torch says when a process at the other end has gone; no error of its own.
_BROKEN = re.compile(r"onnection (was )?(closed|reset|refused)|gloo|NCCL", re.IGNORECASE)
_GRACE_S = 60.0  # in which a rank notices by itself that another one has died
_LEAVE_S = 10.0  # in which a rank ends after the trial's end


@contextlib.contextmanager
def together(
    ranks: int, threads: int, follow: Callable[[Any], None], argument: Any
) -> Iterator[None]:
    """Be rank 0 of several for as long as the block runs.

    Args:
        ranks: how many processes in all; 1 starts none.
        threads: CPU threads of each.
        follow: what the others run; importable.
        argument: what they are given; picklable.

    Raises:
        TrainingError: another rank died.
    """
    if ranks == 1:
        yield
        return
    common = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(threads),
    }
    context = multiprocessing.get_context("spawn")
    others: list[BaseProcess] = [
        context.Process(target=_follow, args=(rank, common, follow, argument), daemon=True)
        for rank in range(1, ranks)
    ]
    with _environment({**common, "RANK": "0", "LOCAL_RANK": "0"}):
        for other in others:
            other.start()
        ended = threading.Event()
        threading.Thread(target=_end_if_deserted, args=(others, ended), daemon=True).start()
        try:
            yield
        except HptError:
            raise
        except Exception as error:
            if lost := _lost(others):
                raise TrainingError(
                    f"{lost} of this trial's {ranks} processes died",
                    fix="look above for why; launch again to go on from the last saved state",
                ) from error
            raise
        finally:
            ended.set()
            leave()
            _end(others)


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
        ProcessLostError: torch says that the connection to another process broke.
    """
    try:
        yield
    except RuntimeError as error:
        if not _BROKEN.search(str(error)):
            raise
        raise ProcessLostError(
            "another process of this trial ended", fix="look at the logs of its other ranks for why"
        ) from error


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
        return False  # rank 0 has gone; its log, or Slurm, says why


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


def _follow(
    rank: int, common: Mapping[str, str], follow: Callable[[Any], None], argument: Any
) -> None:
    """Be another rank: the entry of its process."""
    os.environ.update(common, RANK=str(rank), LOCAL_RANK=str(rank))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    follow(argument)
    leave()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _end_if_deserted(others: list[BaseProcess], ended: threading.Event) -> None:
    """End this process if another rank has died and the collective call never returns."""
    while not ended.wait(1.0):
        if any(other.exitcode for other in others) and not ended.wait(_GRACE_S):
            log.error("another process of this trial has died; so does this one")
            os.kill(os.getpid(), signal.SIGKILL)


def _lost(others: list[BaseProcess]) -> int:
    """Return how many ranks ended badly; one that just did gets a moment to be seen."""
    wait([other.sentinel for other in others], timeout=2.0)
    return sum(bool(other.exitcode) for other in others)


def _end(others: list[BaseProcess]) -> None:
    patience = time.monotonic() + _LEAVE_S
    for other in others:
        other.join(max(0.0, patience - time.monotonic()))
        if other.is_alive():
            other.kill()
            other.join()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
