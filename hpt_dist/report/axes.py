"""The trials of a figure by its axes: an inherited one can be named without its stage. Pure.

A row without the axis of the columns, such as the base beside what is trained from it for some
steps, is the same in every column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from hpt_dist.recipe.figures import Figure
from hpt_dist.report.cells import names_of
from hpt_dist.report.points import Point


def axis_of(point: Point, axis: str) -> str:
    """Return the name that a point has for an axis; empty if it has no such axis.

    `steps` stands for `hpt.steps` where the trial starts from `hpt`; where it does not, for the
    only inherited axis of that name.
    """
    if axis in point.axes:
        return axis
    nearest = f"{point.axes.get('init', '')}.{axis}"
    if nearest in point.axes:
        return nearest
    inherited = [name for name in point.axes if name.partition(".")[2] == axis]
    return inherited[0] if len(inherited) == 1 else ""


def numbers_of(names: Sequence[str]) -> list[float] | None:
    """Return names as finite numbers; None if one is no number."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


@dataclass(frozen=True)
class Part:
    """The trials of one panel of a figure.

    Args:
        name: of the panel: a stage, or a value of the panels' axis; empty where there is one.
        stage: the stage of its trials.
        points: its trials, by the figure's own axes.
        constant: the rows that have no such axis as the columns': each is the same in all of them.
    """

    name: str
    stage: str
    points: tuple[Point, ...]
    constant: frozenset[str]


def parts_of(
    points: Sequence[Point],
    stage: str,
    figure: Figure,
    columns: str,
    setting: Callable[[str, str], str],
) -> list[Part]:
    """Return the panels of a stage in a figure.

    Args:
        points: all trials of the launch.
        stage: one that the figure names.
        figure: what is asked for.
        columns: the axis of its columns; empty for one column.
        setting: the value of a setting in what a trial starts from, by the trial's name and the
            setting's; empty without one. It stands for an axis that only other rows sweep.
    """
    ours = [_renamed(_renamed(p, figure.rows), columns) for p in points if p.stage == stage]
    ours = _filled(ours, columns, setting)
    if not figure.panels:
        name = stage if len(figure.stages) > 1 else ""
        return [_part(name, stage, ours, figure.rows, columns)]
    axis = figure.panels
    named = [_renamed(point, axis) for point in ours]
    return [
        _part(
            value,
            stage,
            [_without(p, axis) for p in named if p.axes.get(axis, "") == value],
            figure.rows,
            columns,
        )
        for value in names_of(point.axes.get(axis, "") for point in named) or ("",)
    ]


def _filled(points: Sequence[Point], axis: str, setting: Callable[[str, str], str]) -> list[Point]:
    """Return the trials, those without an axis that others have with the setting in its place."""
    if not any(axis in point.axes for point in points):
        return list(points)
    found = []
    for point in points:
        value = "" if axis in point.axes else setting(point.name, axis)
        found.append(replace(point, axes={**point.axes, axis: value}) if value else point)
    return found


def _part(name: str, stage: str, points: Sequence[Point], rows: str, columns: str) -> Part:
    having = {point.axes.get(rows, "") for point in points if columns in point.axes}
    every = {point.axes.get(rows, "") for point in points}
    constant = frozenset(every - having) if having else frozenset[str]()
    return Part(name, stage, tuple(_spread(points, rows, columns, constant)), constant)


def _spread(
    points: Sequence[Point], rows: str, columns: str, constant: frozenset[str]
) -> Iterator[Point]:
    """Yield each trial, those of constant rows once for each column."""
    values = names_of(point.axes[columns] for point in points if columns in point.axes)
    for point in points:
        if point.axes.get(rows, "") in constant:
            for value in values:
                yield replace(point, axes={**point.axes, columns: value})
        else:
            yield point


def _renamed(point: Point, axis: str) -> Point:
    there = axis_of(point, axis) if axis else axis
    if there in ("", axis):
        return point
    axes = {axis if name == there else name: value for name, value in point.axes.items()}
    return replace(point, axes=axes)


def _without(point: Point, axis: str) -> Point:
    return replace(point, axes={name: v for name, v in point.axes.items() if name != axis})
