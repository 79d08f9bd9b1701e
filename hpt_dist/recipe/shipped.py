"""Files that come with the package and are found by their names: recipes, and cluster profiles.

In the repository they lie where people look, in `recipes/` and `slurm/profiles/`, and the package
has links to these folders. A wheel holds the files themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpt_dist.errors import RequestError, nearest

_RECIPES = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(file.stem for file in _RECIPES.glob("*.yaml"))


def recipe(name: Path | str) -> Path:
    """Return the file of a recipe; see `located`."""
    return located(name, _RECIPES, "recipe")


def located(name: Path | str, folder: Path, kind: str, others: Sequence[str] = ()) -> Path:
    """Return the file that a name stands for.

    Args:
        name: a path; where it has no folder and no such file is here, the name of a shipped file.
        folder: of the shipped files.
        kind: what messages call such a file.
        others: what else would have been right, for the message.

    Raises:
        RequestError: it is no path, and no shipped file has this name.
    """
    path = Path(name)
    try:
        is_path = len(path.parts) != 1 or (path.exists() and not path.is_dir())
    except OSError:  # such as a name that is too long
        is_path = True
    if is_path:
        return path  # its reader reports what is wrong with it
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if path.name not in names:
        raise RequestError(
            f"there is no {kind} {name}",
            allowed=", ".join([*others, *names]) + ", or the path of a YAML file",
            fix=nearest(path.stem, [*others, *names]),
        )
    return folder / f"{path.name}.yaml"
