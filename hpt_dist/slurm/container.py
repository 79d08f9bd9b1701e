"""How a trial's processes get into a container: the words that Slurm's commands need. Pure.

Three ways, as clusters have them: pyxis, a plugin of Slurm that adds options to srun; Slurm's own
OCI support, which takes an unpacked bundle; and Apptainer, which stands before the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hpt_dist.errors import RequestError
from hpt_dist.recipe import Spec

# Where the images that containers/ makes have their interpreter. It is named by its path, because
# a login shell inside may well reset PATH.
PYTHON = "/opt/venv/bin/python"

# Commas, colons and spaces separate the parts of a mount, or one mount from the next.
_PATH = r"/[^\s,:'\"\\\x00-\x1f\x7f]*"


def matching(pattern: str, allowed: str) -> AfterValidator:
    """Refuse texts that do not match, saying in words what does."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"this must be {allowed}")
        return text

    return AfterValidator(check)


_Mount = Annotated[
    str, matching(rf"{_PATH}(:{_PATH}(:ro|:rw)?)?", "/folder, /folder:/inside or .../inside:ro")
]
_Image = Annotated[
    str,
    matching(
        rf"{_PATH}|[A-Za-z0-9][\w./:@#+-]*",
        "an absolute path without spaces, or for pyxis a name such as registry#image:tag",
    ),
]


class Container(Spec):
    """The image that trials run in, and how this cluster starts it."""

    runtime: Literal["pyxis", "apptainer", "oci"]
    image: _Image = Field(
        description="pyxis: a .sqsh file or an image's name; apptainer: a .sif file; "
        "oci: the folder of an unpacked bundle"
    )
    mounts: tuple[_Mount, ...] = Field(
        (), description="further folders to see inside; those of jobs and stores are added"
    )

    @model_validator(mode="after")
    def _fits_its_runtime(self) -> Container:
        if self.runtime != "pyxis" and not self.image.startswith("/"):
            raise ValueError(f"the image of {self.runtime} is an absolute path")
        if self.runtime == "oci" and self.mounts:
            raise ValueError("an OCI bundle has its mounts inside: containers/bundle --mount ...")
        return self


def srun_arguments(container: Container, folders: Sequence[str], cwd: str) -> list[str]:
    """Return the options of srun by which a step starts in the container.

    Args:
        container: the image.
        folders: absolute paths to see inside at the same place; files too.
        cwd: where its processes start, absolute.

    Raises:
        RequestError: a path cannot be mounted.
    """
    if container.runtime == "oci":
        return [f"--container={container.image}"]
    if container.runtime == "apptainer":
        return []
    arguments = [
        f"--container-image={container.image}",
        f"--container-workdir={cwd}",
        "--no-container-entrypoint",
    ]
    if mounts := _mounts(container, folders):
        arguments.append(f"--container-mounts={','.join(mounts)}")
    return arguments


def python_command(
    container: Container, python: str, folders: Sequence[str], cwd: str, *, gpus: bool
) -> list[str]:
    """Return the words that start the interpreter in a step.

    Args:
        container: the image.
        python: path of the interpreter inside.
        folders: absolute paths to see inside at the same place; files too.
        cwd: where its processes start, absolute.
        gpus: whether it needs the node's NVIDIA driver.

    Raises:
        RequestError: a path cannot be mounted.
    """
    if container.runtime != "apptainer":
        return [python]
    words = ["apptainer", "exec", "--pwd", cwd]
    words += ["--nv"] if gpus else []
    for mount in _mounts(container, folders):
        words += ["--bind", mount]
    return [*words, container.image, python]


def _mounts(container: Container, folders: Sequence[str]) -> list[str]:
    """Return all mounts; a folder that lies in another one, at the same place, needs none."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not re.fullmatch(_PATH, folder):
            raise RequestError(
                f"{container.runtime} cannot mount a path with a comma, colon, space or quote",
                where=repr(folder),
                fix="choose other paths for the store, `shared_folder`, --work and files of "
                "weights and certificates",
            )
        if not any(folder == one or folder.startswith(f"{one.rstrip('/')}/") for one in kept):
            kept.append(folder)
    return [f"{folder}:{folder}" for folder in kept] + [
        mount if ":" in mount else f"{mount}:{mount}" for mount in container.mounts
    ]
