"""Several processes of this machine that train one trial together.

Rank 0 is the trial's own process: it holds the lease, saves, and tells the tracker. It starts the
others, which compute the same with their shares of each batch, and which die with it.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from hpt_dist.errors import HptError, TrainingError

log = logging.getLogger(__name__)

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
            _leave()
            _end(others)


def _follow(
    rank: int, common: Mapping[str, str], follow: Callable[[Any], None], argument: Any
) -> None:
    """Be another rank: the entry of its process."""
    os.environ.update(common, RANK=str(rank), LOCAL_RANK=str(rank))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    follow(argument)
    _leave()


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


def _leave() -> None:
    """Leave the process group, if one was joined."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


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
