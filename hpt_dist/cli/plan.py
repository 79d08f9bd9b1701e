"""hpt-dist plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import JsonOption, RecipeArgument, RecipeStoreOption, SetOption
from hpt_dist.cli.requested import planned, profile_file
from hpt_dist.launch import here, on_slurm, survey


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    on: Annotated[
        str,
        typer.Option(
            metavar="WHERE", help="local for this machine, or the profile of a Slurm cluster."
        ),
    ] = "local",
    stand_ins: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML file that describes datasets not yet in the store."
        ),
    ] = None,
    store: RecipeStoreOption = "",
    json_: JsonOption = False,
) -> None:
    """Show for each trial whether it is cached, resumes or runs, and why.

    It starts nothing. Precision follows from the device and is part of a trial's key, so name with
    --on where you will launch.

    \b
    Examples:
      hpt-dist plan recipes/quickstart.yaml
      hpt-dist plan quickstart
      hpt-dist plan recipes/quickstart.yaml --on slurm/profiles/mine.yaml
      hpt-dist plan recipes/real_to_sketch.yaml --stand-ins recipes/stand_ins/domainnet.yaml
    """
    on_here = on == "local"
    device = here.device() if on_here else on_slurm.load(profile_file(on, "local")).device
    prepared = planned(recipe, set_, device, stand_ins, store)
    if json_:
        console.print_json(
            [
                {
                    "trial": t.name,
                    "key": t.key,
                    "views": t.images,
                    "settings": t.document["spec"],
                    "device": t.device,
                    "plugins": t.document.get("plugins", {}),
                }
                | survey.as_json(prepared.states[t.key])
                for t in prepared.trials
            ]
        )
        return
    console.print_plan(prepared.trials, prepared.states, prepared.facts)
