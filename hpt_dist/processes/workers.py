"""Many tasks over some fresh child processes, each of which does one at a time."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from hpt_dist.errors import HptError
from hpt_dist.processes import children
from hpt_dist.processes.children import Child

Report = Callable[[Any], None]


@dataclass(frozen=True)
class Answer:
    """What a worker reports of a task.

    Args:
        task: its number.
        value: of its progress, or its result.
        is_last: whether it is the result.
    """

    task: int
    value: Any
    is_last: bool


def fed(
    work: Callable[[Any, Report], Any],
    tasks: Sequence[Any],
    workers: int,
    variables: Mapping[str, str] | None = None,
) -> Generator[Answer, None, None]:
    """Have tasks done by some fresh processes, one at a time each, and yield their answers.

    Close it (`contextlib.closing`), so that no worker outlives an error of its caller.

    Args:
        work: (task, report) -> result: a function of a module; it passes progress to `report`.
        tasks: picklable.
        workers: how many processes.
        variables: the workers' environment; this process's by default.

    Raises:
        NotSentError: a task cannot be sent to another process.
        HptError: what `work` raises, or a worker died.
    """
    waiting = iter(enumerate(tasks))
    busy: dict[Connection, tuple[Child, int]] = {}
    with _workers(work, workers, variables) as free:
        while True:
            for child, (number, task) in zip(list(free), waiting, strict=False):
                free.remove(child)
                _send(child, task)
                busy[child.pipe] = child, number
            if not busy:
                return
            for pipe in wait(list(busy)):
                child, number = busy[pipe]  # type: ignore[index]
                is_last, value = _answer_of(child)
                if is_last:
                    del busy[child.pipe]
                    free.append(child)
                yield Answer(number, value, is_last)


@contextlib.contextmanager
def _workers(
    work: Callable[[Any, Report], Any], count: int, variables: Mapping[str, str] | None
) -> Iterator[list[Child]]:
    started: list[Child] = []
    try:
        started.extend(children.start(_serve, work, variables=variables) for _ in range(count))
        yield list(started)
    finally:
        for child in started:
            child.pipe.close()
        for child in started:
            child.end()


def _serve(pipe: Connection, work: Callable[[Any, Report], Any]) -> None:
    """Do the tasks that the parent sends until there is no parent."""
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):  # the parent is gone
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - unpickling calls anything
            children.send(pipe, children.not_sent(error))
            continue
        try:
            answer: Any = (True, work(task, lambda value: children.send(pipe, (False, value))))
        except HptError as error:
            answer = error
        except Exception:  # noqa: BLE001 - a fault of the program; the parent raises it
            answer = RuntimeError(traceback.format_exc())
        children.send(pipe, answer)


def _send(child: Child, task: object) -> None:
    data = children.pickled(task)
    try:
        child.pipe.send_bytes(data)
    except OSError as error:
        raise _died(child) from error


def _answer_of(child: Child) -> tuple[bool, Any]:
    try:
        message = child.pipe.recv()
    except (EOFError, OSError) as error:
        raise _died(child) from error
    if isinstance(message, BaseException):
        raise message
    answer: tuple[bool, Any] = message
    return answer


def _died(child: Child) -> HptError:
    child.end()
    return HptError(
        f"a worker process ended too early: {child.ending}",
        fix="run the same command again, with fewer --workers if the memory was used up",
    )
