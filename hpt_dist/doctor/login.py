"""Doctor's look at the login profile of a node, which Slurm reads before each start of a job."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from hpt_dist.doctor.finding import Finding
from hpt_dist.slurm import script

_NAME = "login profile"
# Slurm itself gives up after `GetEnvTimeout`, 120 s in most configurations.
_TIMEOUT_S = 30.0
_SLOW_S = 2.0
_KEPT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TERM")
_FIX = "keep it short, and write what trials need into `setup`"


def profile(environment: Mapping[str, str]) -> Finding:
    """Return how long the login profile takes, and what it sets that trials do not get.

    Args:
        environment: of a process on the node.
    """
    shell = environment.get("SHELL") or "/bin/bash"
    kept = {name: environment[name] for name in _KEPT if name in environment}
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            [shell, "-l", "-c", "env -0"],
            env=kept,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(_NAME, None, f"{shell} cannot read it: {error}", _FIX)
    took_s = time.monotonic() - began_s
    names = [entry.partition("=")[0] for entry in done.stdout.decode(errors="replace").split("\0")]
    dropped = sorted(filter(script.is_left_out, {name for name in names if name not in kept}))
    slow = f"each start of a job waits for it for {took_s:.0f} s" if took_s > _SLOW_S else ""
    sets = f"it sets {', '.join(dropped)}, which trials do not get" if dropped else ""
    message = "; ".join(filter(None, ["jobs read it (su - USER)", slow, sets]))
    return Finding(_NAME, None if slow or sets else True, message, _FIX if slow or sets else "")
