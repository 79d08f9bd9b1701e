#!/usr/bin/env python3
"""A real Slurm cluster of two nodes on this machine, as whoever starts it.

munge, MariaDB, slurmdbd, slurmctld and two slurmd with fake GPUs, on free ports of the loopback.
The state is in one folder and no service of the system is touched. As root each node has a host
name and an /etc/hosts of its own.

    python3 slurm/dev/cluster.py up [--folder DIR] [--no-accounting] [--no-services]
    python3 slurm/dev/cluster.py status | down [--folder DIR]

Exit codes: 0 done, 1 failed (`status`: something does not run), 2 wrong request.
"""

# ruff: noqa: T201 - this is a command, and prints
from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import configuration
import store_and_tracker
from configuration import ACCOUNTING, DAEMONS, NODES, Habits
from processes import ClusterError, Processes, command_line, find, listens, wait_until

PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
# What a user of Slurm may do here: one account, two qualities of service. Each line waits for many
# small answers of slurmdbd, so those that need no other run at once. root is there already, with
# another default.
ACCOUNTS = (
    ("add cluster dev", "add qos urgent"),
    ("add account dev",),
    ("add user {user} account=dev defaultaccount=dev adminlevel=admin qoslevel=normal,urgent",),
    ("modify user {user} set defaultaccount=dev",),
)


class Cluster:
    """A cluster in a folder, which may run already.

    Args:
        folder: absent, empty or that of a cluster.
        accounting: with slurmdbd, without which `sacct` knows nothing and any account is right.
        habits: what a new cluster has otherwise than most.
        mortal: whether the daemons are killed when this process ends; then call `start` and
            `start_daemon` from its main thread.

    Raises:
        ClusterError: the folder holds something else, or a program is missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        accounting: bool = True,
        habits: Habits = Habits(),  # noqa: B008 - it is frozen
        mortal: bool = False,
    ) -> None:
        self.folder = folder.absolute()
        self.settings = configuration.settle(self.folder, accounting=accounting, habits=habits)
        self.run = Path(self.settings.run)
        self.processes = Processes(self.run, mortal=mortal)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Slurm's commands reach this cluster."""
        return {"SLURM_CONF": str(self.run / "slurm.conf")}

    @property
    def daemons(self) -> tuple[str, ...]:
        """The names of its daemons in the order in which they start."""
        without = () if self.settings.accounting else ACCOUNTING
        return tuple(name for name in DAEMONS if name not in without)

    def prepare(self) -> None:
        """Write what the daemons read, unless it is there.

        Raises:
            ClusterError: a program is missing.
        """
        self._check_programs()
        if not (self.run / "slurm.conf").exists():
            # Who still runs without these files would run for nobody.
            self.processes.kill_all(self._is_task)
            configuration.write(self.settings)

    def start(self) -> None:
        """Start what does not run, and return once both nodes can take jobs."""
        self.prepare()
        running = self.processes.running()
        for name in self.daemons:
            # munge is up long before its first client asks, and the nodes wait for one another.
            if name not in running:
                self._launch(name)
            if name not in ("munged", *NODES):
                self._wait(name)
            if name == "slurmdbd":
                self._add_accounts()
        self._wait_for_nodes()

    def stop(self) -> None:
        """End all daemons and tasks at once, and remove the folder with all state."""
        self.processes.kill_all(self._is_task)
        self._forget_containers()
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_daemon(self, name: str) -> None:
        """Start one of `daemons` that does not run, and return once it listens."""
        if name in self.processes.running():
            raise ClusterError(f"{name} runs already in {self.folder}", 2)
        self._launch(name)
        self._wait(name)

    def kill_daemon(self, name: str) -> None:
        """End one of `daemons` by SIGKILL; the tasks of a node stay."""
        self.processes.kill(name)

    def call(self, *arguments: str | Path) -> str:
        """Run one of Slurm's commands and return what it printed.

        Raises:
            ClusterError: it failed; with what it printed.
        """
        result = subprocess.run(
            [str(argument) for argument in arguments],
            check=False,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode != 0:
            output = (result.stdout + result.stderr).strip()
            raise ClusterError(f"{' '.join(map(str, arguments))}: {output}")
        return result.stdout

    def nodes(self) -> dict[str, str]:
        """Return the state of each node in sinfo's short words, by its name; none if unknown."""
        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
            output = self.call(
                "sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %t"
            )
            return dict(line.split() for line in output.splitlines())
        return {}

    def is_ready(self) -> bool:
        """Whether the controller reaches both nodes and would give them jobs."""
        states = self.nodes()
        bad = ("*", "down", "unk", "fail")
        return states.keys() == set(self.settings.habits.names) and not any(
            mark in state for state in states.values() for mark in bad
        )

    def _check_programs(self) -> None:
        dispensable = () if self.settings.accounting else (*ACCOUNTING, "mariadb-install-db")
        missing = [name for name in PACKAGES if name not in dispensable and find(name) is None]
        if not missing:
            return
        packages = {PACKAGES[name] for name in missing}
        install = f"apt-get install {' '.join(sorted(packages))}"
        text = f"not installed: {', '.join(missing)}\n  do: {install}"
        if packages <= {"mariadb-server", "slurmdbd"}:
            text += ", or go without accounting (--no-accounting)"
        raise ClusterError(text, 2)

    def _launch(self, name: str) -> None:
        if name == "mariadbd" and not (self.run / "db/data").exists():
            self._install_database()
        variables = {"MYSQL_UNIX_PORT": str(self.run / "db/socket")}
        self.processes.start(name, self._command(name), self.environment | variables)

    def _command(self, name: str) -> list[str]:
        run = self.run
        if name == "munged":
            # munged distrusts folders that others may write, and so the whole of /tmp.
            files = [f"--{file}-file={run}/munge/{file}" for file in ("key", "log", "pid", "seed")]
            return ["munged", "--foreground", "--force", f"--socket={run}/munge/socket", *files]
        if name == "mariadbd":
            return [*self._mariadb("mariadbd"), f"--socket={run}/db/socket", "--skip-networking"]
        if name in NODES:
            called = self.settings.names[name]
            node = f"exec slurmd -D -N {called}"
            if _can_unshare():
                own = f"hostname {called} && mount --bind {run}/hosts /etc/hosts"
                if self.settings.habits.login:
                    own += f" && mount --bind {run}/profile /etc/profile"
                return ["unshare", "--uts", "--mount", "sh", "-c", f"{own} && {node}"]
            return ["sh", "-c", node]
        return [name, "-D"]

    def _mariadb(self, program: str) -> list[str]:
        """Return a command on the database; what a power cut would lose is gone anyway."""
        user = ["--user=root"] if os.geteuid() == 0 else []
        small = ("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=8M")
        quick = ("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0")
        return [program, "--no-defaults", *user, f"--datadir={self.run}/db/data", *small, *quick]

    def _install_database(self) -> None:
        draft = self.run / "db/new"
        shutil.rmtree(draft, ignore_errors=True)
        command = [
            "mariadb-install-db" if part == "mariadbd" else part
            for part in self._mariadb("mariadbd")
            if not part.startswith("--datadir")
        ]
        options = ("--auth-root-authentication-method=normal", "--skip-test-db")
        self.call(*command, f"--datadir={draft}", *options)
        draft.rename(self.run / "db/data")

    def _wait(self, name: str) -> None:
        sockets = {"munged": "munge/socket", "mariadbd": "db/socket"}
        if name in sockets:
            self.processes.wait(name, lambda: listens(self.run / sockets[name]))
        else:
            address = NODES.get(name, "127.0.0.1")
            self.processes.wait(name, lambda: listens(address, self.settings.ports[name]))

    def _add_accounts(self) -> None:
        done = self.run / "accounts"
        if done.exists():
            return
        with ThreadPoolExecutor() as pool:
            for lines in ACCOUNTS:
                list(pool.map(self._add, lines))
        done.touch()

    def _add(self, line: str) -> None:
        try:
            self.call("sacctmgr", "--immediate", *line.format(user=getpass.getuser()).split())
        except ClusterError as error:
            # An earlier start that was cut short, or slurmdbd itself, may have added it.
            if "Nothing new added" not in str(error) and "already exist" not in str(error):
                raise

    def _wait_for_nodes(self) -> None:
        def ended() -> bool:
            return any(map(self.processes.ended, self.daemons))

        try:
            wait_until(lambda: self.is_ready() or ended(), "the nodes")
            if not ended():
                return
            error = "some daemons ended"
        except ClusterError as caught:
            error = str(caught)
        words = [self.processes.last_words(name) for name in ("slurmctld", *NODES)]
        raise ClusterError("\n".join([f"the cluster does not start: {error}", *words]))

    def _is_task(self, pid: int, variables: Mapping[str, str]) -> bool:
        """Whether a process runs on a node. A user's shell may name our slurm.conf too."""
        if variables.get("SLURM_CONF") != self.environment["SLURM_CONF"]:
            return False
        # slurmstepd writes its title over most of its variables.
        return "SLURMD_NODENAME" in variables or command_line(pid).startswith("slurmstepd:")

    def _forget_containers(self) -> None:
        """Remove the control groups of containers whose processes are gone."""
        for state in (self.run / "oci").glob("*/state.json"):
            command = ("runc", f"--root={self.run}/oci", "delete", "--force", state.parent.name)
            with contextlib.suppress(ClusterError, OSError):
                self.call(*command)


def _can_unshare() -> bool:
    """Whether a node can have a host name of its own: root may, unless it is in a container."""
    if os.geteuid() != 0:
        return False
    command = ["unshare", "--uts", "--mount", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let no two commands at once work on folders beside each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _up(options: argparse.Namespace) -> int:
    began = time.monotonic()
    cluster = Cluster(options.folder, accounting=options.accounting)
    if cluster.settings.accounting != options.accounting:
        raise ClusterError(f"the cluster in {options.folder} is of the other kind: down first", 2)
    cluster.prepare()
    variables = dict(cluster.environment)
    if options.services:
        store_and_tracker.begin(cluster.processes, cluster.settings)
        variables |= store_and_tracker.variables(cluster.settings)
    cluster.start()
    print(f"Slurm is up: n1 and n2 after {time.monotonic() - began:.1f} s", file=sys.stderr)
    if options.services:
        store_and_tracker.wait(cluster.processes, cluster.settings)
        for name, what in store_and_tracker.PROGRAMS.items():
            if store_and_tracker.program(name) is None:
                print(f"without {what}: no {name} here; do: make venv", file=sys.stderr)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    file = cluster.folder / "env"
    file.touch(mode=0o600)
    file.write_text("".join(lines))
    sys.stdout.write("".join(lines))
    print(f"In each shell that is to use it: . {shlex.quote(str(file))}", file=sys.stderr)
    return 0


def _status(options: argparse.Namespace) -> int:
    cluster = Cluster(options.folder)
    running = cluster.processes.running()
    for name in cluster.daemons:
        print(f"{name:10} {running.pop(name, 'does not run')}")
    for name, pid in running.items():
        print(f"{name:10} {pid}")
    nodes = cluster.nodes() if "slurmctld" in cluster.processes.running() else {}
    for name, state in nodes.items():
        print(f"node {name}: {state}")
    ready = cluster.processes.running().keys() >= set(cluster.daemons) and cluster.is_ready()
    if not ready:
        print("make slurm-up repairs it; logs are in", cluster.run / "log", file=sys.stderr)
    return 0 if ready else 1


def _down(options: argparse.Namespace) -> int:
    Cluster(options.folder).stop()
    print(f"ended what ran for {options.folder}, and removed it", file=sys.stderr)
    return 0


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    helps = {
        _up: "start what does not run, and print the variables for a shell",
        _status: "show what runs",
        _down: "end everything at once and remove its state",
    }
    for command, text in helps.items():
        one = commands.add_parser(command.__name__.strip("_"), help=text)
        one.set_defaults(command=command)
        one.add_argument("--folder", type=Path, default=Path(".slurm-dev"))
        if command is _up:
            one.add_argument("--no-accounting", dest="accounting", action="store_false")
            one.add_argument("--no-services", dest="services", action="store_false")
    options = parser.parse_args()
    try:
        there = (options.folder / "cluster.json").exists()
        if options.command is not _up and not there:
            print(f"there is no cluster in {options.folder}", file=sys.stderr)
            return 0 if options.command is _down else 1
        with _only_one(options.folder.absolute()):
            return int(options.command(options))
    except ClusterError as error:
        print(error, file=sys.stderr)
        if options.command is _up and error.exit_code == 1:
            print("do: make slurm-down, then make slurm-up", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
