"""Slurm's commands, and the scripts that submitit makes for it; nothing here knows of trials."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from hpt_dist.errors import HptError, RequestError, StoreAwayError
from hpt_dist.errors.secrets import without_secrets
from hpt_dist.slurm import container, script
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile
from hpt_dist.slurm.script import AWAY

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Queued:
    """A job, or a task of an array, that is not over.

    Args:
        id: as Slurm's commands take it, such as 12 or 12_3.
        name: of the job.
        state: Slurm's word, such as PENDING or RUNNING.
        reason: why it is pending, Slurm's word.
    """

    id: str
    name: str
    state: str
    reason: str

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.state == "PENDING" and self.reason != "None" else ""
        return f"job {self.id} is {self.state.lower()}{why}"


def job_id() -> str:
    """Return the id of the job that this process is of, as `Queued` has it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def restarts() -> int:
    """Return how often Slurm had started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def go_on(why: str = "") -> None:
    """Ask this job's script to queue the job again, when its processes have ended.

    Args:
        why: what `status` shows of this start.
    """
    _note_of_start("again", why)


@contextmanager
def failures_are_final() -> Iterator[None]:
    """End this process with 1 where the block fails: another start of the job would not help.

    Slurm then ends the job's other processes, by a signal; so their exit codes say nothing. Where
    the store is out of reach another start may help, later.
    """
    try:
        _note_of_start("began")
        yield
    except StoreAwayError as error:
        log.error("%s", error)  # noqa: TRY400 - no bug, so no traceback
        _note_of_start("away", str(error))
        sys.exit(AWAY)
    except Exception as error:  # noqa: BLE001 - any failure is final
        # submitit would write the traceback of a bug as it is, also to a file beside the log.
        log.error("%s", without_secrets(_text_of(error)))  # noqa: TRY400
        says = str(error) if isinstance(error, HptError) else f"{type(error).__name__}: {error}"
        _note_of_start("failed", without_secrets(says))
        sys.exit(1)


def _text_of(error: Exception) -> str:
    """Return the message of an error, or the traceback of a bug."""
    return str(error) if isinstance(error, HptError) else "".join(format_exception(error))


def _note_of_start(what: str, says: str = "") -> None:
    """Leave a file for this job's script, in the folder that submitit names.

    Where that folder is away, this process ends: the script waits for it, and goes on.
    """
    # Named by the start: what lives on of an earlier one must not speak for a later one.
    name = f"{os.environ['SLURM_JOB_ID']}.{restarts()}.{what}"
    file = Path(os.environ["SUBMITIT_FOLDER"]) / name
    try:
        file.write_text(says, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        log.error("%s cannot be written: %s", file, error.strerror)  # noqa: TRY400 - no bug
        sys.exit(AWAY)


def queue() -> list[Queued]:
    """Return this user's jobs, and the tasks of arrays, that are not over.

    Raises:
        HptError: Slurm is not here, or does not answer.
    """
    wanted = ("--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%j")
    rows = [line.split("|", 3) for line in call("squeue", *wanted).splitlines()]
    return [Queued(id_, name, state, reason) for id_, state, reason, name in rows]


def configuration() -> dict[str, str]:
    """Return the settings of `scontrol show config`, by name.

    Raises:
        HptError: Slurm is not here, or does not answer.
    """
    lines = [line.partition("=") for line in call("scontrol", "show", "config").splitlines()]
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


def cancel(job_ids: Sequence[str], *options: str) -> None:
    """End jobs, or with `--signal` send them a signal; one that is over is fine.

    Raises:
        HptError: Slurm does not answer.
    """
    if job_ids:
        call("scancel", "--quiet", *options, *job_ids)


def call(*arguments: str) -> str:
    """Run one of Slurm's commands and return what it printed.

    Raises:
        HptError: it is not here, fails, or does not answer.
    """
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise HptError(
            f"{arguments[0]} is not installed here", fix="run this where jobs are submitted"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HptError(f"{arguments[0]} does not answer", fix="see whether Slurm is up") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise HptError(f"{arguments[0]} failed: {reason}", fix="see whether Slurm is up")
    return done.stdout


@dataclass(frozen=True)
class Step:
    """What one kind of job needs beside its profile.

    Args:
        folder: of its script, pickles and logs.
        placement: nodes, processes, cores and time.
        visible: folders that it needs inside a container.
        code: folder that holds the package; empty for what the interpreter has.
        after: ids of the jobs that have to end well before.
        held: whether to wait for `scontrol release`.
        goes_on: whether a start that ended roughly is worth another one.
    """

    folder: Path
    placement: Placement
    visible: tuple[str, ...] = ()
    code: str = ""
    after: tuple[str, ...] = ()
    held: bool = False
    goes_on: bool = True


def executor(name: str, profile: Profile, step: Step) -> submitit.SlurmExecutor:
    """Return what submits jobs.

    Args:
        name: of the jobs; letters, digits and _.- alone.
        profile: how the cluster is used.
        step: what they need.
    """
    import submitit

    class SlurmExecutor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit has no types
        """One that writes scripts also where there is no Slurm to take them."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    words, options = _python(profile, step)
    made = SlurmExecutor(step.folder, python=shlex.join(words))
    made.update_parameters(
        job_name=name,
        **_resources(profile, step.placement),
        signal_delay_s=profile.signal_lead_s,
        array_parallelism=profile.max_parallel_jobs,
        stderr_to_stdout=True,
        wckey=None,
        setup=script.before(
            profile.setup, step.code, step.placement.cpus_per_rank, profile.exported(os.environ)
        ),
        teardown=script.after(
            step.folder, profile.requeue_limit if step.goes_on else -1, profile.store_wait_s
        ),
        srun_args=["--kill-on-bad-exit=1", "--wait=0", *options],
        additional_parameters={
            **profile.sbatch.for_job(step.placement.gpus_per_node),
            "requeue": True,
            # The limits of the login node, such as `ulimit -t`, are not meant for jobs.
            "propagate": "NONE",
            "export": ",".join(profile.exported(os.environ)),
            "kill-on-invalid-dep": "yes",
            **({"dependency": f"afterok:{':'.join(step.after)}"} if step.after else {}),
            **({"hold": True} if step.held else {}),
        },
    )
    return made


def _resources(profile: Profile, placement: Placement) -> dict[str, Any]:
    memory_gb = placement.memory_gb
    return {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": placement.nodes,
        "ntasks_per_node": placement.ranks_per_node,
        "cpus_per_task": placement.cpus_per_rank,
        "mem": f"{math.ceil(memory_gb * 1024)}MB" if memory_gb else None,
        "time": placement.time_min,
    }


def _python(profile: Profile, step: Step) -> tuple[list[str], list[str]]:
    """Return (the words that start Python, options of srun)."""
    if not profile.container:
        return [profile.interpreter], []
    nvidia = bool(step.placement.gpus_per_node) and profile.accelerator == "nvidia"
    visible, cwd = step.visible, str(step.folder)
    words = container.python_command(
        profile.container, profile.interpreter, visible, cwd, gpus=nvidia
    )
    return words, container.srun_arguments(profile.container, visible, cwd)


def script_of(executor: submitit.SlurmExecutor, count: int) -> str:
    """Return the text that sbatch would get for so many tasks of one array.

    Args:
        executor: what submits them.
        count: how many; one is no array.
    """
    from submitit.slurm import slurm as scripts

    parameters = executor.parameters | ({"map_count": count} if count > 1 else {})
    command = executor._submitit_command_str
    text = scripts._make_sbatch_string(command=command, folder=executor.folder, **parameters)
    return f"{text}\n"


def submit(executor: submitit.SlurmExecutor, tasks: Sequence[Any]) -> list[str]:
    """Submit tasks, as an array if there are several; return the id of each.

    Raises:
        RequestError: Slurm refuses them.
        HptError: its queue is full.
    """
    from submitit.core.utils import FailedJobError

    try:
        with _no_jobs_environment():
            return [job.job_id for job in executor.submit_array(list(tasks))]
    except (FailedJobError, FileNotFoundError) as error:
        if "temporarily" in str(error):
            raise HptError(
                "Slurm's queue is full (MaxJobCount)",
                fix="launch again when jobs have ended; what was submitted until now counts",
            ) from error
        raise RequestError(
            f"sbatch refused the jobs: {error}",
            fix="fix the profile; hpt-dist doctor PROFILE checks it",
        ) from error


@contextmanager
def _no_jobs_environment() -> Iterator[None]:
    """Hide what a job that submits jobs would pass on, but for where the cluster's settings are."""
    import submitit

    settings = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if settings:
            os.environ["SLURM_CONF"] = settings
        yield


def checked_folder(folder: Path) -> Path:
    """Return a folder for logs, made absolute.

    Raises:
        RequestError: Slurm could not write there.
    """
    if re.search(r"[%\\\x00-\x1f\x7f]", str(folder)):
        raise RequestError(
            "Slurm cannot write logs to a folder with %, \\ or control signs in its path",
            where=repr(str(folder)),
            fix="choose another: shared_folder in the profile, or --work",
        )
    return folder.absolute()


def plain(name: str) -> str:
    """Return a name with only what may stand in a job's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
