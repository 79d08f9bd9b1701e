"""Background programs, known by a mark in their environment: no noted PID can be stale."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

# Daemons live where users' search paths do not always lead.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
MARK = "SLURM_DEV_DAEMON"


class ClusterError(Exception):
    """What went wrong and what to do; `exit_code` is 2 where nothing was started for it."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        super().__init__(text)


def find(program: str, first: str = "") -> str | None:
    """Return the path of a program, or None.

    Args:
        program: its name.
        first: folders to look in before those of PATH, separated as there.
    """
    return shutil.which(program, path=f"{first}{os.pathsep}{SEARCH_PATH}" if first else SEARCH_PATH)


def free_ports(count: int) -> list[int]:
    """Return distinct ports that nothing listened on a moment ago.

    They lie below the range from which the kernel gives outgoing connections theirs, so that none
    of these takes one before its server does; and above 16,384 plus the number of a job, where the
    ranks of that job meet.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = 20_480 + secrets.randbelow(12_288)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("", port)))
                ports.append(port)
    return ports


def wait_until(ready: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Return once a condition holds, or raise ClusterError with `what` it was."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.02)


def listens(address: str | Path, port: int = 0) -> bool:
    """Whether something accepts connections at a path, or at an address and port."""
    family = socket.AF_INET if port else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(1)
        probe.connect((str(address), port) if port else str(address))
        return True
    return False


class Processes:
    """The background programs of one folder, among them those that an earlier process started.

    Args:
        folder: an absolute path, the mark by which they are known; logs go to its `log`.
        mortal: whether those that this process starts are killed when it ends, however it ends.
    """

    def __init__(self, folder: Path, *, mortal: bool) -> None:
        self.folder = folder
        self.mortal = mortal
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start a program in a session of its own, with few variables beside those given."""
        kept = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR")
        environment = {key: os.environ[key] for key in kept if key in os.environ}
        environment |= {"PATH": SEARCH_PATH, MARK: f"{self.folder}/{name}"} | dict(variables)
        # The signal comes when the thread ends that started it: call from the main thread only.
        mortal = ["setpriv", "--pdeathsig", "KILL", "--"] if self.mortal else []
        with self.log(name).open("ab") as log:
            self._children[name] = subprocess.Popen(
                [*mortal, *arguments],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, name: str, ready: Callable[[], bool], timeout_s: float = 60) -> None:
        """Return once a program is ready; raise ClusterError with its last words if it ends."""

        def ready_or_dead() -> bool:
            return ready() or self.ended(name)

        try:
            wait_until(ready_or_dead, name, timeout_s)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.last_words(name)}") from None
        if self.ended(name):
            raise ClusterError(f"{name} ended:\n{self.last_words(name)}")

    def ended(self, name: str) -> bool:
        """Whether a program that this object started has ended."""
        child = self._children.get(name)
        return child is not None and child.poll() is not None

    def log(self, name: str) -> Path:
        """Return the file of what a program printed."""
        return self.folder / "log" / f"{name}.out"

    def last_words(self, name: str) -> str:
        """Return the end of what a program printed, after the file's name."""
        file = self.log(name)
        return f"{file}:\n{file.read_text(errors='replace')[-2000:]}" if file.exists() else ""

    def running(self) -> dict[str, int]:
        """Return the PID of each program that runs, by its name."""
        found: dict[str, int] = {}
        for pid, variables in _environments():
            folder, _, name = variables.get(MARK, "").rpartition("/")
            # Workers of a program bear its mark too; it leads the session.
            if folder == str(self.folder) and _session(pid) == pid:
                found[name] = pid
        return found

    def kill(self, name: str) -> None:
        """End one program by SIGKILL, but nothing that it started."""
        pid = self.running().get(name)
        if pid is None:
            raise ClusterError(f"{name} does not run in {self.folder}", 2)
        os.kill(pid, signal.SIGKILL)
        if child := self._children.pop(name, None):
            child.wait()
        wait_until(lambda: not alive(pid), f"the end of {name}")

    def kill_all(self, others: Callable[[int, Mapping[str, str]], bool]) -> None:
        """End the programs by SIGKILL, and whatever runs under or for them.

        Args:
            others: whether a process of this PID and these variables belongs to them too.
        """
        deadline = time.monotonic() + 30
        while left := self._everything(others):
            if time.monotonic() > deadline:
                raise ClusterError(f"these processes do not end: {sorted(left)}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for child in self._children.values():
                child.poll()
            time.sleep(0.02)
        for child in self._children.values():
            child.wait()
        self._children.clear()

    def _everything(self, others: Callable[[int, Mapping[str, str]], bool]) -> set[int]:
        mark = f"{self.folder}/"
        found = {
            pid
            for pid, variables in _environments()
            if variables.get(MARK, "").startswith(mark) or others(pid, variables)
        }
        # Nodes have host names of their own: whoever shares one runs there, whatever its variables.
        names = {_host_names(pid) for pid in found} - {_host_names(os.getpid()), None}
        if names:
            found |= {pid for pid in _pids() if _host_names(pid) in names}
        found |= set(_descendants(found))
        return {pid for pid in found if alive(pid)} - _own()


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def command_line(pid: int) -> str:
    """Return the program and arguments of a process, or its title; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _environments() -> Iterator[tuple[int, dict[str, str]]]:
    for pid in _pids():
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            yield pid, dict(entry.partition("=")[::2] for entry in text.split("\0"))


def _stat(pid: int) -> list[str]:
    """Return state, parent, group, session ... of a process, or nothing."""
    try:
        # The name before may hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _session(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[3]) if stat else None


def _host_names(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")  # noqa: PTH115 - no path but a name
    except OSError:
        return None


def _descendants(roots: Iterable[int]) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if stat := _stat(pid):
            children.setdefault(int(stat[1]), []).append(pid)
    waiting = list(roots)
    while waiting:
        below = children.get(waiting.pop(), [])
        yield from below
        waiting += below


def _own() -> set[int]:
    """Return this process and those above it, such as the shell of whoever asked."""
    own, pid = set(), os.getpid()
    while pid:
        own.add(pid)
        stat = _stat(pid)
        pid = int(stat[1]) if stat else 0
    return own
