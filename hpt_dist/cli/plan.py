"""hpt-dist plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import JsonOption, RecipeArgument, RecipeStoreOption, SetOption
from hpt_dist.cli.requested import planned, profile_file
from hpt_dist.launch import here, on_slurm, survey, totals
from hpt_dist.launch.totals import Known, Totals


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
    only_totals: Annotated[
        bool,
        typer.Option("--totals", help="Print the totals alone, without a line for each trial."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Show for each trial whether it is cached, resumes or runs, and why.

    It starts nothing. Totals end it: images, and hours and storage where the store holds what like
    trials took; what is not known is called unknown.

    Precision follows from the device and is part of a trial's key, so name with
    --on where you will launch.

    \b
    Examples:
      hpt-dist plan recipes/quickstart.yaml
      hpt-dist plan quickstart
      hpt-dist plan recipes/quickstart.yaml --on slurm/profiles/mine.yaml
      hpt-dist plan quickstart --totals
      hpt-dist plan recipes/real_to_sketch.yaml --stand-ins recipes/stand_ins/domainnet.yaml
    """
    on_here = on == "local"
    device = here.device() if on_here else on_slurm.load(profile_file(on, "local")).device
    prepared = planned(recipe, set_, device, stand_ins, store)
    sums = totals.of(prepared)
    if json_ and only_totals:
        console.print_json(sums.as_json())
    elif json_:
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
    else:
        if not only_totals:
            console.print_plan(prepared.trials, prepared.states, prepared.facts)
        else:
            console.print_line(counts(sums))
        for line in costs(sums):
            console.print_line(line)


def counts(sums: Totals) -> str:
    """Return how many trials a plan has, and the image views to train on."""
    noun = "trial" if sums.trials == 1 else "trials"
    counted = f"{sums.trials:,} {noun}: {sums.cached:,} cached, {sums.to_run:,} to run"
    return f"{counted}; {sums.views:,} image views to train on"


def costs(sums: Totals) -> list[str]:
    """Return what is left to do costs in words, a line for each."""
    left = sums.to_run
    evaluated = f"{sums.evaluated.value:,.0f} images at most"
    hours = f"{sums.hours.value:,.2f}, one trial after the other, at the rates of like trials"
    results, states = (
        console.size(round(one.value)) for one in (sums.result_bytes, sums.state_bytes)
    )
    return [
        f"evaluations decode: {_known(evaluated, sums.evaluated, left)}",
        f"hours: {_known(hours, sums.hours, left)}",
        f"results take: {_known(results, sums.result_bytes, left)}",
        f"states, until trials are done: {_known(states, sums.state_bytes, left)}",
        *sums.apart,
    ]


def _known(text: str, known: Known, of_all: int) -> str:
    """Return a sum in words with what it is over; unknown where it is over nothing."""
    unknown = ", ".join(f"{count} of {stage}" for stage, count in known.unknown.items())
    if not unknown:
        return text
    if not known.trials or not known.value:
        return f"unknown ({unknown})"
    return f"{text} ({known.trials} of {of_all} trials; unknown: {unknown})"
