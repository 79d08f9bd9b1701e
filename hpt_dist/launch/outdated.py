"""Whether a recipe's file asks for other trials now than the launch that its name finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpt_dist.errors import HptError
from hpt_dist.launch.lookup import facts
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.differences import difference
from hpt_dist.recipe.numerics import Device
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch


def since(store: Store, launch: Launch, name: str) -> str:
    """Return what the file asks for now that the launch did not, in words; empty if nothing.

    A file that cannot be planned now says nothing: `plan` does.

    Args:
        store: where the launch ran.
        launch: the one that was found.
        name: by which it was found; what is no recipe's file says nothing.
    """
    file = Path(name)
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return ""
    try:
        recipe = recipe_file.load(file)
        known = facts(recipe, store)
        # Precision follows from the device, and the launch may have been made on another one.
        plans = [plan.make(recipe, replace(known, device=Device(kind))) for kind in ("cpu", "gpu")]
    except HptError:
        return ""
    stages = {trial.partition("/")[0] for trial in launch.trials}
    # A launch may be of some stages only.
    planned = [[trial for trial in trials if trial.stage in stages] for trials in plans]
    changed = min(
        ([one for one in trials if launch.trials.get(one.name) != one.key] for trials in planned),
        key=len,
    )
    if not changed:
        return ""
    first = changed[0]
    before = launch.settings.get(first.name)
    how = difference(before, first.document)[:2] if before else ["new"]
    count = f"{len(changed)} of {len(planned[0])} trials"
    return (
        f"{file} asks for other settings now in {count}, such as {first.name} "
        f"({'; '.join(how)}); this is {launch.id}, which did not run them"
    )
