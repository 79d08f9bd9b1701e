"""Files that come with the package and are found by their names: recipes, and cluster profiles.

In the repository they lie where people look, in `recipes/` and `slurm/profiles/`, and the package
has links to these folders. A wheel holds the files themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpt_dist.errors import RequestError, nearest

_RECIPES = Path(__file__).parent / "recipes"
_PARTS = ("common", "stand_ins")  # folders of what recipes share, and of datasets


def names(folder: Path = _RECIPES) -> list[str]:
    """Return the names of the recipes in the package, such as quickstart or paper/fig5."""
    files = (file.relative_to(folder) for file in folder.rglob("*.yaml"))
    return sorted(
        file.with_suffix("").as_posix() for file in files if file.parent.name not in _PARTS
    )


def recipe(name: Path | str) -> Path:
    """Return the file of a recipe; see `located`."""
    return located(name, _RECIPES, "recipe")


def file_of(name: str) -> Path:
    """Return the file of a shipped recipe by one of `names`."""
    return _RECIPES / f"{name}.yaml"


def located(name: Path | str, folder: Path, kind: str, others: Sequence[str] = ()) -> Path:
    """Return the file that a name stands for.

    Args:
        name: a path; where no such file is here, it may be the name of a shipped one.
        folder: of the shipped files.
        kind: what messages call such a file.
        others: what else would have been right, for the message.

    Raises:
        RequestError: it is no path, and no shipped file has this name.
    """
    path = Path(name)
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError:  # such as a name that is too long
        is_file = True
    known = [] if is_file else names(folder)
    if path.as_posix() in known:
        return folder / f"{path.as_posix()}.yaml"
    if is_file or len(path.parts) != 1:
        return path  # its reader reports what is wrong with it
    raise RequestError(
        f"there is no {kind} {name}",
        allowed=", ".join([*others, *known]) + ", or the path of a YAML file",
        fix=nearest(path.stem, [*others, *known]),
    )
