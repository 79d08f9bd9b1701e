"""Worker processes that write shards: started, fed one shard at a time, never left behind.

A worker is a fresh interpreter (`python -m hpt_dist.shard_workers`), which is safe beside threads
and imports neither torch nor the caller's main module. One socket connects it with its parent: it
ends when that closes, which the kernel does even for a parent that was killed. It is no member of
the terminal's process group, so Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from hpt_dist.errors import HptError, RequestError
from hpt_dist.images import Encoding
from hpt_dist.manifest import Quarantined
from hpt_dist.shard_plan import Task
from hpt_dist.shard_writer import Record, write_shard
from hpt_dist.store import Store

Tell = Callable[[int, Sequence[Quarantined]], None]
"""Called with the number of images done since the last call, and those of them left out."""

_TELL_EVERY_S = 0.1
_GRACE_S = 2.0
_STDERR = 2
_MODULE = "hpt_dist.shard_workers"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no numpy here needs more
_NOT_SENT_FIX = "put what reads them into a module of its own, or use one worker"


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_shards(
    tasks: Sequence[Task], dataset: Store, encoding: Encoding, workers: int, tell: Tell
) -> Generator[tuple[Task, Record], None, None]:
    """Write shards, and yield each as it is finished.

    Close it (`contextlib.closing`), so that no worker outlives an error of its caller.

    Args:
        tasks: the shards.
        dataset: the folder of the dataset in its store.
        encoding: how images are stored.
        workers: processes at once; with one, or one task, everything happens in this process.
        tell: called as images are done.

    Raises:
        RequestError: the samples cannot be sent to another process.
        StoreError: the store refused.
        HptError: a worker died.
    """
    workers = min(workers, len(tasks))
    if workers > 1:
        with _started(workers) as processes:
            yield from _fed(processes, tasks, dataset, encoding, tell)
        return
    for task in tasks:
        yield (
            task,
            write_shard(task, dataset, encoding, lambda bad: tell(1, [] if bad is None else [bad])),
        )


@contextlib.contextmanager
def _started(count: int) -> Iterator[dict[Connection, subprocess.Popen[bytes]]]:
    """Start workers; none of them lives on after the block."""
    # A module that holds a sample's `read` is found where this process found it.
    environment = _ONE_THREAD | os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes: dict[Connection, subprocess.Popen[bytes]] = {}
    try:
        for _ in range(count):
            ours, theirs = multiprocessing.Pipe()
            with theirs:
                processes[ours] = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=_STDERR,  # what a library prints is no result
                    start_new_session=True,
                )
        yield processes
    finally:
        for pipe in processes:
            pipe.close()
        for process in processes.values():
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(2 * _GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _fed(
    processes: dict[Connection, subprocess.Popen[bytes]],
    tasks: Sequence[Task],
    dataset: Store,
    encoding: Encoding,
    tell: Tell,
) -> Iterator[tuple[Task, Record]]:
    """Keep every worker busy with one task until there are no more."""
    waiting = iter(tasks)
    busy: dict[Connection, Task] = {}
    free = list(processes)
    while True:
        for pipe, task in zip(free, waiting, strict=False):
            busy[pipe] = task
            _send(pipe, processes[pipe], (task, dataset, encoding))
        free.clear()
        if not busy:
            return
        ready = wait(list(busy))
        for pipe in [pipe for pipe in busy if pipe in ready]:
            message = _receive(pipe, processes[pipe])
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, Record):
                free.append(pipe)
                yield busy.pop(pipe), message
            else:
                tell(*message)


def _send(pipe: Connection, process: subprocess.Popen[bytes], job: object) -> None:
    try:
        data = pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _not_sent(error) from error
    try:
        pipe.send_bytes(data)
    except OSError as error:
        raise _died(process) from error


def _receive(pipe: Connection, process: subprocess.Popen[bytes]) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError) as error:
        raise _died(process) from error


def _not_sent(error: Exception) -> RequestError:
    return RequestError(
        f"the images of this source cannot be sent to worker processes: {error}", fix=_NOT_SENT_FIX
    )


def _died(process: subprocess.Popen[bytes]) -> HptError:
    code = process.wait()
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return HptError(
        f"a worker process ended too early: {cause}",
        fix="run the same command again, with fewer --workers if the memory was used up",
    )


@dataclass
class _Teller:
    """Tells the parent of images every so often, of those left out at once."""

    pipe: Connection
    images: int = 0
    told_s: float = field(default_factory=time.monotonic)

    def after_each(self, bad: Quarantined | None) -> None:
        self.images += 1
        if bad is not None or time.monotonic() - self.told_s >= _TELL_EVERY_S:
            self.tell([] if bad is None else [bad])

    def tell(self, bad: Sequence[Quarantined]) -> None:
        _answer(self.pipe, (self.images, bad))
        self.images, self.told_s = 0, time.monotonic()


def _answer(pipe: Connection, message: object) -> None:
    try:
        pipe.send(message)
    except OSError:  # the parent is gone
        sys.exit()


def _work(pipe: Connection) -> NoReturn:
    """Write the shards that the parent sends until there is no parent."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning, which is for the parent
    threading.Thread(target=_end_with_parent, args=[pipe], daemon=True).start()
    while True:
        try:
            task, dataset, encoding = pipe.recv()
        except EOFError:
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - unpickling calls anything
            _answer(pipe, _not_sent(error))
            continue
        teller = _Teller(pipe)
        try:
            record = write_shard(task, dataset, encoding, teller.after_each)
        except HptError as error:
            _answer(pipe, error)
        except Exception:  # noqa: BLE001 - a fault of the program; the parent raises it
            _answer(pipe, RuntimeError(traceback.format_exc()))
        else:
            teller.tell([])
            _answer(pipe, record)


def _end_with_parent(pipe: Connection) -> NoReturn:
    """Wait until the parent's end of the socket is closed, then end this process."""
    hang_up = select.poll()
    hang_up.register(pipe.fileno(), 0)
    hang_up.poll()
    os.kill(os.getpid(), signal.SIGTERM)  # an unfinished file is deleted on the way out
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    os.set_inheritable(int(sys.argv[1]), False)
    _work(Connection(int(sys.argv[1])))
