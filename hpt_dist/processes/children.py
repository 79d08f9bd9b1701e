"""Child processes: the only place where the product starts processes that run its own code.

A child runs one importable function with a pipe to its parent. It reads nothing from the terminal
and leaves Ctrl-C to its parent until it listens for signals itself. There are two ways to make one:

- fresh: a new interpreter (`python -m hpt_dist.processes.children`), safe beside threads; it
  imports what it needs, and neither torch nor the caller's main module by itself;
- warm: forked by a server that has imported much already (`multiprocessing`'s forkserver, with
  `hpt_dist.processes.warm`), which spares seconds of imports for each child.

What is computed does not depend on the way.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from hpt_dist.errors import RequestError
from hpt_dist.errors.secrets import without_secrets
from hpt_dist.processes import environment

# A function of a module: called with the child's end of the pipe, and further arguments.
Work = Callable[..., None]

_GRACE_S = 2.0
_STDOUT, _STDERR = 1, 2
_MODULE = "hpt_dist.processes.children"
_WARM = "hpt_dist.processes.warm"
_MAIN_MODULE = threading.Lock()  # held by the thread that has put another in its place


class NotSentError(RequestError):
    """Something cannot be pickled, or not be found again by another process."""


@dataclass(frozen=True)
class Child:
    """A process that this one started.

    Args:
        pipe: our end of the connection; it reads as closed when the process has ended.
        pid: of the process.
        process: what started it.
    """

    pipe: Connection
    pid: int
    process: subprocess.Popen[bytes] | BaseProcess

    @property
    def has_ended(self) -> bool:
        """Whether the process is over; what it sent before can still be received."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll() is not None
        # The server of warm children reports their ends; without it, the kernel does.
        return self.process.exitcode is not None and not _is_running(self.pid)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, or minus the number of the signal that killed it; None while it runs."""
        if not self.has_ended:
            return None
        if isinstance(self.process, subprocess.Popen):
            return self.process.returncode
        return self.process.exitcode

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.exit_code or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process is over."""
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def received(self) -> Iterator[Any]:
        """Yield what the process has sent by now, without waiting."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                yield self.pipe.recv()

    def end(self, patience_s: float = 2 * _GRACE_S) -> None:
        """Close the pipe, by which a mortal child is asked to end; kill it if it does not."""
        self.pipe.close()
        deadline = time.monotonic() + patience_s
        while not self.has_ended and time.monotonic() < deadline:
            time.sleep(0.01)
        self.signal(signal.SIGKILL)
        while not self.has_ended:
            time.sleep(0.01)


def start(
    work: Work,
    *arguments: Any,
    variables: Mapping[str, str] | None = None,
    log: Path | None = None,
    warm: bool = False,
    mortal: bool = True,
) -> Child:
    """Start a process.

    Args:
        work: what it runs: a function of a module that can be imported.
        arguments: of the function after its pipe; picklable.
        variables: all of the process's environment; this one's by default.
        log: a file to which its output is appended. Without one that of a fresh process goes to
            standard error, for what a library prints is no result, and that of a warm one nowhere.
        warm: fork it from a server that has imported what trials need.
        mortal: whether it ends when this process does, however that ends, and is no member of the
            terminal's process group.

    Raises:
        NotSentError: the arguments cannot be sent to another process.
    """
    environ = dict(os.environ if variables is None else variables)
    task = pickled((work, arguments))
    return (_start_warm if warm else _start_fresh)(task, environ, log, mortal)


def _start_fresh(task: bytes, variables: dict[str, str], log: Path | None, mortal: bool) -> Child:
    ours, theirs = multiprocessing.Pipe()
    # A module that holds the function is found where this process found it.
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(theirs)
        output = stack.enter_context(log.open("ab")) if log else _STDERR
        stack.enter_context(_born_deaf())
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), str(int(mortal))],
            env=variables,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if log else _STDERR,
            start_new_session=mortal,
        )
    with contextlib.suppress(OSError):  # who waits for its answer will learn how it ended
        ours.send_bytes(task)
    return Child(ours, process.pid, process)


def _start_warm(task: bytes, variables: dict[str, str], log: Path | None, mortal: bool) -> Child:
    _ensure_server(variables)  # again, for somebody may have killed it
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_be_warm, args=(theirs, task, variables, log, mortal))
    with theirs, _no_main_module():
        process.start()
    return Child(ours, process.pid or 0, process)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Let a warm child not run the caller's main module: a script would call us once more."""
    with _MAIN_MODULE:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def warm_up(variables: Mapping[str, str]) -> threading.Event:
    """Start the server of warm children, unless it runs; it imports in the background.

    Args:
        variables: all of the server's environment: what libraries read when they are loaded.

    Returns:
        What is set once it has imported: who starts a child before that waits as long.
    """
    _ensure_server(variables)
    ready = threading.Event()
    threading.Thread(target=_try_one, args=[ready], daemon=True).start()
    return ready


def _ensure_server(variables: Mapping[str, str]) -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload([_WARM])
    with _born_deaf(), _born_silent(), environment.replaced(variables):
        forkserver.ensure_running()


def _try_one(ready: threading.Event) -> None:
    """Have the server fork a child: it does so when it has imported."""
    try:
        child = multiprocessing.get_context("forkserver").Process(target=_do_nothing)
        with _no_main_module():
            child.start()
        child.join()
    except (OSError, EOFError):  # somebody killed the server; the next start makes another
        pass
    finally:
        ready.set()


def _do_nothing() -> None:
    """Be a child that shows that its server forks."""


@contextlib.contextmanager
def _born_silent() -> Iterator[None]:
    """Let processes be born without our output, or whoever reads it to its end waits for theirs."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("wb"))
        for number in (_STDOUT, _STDERR):
            saved = os.dup(number)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, number)
            os.dup2(nowhere.fileno(), number)
        yield


@contextlib.contextmanager
def _born_deaf() -> Iterator[None]:
    """Let processes be born with Ctrl-C ignored, which reaches the whole process group.

    One that is to answer it sets a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def pickled(value: object) -> bytes:
    """Pickle what goes to a child.

    Raises:
        NotSentError: it holds what another process cannot load.
    """
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise not_sent(error) from error


def not_sent(error: Exception) -> NotSentError:
    """Make the error of what cannot go to another process."""
    return NotSentError(
        f"this cannot be sent to another process: {error}", fix="put it into a module of its own"
    )


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return not state.rpartition(")")[2].startswith(" Z")


# What a child does.


def _be_warm(
    pipe: Connection, task: bytes, variables: dict[str, str], log: Path | None, mortal: bool
) -> None:
    """Be a child that the server forked."""
    os.environ.clear()
    os.environ.update(variables)
    if log:
        with log.open("ab") as file:
            os.dup2(file.fileno(), _STDOUT)
            os.dup2(file.fileno(), _STDERR)
    if mortal:
        os.setsid()
    _run(pipe, task, mortal)


def _be_fresh() -> None:
    """Be a child that has an interpreter of its own."""
    atexit.register(gc.freeze)  # its parent waits for its end
    descriptor, mortal = int(sys.argv[1]), bool(int(sys.argv[2]))
    os.set_inheritable(descriptor, False)
    pipe = Connection(descriptor)
    try:
        task = pipe.recv_bytes()
    except (EOFError, OSError):  # the parent is gone already
        sys.exit()
    _run(pipe, task, mortal)


def _run(pipe: Connection, task: bytes, mortal: bool) -> None:
    if mortal:
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning, which is for the parent
        threading.Thread(target=_end_with_parent, args=[pipe], daemon=True).start()
    try:
        work, arguments = pickle.loads(task)  # noqa: S301 - our parent wrote it
    except Exception as error:  # noqa: BLE001 - unpickling calls anything
        send(pipe, not_sent(error))
        return
    try:
        work(pipe, *arguments)
    except Exception:  # noqa: BLE001 - the interpreter would print it too, with the secrets in it
        sys.stderr.write(without_secrets(traceback.format_exc()))
        sys.exit(1)
    finally:
        if mortal:  # what is left is the interpreter's own end, which would print an exception
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is deleted on the way out, is
    sys.exit()


def send(pipe: Connection, message: object) -> None:
    """Send to the parent; end this process where it is gone."""
    try:
        pipe.send(message)
    except OSError:
        sys.exit()


def _end_with_parent(pipe: Connection) -> NoReturn:
    """Wait until the parent's end of the pipe is closed, then end this process.

    The kernel closes it even for a parent that was killed.
    """
    hang_up = select.poll()
    hang_up.register(pipe.fileno(), 0)
    hang_up.poll()
    os.kill(os.getpid(), signal.SIGTERM)  # an unfinished file is deleted on the way out
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    # As the module that others import: what it defines exists once.
    importlib.import_module(_MODULE)._be_fresh()
