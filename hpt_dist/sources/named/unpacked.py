"""Find the folder of an unpacked dataset, and report missing files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from hpt_dist.errors import RequestError
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import Label, Sample, file_sample

_Contents = TypeVar("_Contents")

_SHOWN = 8
MORE_TO_UNPACK = "unpack the whole archive again, or download what is missing"


def find(root: Path, required: Sequence[str], inside: Sequence[str] = ()) -> Path:
    """Return the folder that holds the content of an archive.

    Args:
        root: `--root`.
        required: files and folders that must exist in it, by relative path.
        inside: subfolders of `root` that archives create; the first complete one is taken.

    Raises:
        RequestError: neither `root` nor one of them holds everything.
    """
    folders = [root, *(root / name for name in inside)]
    for folder in folders:
        if all((folder / one).exists() for one in required):
            return folder
    nearest = max(folders, key=lambda folder: sum((folder / one).exists() for one in required))
    missing = [one for one in required if not (nearest / one).exists()]
    raise RequestError(
        f"no {', '.join(missing)} in {nearest}, which holds {_contents(nearest)}",
        where="--root",
        allowed=f"a folder with {', '.join(required)}"
        + (f", or with {' or '.join(inside)} around them" if inside else ""),
        fix="name the folder that the dataset was unpacked to; see docs/datasets.md",
    )


def add_image(
    samples: list[Sample],
    problems: Problems,
    folder: Path,
    relative: str,
    split: str,
    label: Label,
    where: str,
) -> None:
    """Add an image that a list names to the samples, or a mistake if the file does not exist.

    Args:
        samples: receives the image.
        problems: receives the mistake.
        folder: of the dataset.
        relative: path of the image below it, with `/`.
        split: see `Sample`.
        label: see `Sample`.
        where: the file:line that names it.
    """
    if (folder / relative).is_file():
        samples.append(file_sample(folder / relative, relative, split, label))
    else:
        problems.add(where, f"no such image: {relative!r}")


def visible(folder: Path) -> list[str]:
    """Return the names in a folder, sorted, without those that start with a dot."""
    return sorted(one.name for one in os.scandir(folder) if not one.name.startswith("."))


def lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a text that are not empty, each after its file:line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be read: {error}", where=str(path)) from error
    numbered = enumerate(text.splitlines(), start=1)
    return [(f"{path}:{number}", line.strip()) for number, line in numbered if line.strip()]


def read_json(file: Path, kind: TypeAdapter[_Contents]) -> _Contents:
    """Read a JSON file.

    Raises:
        RequestError: it cannot be read, or holds something else.
    """
    try:
        return kind.validate_json(file.read_bytes())
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{place} {first['msg']}".strip(), where=str(file)) from error


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "nothing: there is no such folder"
    names = visible(folder)
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more]) or "nothing"
