"""What is decided once for a cluster's folder, and the files that Slurm reads there."""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from processes import ClusterError, find, free_ports

HERE = Path(__file__).resolve().parent
NODES = {"n1": "127.0.1.1", "n2": "127.0.1.2"}
ACCOUNTING = ("mariadbd", "slurmdbd")
DAEMONS = ("munged", *ACCOUNTING, "slurmctld", *NODES)
SEAWEEDFS = ("master", "volume", "filer", "s3")
SERVICES = (*SEAWEEDFS, *(f"{server}.grpc" for server in SEAWEEDFS), "mlflow")
PORTS = ("slurmdbd", "slurmctld", *NODES, *SERVICES)
# Of a Unix socket's 107 characters Slurm's own names under the run folder take up to 40.
LONGEST_RUN_FOLDER = 66


@dataclass(frozen=True)
class Habits:
    """What other sites have otherwise.

    Args:
        lines: of slurm.conf; each replaces the first that sets the same, or is added.
        names: of the nodes; they have addresses, but no DNS knows names other than n1 and n2.
        gres: whether Slurm knows of GPUs.
        login: what /etc/profile of the nodes holds, where nodes can have files of their own.
    """

    lines: tuple[str, ...] = ()
    names: tuple[str, str] = ("n1", "n2")
    gres: bool = True
    login: str = ""


@dataclass(frozen=True)
class Settings:
    """What is decided once for a folder.

    Args:
        run: the folder of all state, with a path that is short and plain enough for Slurm.
        accounting: whether there are a database and slurmdbd.
        ports: by the name of the daemon or service.
        secret: the key of the S3 server.
        habits: what it has otherwise than most.
    """

    run: str
    accounting: bool
    ports: Mapping[str, int]
    secret: str
    habits: Habits = Habits()

    @property
    def names(self) -> dict[str, str]:
        """The names of the nodes, by those of their daemons."""
        return dict(zip(NODES, self.habits.names, strict=True))


def settle(folder: Path, *, accounting: bool, habits: Habits) -> Settings:
    """Return the settings of a folder; they are made and noted there if it has none.

    Raises:
        ClusterError: the folder holds something else, or its run folder is somebody else's.
    """
    file = folder / "cluster.json"
    if file.exists():
        noted = json.loads(file.read_text())
        told = noted.pop("habits", {})
        habits = Habits(**{name: _tuple(value) for name, value in told.items()})
        found = Settings(**noted, habits=habits)
        _claim(Path(found.run))
        return found
    if folder.exists() and any(folder.iterdir()):
        raise ClusterError(f"{folder} holds something else; choose another --folder", 2)
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    made = Settings(_run_folder(folder), accounting, ports, secrets.token_hex(16), habits)
    draft = file.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(asdict(made), indent=1))
    draft.rename(file)
    return made


def write(settings: Settings) -> None:
    """Make the folders of all daemons and fill in the templates; slurm.conf comes last."""
    run = Path(settings.run)
    for name in ("munge", "state", "pid", "log", "dev", "oci", *(f"spool/{n}" for n in NODES)):
        (run / name).mkdir(parents=True, exist_ok=True)
    # Whoever reaches its socket is the database's root.
    (run / "db").mkdir(mode=0o700, exist_ok=True)
    key = run / "munge/key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    for number in (0, 1):
        gpu = run / f"dev/gpu{number}"
        gpu.unlink(missing_ok=True)
        gpu.symlink_to(os.devnull)
    hosts = Path("/etc/hosts")
    others = hosts.read_text() if hosts.exists() else ""
    ours = "".join(f"{address} {node}\n" for node, address in NODES.items())
    (run / "hosts").write_text(ours + others)
    (run / "profile").write_text(settings.habits.login)
    names = ["cgroup.conf", "slurm.conf", *(["gres.conf"] if settings.habits.gres else [])]
    names += ["oci.conf"] if find("runc") else []
    names += ["slurmdbd.conf"] if settings.accounting else []
    for name in sorted(names, key="slurm.conf".__eq__):
        _fill(settings, name)


def _fill(settings: Settings, name: str) -> None:
    text = (HERE / f"{name}.in").read_text()
    if not settings.accounting:
        text = re.sub(r"(?m)^Accounting.*\n", "", text)
    if name == "slurm.conf":
        text = _otherwise(text, settings)
    host = socket.gethostname().partition(".")[0]
    values = {"RUN": settings.run, "HERE": HERE, "USER": getpass.getuser(), "HOST": host}
    values |= {f"{daemon.upper()}_PORT": port for daemon, port in settings.ports.items()}
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    file = Path(settings.run) / name
    # slurmdbd wants its settings to itself.
    file.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
    file.write_text(text)


def _otherwise(text: str, settings: Settings) -> str:
    """Return slurm.conf with the habits of another site."""
    if not settings.habits.gres:
        text = re.sub(r"(?m)^GresTypes=.*\n| Gres=\S+", "", text)
    for daemon, name in settings.names.items():
        text = re.sub(rf"(?<=NodeName=){daemon} ", f"{name} ", text)
    text = text.replace(f"Nodes={','.join(NODES)}", f"Nodes={','.join(settings.habits.names)}")
    lines = text.splitlines()
    for line in settings.habits.lines:
        name = line.partition("=")[0]
        begins = f"{line.split()[0]} " if name.endswith("Name") else f"{name}="
        there = [number for number, one in enumerate(lines) if one.startswith(begins)]
        lines[slice(there[0], there[0] + 1) if there else slice(len(lines), None)] = [line]
    return "\n".join(lines) + "\n"


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _run_folder(folder: Path) -> str:
    """Return the folder itself, or a new one in /tmp where Slurm could not use its path."""
    if len(str(folder)) <= LONGEST_RUN_FOLDER and re.fullmatch(r"[\w./-]+", str(folder), re.ASCII):
        return str(folder)
    return tempfile.mkdtemp(prefix="slurm-dev-", dir="/tmp")


def _claim(run: Path) -> None:
    """Make a run folder anew that is gone, as all of /tmp is after a reboot."""
    try:
        run.mkdir(mode=0o700)
    except FileExistsError:
        if run.is_symlink() or run.stat().st_uid != os.geteuid():
            raise ClusterError(f"{run} is not yours; remove it, or be its owner", 2) from None
