"""A profile: how one Slurm cluster is used, read from YAML with every problem told at once.

What a profile names ends in a batch script, so each value is checked for what could end there as
something else than the name it is. `setup` alone is shell, and meant to be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from hpt_dist.errors import RequestError
from hpt_dist.recipe import Positive, Rate, Spec
from hpt_dist.yaml_document import read, validated

# What a job needs in order to find its programs and to speak its user's language.
_ALWAYS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ")


def _checked(pattern: str, allowed: str) -> AfterValidator:
    """Refuse texts that do not match, saying in words what does."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"this must be {allowed}")
        return text

    return AfterValidator(check)


_Name = Annotated[str, _checked(r"[A-Za-z0-9_][\w.,@+-]*", "a name of letters, digits and _.,@+-")]
_Constraint = Annotated[
    str, _checked(r"[\w.,:&|!*()\[\]-]+", "names of features joined by the signs & | , ! ( ) [ ] *")
]
_Variable = Annotated[
    str, _checked(r"[A-Za-z_][A-Za-z0-9_]*\*?", "the name of a variable, or how names begin and *")
]
_Program = Annotated[str, _checked(r"/[^\x00-\x1f\x7f]*", "an absolute path")]
# Slurm takes % and \ in the path of a log for signs of its own.
_Folder = Annotated[
    str, _checked(r"[/~][^%\\\x00-\x1f\x7f]*", "an absolute path without %, \\ and control signs")
]


class Profile(Spec):
    """How one cluster is used; what is null is left to the cluster's own defaults."""

    partition: _Name | None = Field(None, description="or several, separated by commas")
    account: _Name | None = None
    qos: _Name | None = None
    constraint: _Constraint | None = Field(None, description="features that a node must have")
    time_min: Annotated[int, Field(ge=5)] = Field(
        240, description="limit of one job, minutes; a job that reaches it is queued again"
    )
    memory_gb: Rate | None = Field(None, description="of one job")
    cpus_per_task: Positive = Field(4, description="cores of one job")
    max_parallel_jobs: Positive = Field(16, description="jobs that may run at the same time")
    setup: tuple[str, ...] = Field((), description="lines of shell before each job")
    python: _Program | None = Field(None, description="on the nodes; null is the one running here")
    shared_folder: _Folder | None = Field(
        None, description="for scripts and logs, seen by all nodes; null is <work>/jobs"
    )
    env: tuple[_Variable, ...] = Field(
        ("AWS_*", "HPT_*"), description="variables that jobs get from here, beside PATH and such"
    )

    def exported(self, environment: Mapping[str, str]) -> list[str]:
        """Return the names of an environment's variables that jobs get, sorted."""
        wanted = (*_ALWAYS, *self.env)
        return sorted(n for n in environment if any(fnmatchcase(n, one) for one in wanted))


def load(path: Path | str, environment: Mapping[str, str] | None = None) -> Profile:
    """Read a profile.

    Args:
        path: the YAML file.
        environment: what `${NAME}` and `${NAME:-default}` refer to; the process's by default.

    Raises:
        RequestError: with every problem found, or the file cannot be read.
    """
    document = read(Path(path), os.environ if environment is None else environment, "profile")
    profile = None
    if not document.problems:
        profile = validated(document, Profile, document.tree, ())
    if profile is None:
        problems = document.sorted_problems()
        title = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the profile"
        raise RequestError("\n".join([title, *map(str, problems)]))
    return profile
