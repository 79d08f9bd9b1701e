"""The report that a recipe asks for, now and when it was launched.

How results are reported changes none of them, so it is in no key: a changed section `report` of a
recipe is followed, and nothing runs again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpt_dist.errors import HptError
from hpt_dist.recipe import figures
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.differences import difference
from hpt_dist.recipe.figures import COMPARED, Figure
from hpt_dist.recipe.file import Recipe
from hpt_dist.report.alike import compared_by
from hpt_dist.report.axes import axis_of
from hpt_dist.report.points import Point, read_points
from hpt_dist.trial.records import Launch

_OPTION = "--set"
_AS_RECORDED = "the report is as the launch recorded it"


def of(recipe: Recipe, stages: Collection[str]) -> dict[str, Any]:
    """Return the report settings of a launch of some stages; empty without a figure of theirs."""
    kept = [
        figures.recorded(figure, there)
        for figure in recipe.report
        if (there := [stage for stage in figure.stages if stage in stages])
    ]
    if not kept:
        return {}
    is_list = isinstance(recipe.document.tree["report"], list)
    return {"figures": kept} if is_list else kept[0]


def by_option(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the report's settings that options gave."""
    if not recipe.report:
        return ()
    if isinstance(recipe.document.tree["report"], list):
        # One of them has no name by which it could be found in a list that has changed.
        places = recipe.document.places.items()
        is_set = any(path[:1] == ("report",) and place == _OPTION for path, place in places)
        return ("figures",) if is_set else ()
    names = type(recipe.report[0]).model_fields
    return tuple(n for n in names if recipe.document.place(("report", n)) == _OPTION)


def followed(launch: Launch, name: str) -> tuple[Launch, str]:
    """Return a launch with the report that its recipe's file asks for now.

    Settings that options gave to the launch stay.

    Args:
        launch: as it was recorded.
        name: by which it was found: of the recipe, its file, or the launch's id, which asks for the
            report as it was recorded.

    Returns:
        The launch, and what differs from its record in words; empty if nothing does.
    """
    file = Path(name if name.endswith((".yaml", ".yml")) else launch.file)
    if name == launch.id or not file.is_file():
        return launch, ""
    try:
        recipe = recipe_file.load(file)
    except HptError as error:
        return launch, f"{_AS_RECORDED}, since {file} cannot be read now: {error}"
    if recipe.name != launch.recipe:
        return launch, ""
    points = read_points(launch.trials, [])
    wanted = of(recipe, {point.stage for point in points})
    if recipe.report and not wanted:
        if not launch.report:  # of a part of the recipe
            return launch, ""
        named = ", ".join(dict.fromkeys(s for figure in recipe.report for s in figure.stages))
        what = f"{file} asks for a figure of {named}, which {launch.id} did not run"
        return launch, f"{_AS_RECORDED}: {what}; to have it, launch again"
    wanted |= {key: launch.report[key] for key in launch.report_set if key in launch.report}
    if "figures" in launch.report_set:
        wanted = dict(launch.report)
    changes = difference(launch.report, wanted)
    unknown = sorted(_unknown_axes(figures.read(wanted), points, launch.settings))
    if changes and unknown:
        what = f"{file} asks for {' and '.join(unknown)}, which {launch.id} did not sweep"
        return launch, f"{_AS_RECORDED}: {what}; to have it, launch again"
    if not changes:
        return launch, ""
    return replace(launch, report=wanted), f"report as in {file} now: {'; '.join(changes)}"


def _unknown_axes(
    wanted: Sequence[Figure], points: Sequence[Point], documents: Mapping[str, Any]
) -> set[str]:
    """Return the axes of figures that no trial of their stages, or none compared, has."""
    found = set()
    for figure in wanted:
        ours = [point for point in points if point.stage in figure.stages]
        if figure.of_compared:
            names = [name for point in ours for name in compared_by(documents, point.name)]
            ours += read_points(dict.fromkeys(names, ""), [])
        named = {figure.rows, figure.columns, figure.panels} - {None, COMPARED}
        found |= {str(axis) for axis in named if not any(axis_of(p, str(axis)) for p in ours)}
    return found
