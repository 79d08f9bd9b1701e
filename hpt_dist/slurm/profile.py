"""A profile: how one Slurm cluster is used, read from YAML; all problems are reported at once.

What a profile names ends in a batch script, so each value is checked for what could end there as
something else than the name it is. `setup` alone is shell, and meant to be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hpt_dist.errors import RequestError
from hpt_dist.recipe import Positive, Rate, Spec, shipped
from hpt_dist.recipe.numerics import Device
from hpt_dist.recipe.settings import Experiment
from hpt_dist.recipe.validation import validated
from hpt_dist.recipe.yaml_document import KeyPath, read, refuse_variables
from hpt_dist.slurm.container import PYTHON, Container, matching
from hpt_dist.slurm.options import SbatchOptions, left_out

# What a job needs in order to find its programs, to speak its user's language, and to reach the
# MLflow that its order names without the password.
_ALWAYS = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ"),
    "MLFLOW_TRACKING_URI",
)
_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"

_Name = Annotated[str, matching(r"[A-Za-z0-9_][\w.,@+-]*", "a name of letters, digits and _.,@+-")]
_Constraint = Annotated[
    str, matching(r"[\w.,:&|!*()\[\]-]+", "names of features joined by the signs & | , ! ( ) [ ] *")
]
_Variable = Annotated[
    str, matching(r"[A-Za-z_][A-Za-z0-9_]*\*?", "the name of a variable, or how names begin and *")
]
_OneVariable = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable")]
_Program = Annotated[str, matching(r"/[^\x00-\x1f\x7f]*", "an absolute path")]
# Slurm takes % and \ in the path of a log for signs of its own.
_Folder = Annotated[
    str,
    matching(
        r"(/|~/)[^%\\\x00-\x1f\x7f]*",
        "an absolute path, or one that begins with ~/, without %, \\ and control signs",
    ),
]


class Profile(Spec):
    """How one cluster is used; what is null is left to the cluster's own defaults."""

    # Where, and as whom.
    partition: _Name | None = Field(None, description="or several, separated by commas")
    account: _Name | None = None
    qos: _Name | None = None
    constraint: _Constraint | None = Field(None, description="features that a node must have")
    # What a trial gets of it.
    nodes: Positive = Field(1, description="the most that one trial may have")
    gpus_per_node: Annotated[int, Field(ge=0)] = Field(
        0, description="the most that one trial may have of a node; 0 trains on CPUs"
    )
    accelerator: Literal["nvidia", "none"] = Field(
        "nvidia", description="none: the GPUs are not real, as on a development cluster"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="what a stage's `precision: auto` means here; auto is bfloat16 on GPUs and "
        "float32 on CPUs",
    )
    cpus_per_gpu: Positive = Field(4, description="cores of each process of a trial")
    memory_gb: Rate | None = Field(
        None, description="of a node; a job gets the share of its processes"
    )
    time_min: Annotated[int, Field(ge=5)] = Field(
        240, description="limit of one job, minutes; a job that reaches it is queued again"
    )
    # How a trial is stopped and goes on.
    signal_lead_s: Annotated[int, Field(ge=30, le=3600)] = Field(
        120, description="how long before its time limit a job gets the signal to save, seconds"
    )
    requeue_limit: Annotated[int, Field(ge=0)] = Field(
        5, description="restarts in a row that save no progress before a trial is given up"
    )
    store_wait_s: Annotated[int, Field(ge=0, le=3600)] = Field(
        120,
        description="how long a job waits in the queue where the store is out of reach, seconds; "
        "twice as long each time, up to 16 times",
    )
    # What jobs that shard get.
    cpus_per_task: Positive = Field(4, description="cores of a job that shards")
    max_parallel_jobs: Positive = Field(
        16, description="jobs of one array that may run at the same time"
    )
    # What this site needs beside.
    sbatch: SbatchOptions = Field(
        SbatchOptions(), description="further options of sbatch, such as reservation or gres"
    )
    # What its nodes need.
    setup: tuple[str, ...] = Field((), description="lines of shell before each job")
    python: _Program | None = Field(
        None,
        description=f"on the nodes; null is the one running here, in a container {PYTHON}",
    )
    container: Container | None = Field(None, description="null runs on the nodes as they are")
    shared_folder: _Folder | None = Field(
        None, description="for scripts, logs and code, seen by all nodes; null is <work>/jobs"
    )
    env: tuple[_Variable, ...] = Field(
        ("AWS_*", "HPT_*", "MLFLOW_*", "NCCL_*", "GLOO_*"),
        description="variables that jobs get from here, beside PATH and such",
    )
    s3_endpoint: _OneVariable | None = Field(
        None, description="the variable that holds the address of this cluster's S3 server"
    )
    mlflow: _OneVariable | None = Field(
        None, description="the variable that holds the address of this cluster's MLflow server"
    )
    mlflow_experiment: Experiment = Field(
        "",
        description="MLflow's experiment for recipes that name none, where MLFLOW_EXPERIMENT_NAME "
        "is not set",
    )

    @property
    def ranks_per_node(self) -> int:
        """The most processes that a trial may have on one node."""
        return self.gpus_per_node or 1

    @property
    def device(self) -> Device:
        """What trials compute on, and what `precision: auto` means there."""
        return Device(
            kind="gpu" if self.gpus_per_node and self.accelerator == "nvidia" else "cpu",
            precision=None if self.precision == "auto" else self.precision,
            name="this cluster",
        )

    @property
    def interpreter(self) -> str:
        """The path of Python on the nodes, or in their container."""
        return self.python or (PYTHON if self.container else sys.executable)

    def endpoints(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that name this cluster's servers, as the clients know them.

        And MLflow's experiment, unless the environment names one: that is the user's own.

        Raises:
            RequestError: a variable that the profile names is not set.
        """
        named = {"AWS_ENDPOINT_URL_S3": self.s3_endpoint, "MLFLOW_TRACKING_URI": self.mlflow}
        missing = [name for name in named.values() if name and not environment.get(name)]
        if missing:
            raise RequestError(
                f"the profile names {' and '.join(missing)}, and nothing is set",
                fix=f"export {missing[0]}=http://...",
            )
        found = {known: environment[name] for known, name in named.items() if name}
        if self.mlflow_experiment and not environment.get(_EXPERIMENT):
            found[_EXPERIMENT] = self.mlflow_experiment
        return found

    def exported(self, environment: Mapping[str, str]) -> list[str]:
        """Return the names of an environment's variables that jobs get, sorted."""
        return _named(environment, (*_ALWAYS, *self.env))

    def files(self, environment: Mapping[str, str]) -> list[str]:
        """Return the files that variables of jobs name, such as a CA's bundle, absolute."""
        named = [environment[name] for name in _named(environment, self.env)]
        return sorted({value for value in named if value.startswith("/") and _is_file(value)})

    def left_out(self, environment: Mapping[str, str]) -> str:
        """Return which variables sbatch would read and does not get; see `options.left_out`."""
        chosen = (self.partition, self.account, self.qos, self.constraint)
        return left_out(environment, chosen)


def _named(environment: Mapping[str, str], patterns: Sequence[str]) -> list[str]:
    return sorted(n for n in environment if any(fnmatchcase(n, one) for one in patterns))


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def located(name: Path | str, others: Sequence[str] = ()) -> Path:
    """Return the file of a profile; see `shipped.located`."""
    return shipped.located(name, Path(__file__).parent / "profiles", "profile", others)


def load(path: Path | str, environment: Mapping[str, str] | None = None) -> Profile:
    """Read a profile.

    Args:
        path: the YAML file, or the name of a shipped one.
        environment: what `${NAME}` and `${NAME:-default}` refer to; the process's by default.

    Raises:
        RequestError: with every problem found, or the file cannot be read.
    """
    known = os.environ if environment is None else environment
    document = read(located(path), known, "profile", shell_keys=frozenset({"setup"}))
    refuse_variables(document, _is_local, "all settings but those that decide the precision")
    is_yaml = document.tree is not None or not document.problems
    profile = validated(document, Profile, document.tree, ()) if is_yaml else None
    named = profile.sbatch.gpus_named if profile else None
    if profile and named not in (None, profile.gpus_per_node):
        document.problem(
            ("sbatch",),
            f"it names {named} GPUs of a node, and gpus_per_node is {profile.gpus_per_node}",
            fix="write the same number, or the type alone, such as gpu:a100",
        )
    if profile is None or document.problems:
        raise document.refusal()
    return profile


def _is_local(path: KeyPath) -> bool:
    """Return whether a setting changes no trial's key: only the device and its precision do."""
    return path[:1] not in (("gpus_per_node",), ("accelerator",), ("precision",))
