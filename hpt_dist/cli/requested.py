"""What commands ask for: recipes and profiles by path or name, and a store to write to."""

from __future__ import annotations

from pathlib import Path

from hpt_dist.cli import console
from hpt_dist.launch.survey import Planned, plan_against_store
from hpt_dist.recipe import shipped
from hpt_dist.recipe.numerics import Device
from hpt_dist.slurm.profile import located
from hpt_dist.store import Store, marker


def planned(
    recipe: Path, set_: list[str] | None, device: Device, stand_ins: Path | None = None
) -> Planned:
    """Return the plan of a recipe, given its path or its name in the package; print its doubts."""
    file = _announced(recipe, shipped.recipe(recipe))
    found = plan_against_store(file, set_ or [], stand_ins, device)
    for doubt in found.doubts:
        console.print_note(f"note: {doubt}")
    return found


def begun(store: Store) -> Store:
    """Return a store that a command is about to write to; print if it is a new one."""
    if marker.is_new(store):
        console.print_note(f"new store at {store.uri}")
    return marker.begin(store)


def profile_file(name: str, *others: str) -> str:
    """Return the path of a profile; `others` are the words that the option takes too."""
    return str(_announced(name, located(name, others)))


def _announced(name: Path | str, file: Path) -> Path:
    """Return the path of a recipe or profile; if it was given by its name, print the path."""
    if file != Path(name):
        console.print_note(f"{name} is {file}")
    return file
