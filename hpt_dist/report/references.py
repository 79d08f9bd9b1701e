"""How alike compared trials are to a reference among them, as points of a figure. Pure.

A point is a pair: a trial, and a trial of the reference. So a cell of the figure is that of the
reference's row in the matrix of `alike`: pairs of the reference's own trials count once, no trial
is compared with itself, and a reference of one trial has no point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from statistics import fmean

from hpt_dist.evals.evidence import scale_of
from hpt_dist.evals.similarity_tables import is_whole
from hpt_dist.recipe.figures import BEST, Curve
from hpt_dist.report.alike import configurations_of
from hpt_dist.report.cells import names_of
from hpt_dist.report.points import Point, metric_of, stage_and_axes

# The axis that tells pairs of a trial apart: figures average over seeds, and over nothing else.
_PAIRED = "reference.of.seed"

Names = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Reference:
    """What the trials of one comparison are shown against.

    Args:
        compared: names of the trials, in the matrices' order.
        places: those of the reference; none while it is not known.
        says: what it is, or why there is none.
        is_possible: whether it is known, or will be.
    """

    compared: tuple[str, ...]
    places: tuple[int, ...]
    says: str
    is_possible: bool = True

    def others(self, at: int) -> list[int | None]:
        """Return the trials of the reference that make a pair with a trial; None while unknown."""
        if not self.places:
            return [None]
        return [other for other in self.places if other < at or at not in self.places]


def references_of(
    figure: Curve, stage: str, points: Sequence[Point], compared: Names
) -> dict[str, Reference]:
    """Return the reference of each trial of a similarity stage, by the trial's name.

    Args:
        figure: with a reference.
        stage: one of its stages.
        points: all trials of the launch.
        compared: the names of the trials that a trial compares, by its name.
    """
    wanted = str(figure.reference)
    ours = {p.name: tuple(compared(p.name)) for p in points if p.stage == stage}
    return {name: _reference(wanted, names, points) for name, names in ours.items()}


def points_to(
    figure: Curve,
    stage: str,
    points: Sequence[Point],
    references: Mapping[str, Reference],
) -> Iterator[Point]:
    """Yield the pairs of a trial that a stage compares and one of the reference; one while unknown.

    A pair has the trial's axes; what tells comparisons apart beside them, and the stage where
    several are compared, is added as an axis of the similarity stage.

    Args:
        figure: with a reference and a metric.
        stage: one of its stages.
        points: all trials of the launch.
        references: of the stage; see `references_of`.
    """
    by_name = {point.name: point for point in points}
    for own in (by_name[name] for name in references):
        its = references[own.name]
        details = own.finished.result["details"] if own.finished else {}
        matrix = details["matrices"].get(figure.metric) if is_whole(details) else None
        several = len({stage_and_axes(name)[0] for name in its.compared}) > 1
        for at, name in enumerate(its.compared):
            axes = _axes(own, name, several=several)
            computed = by_name[name].computed if name in by_name else frozenset()
            for other in its.others(at):
                pair = Point(name, stage, axes | {_PAIRED: str(other)}, None, computed)
                if own.finished is None or matrix is None or other is None:
                    yield pair
                elif (value := matrix[at][other]) is not None:  # as of errors, where none are made
                    metrics = {str(figure.metric): value}
                    result = own.finished.result | {"metrics": metrics, "details": {}}
                    yield replace(pair, finished=replace(own.finished, result=result))


def said_of(part: Sequence[Point], references: Mapping[str, Reference]) -> str:
    """Return what the points of a panel are shown against, in words."""
    names = {point.name for point in part}
    return "; ".join(names_of(r.says for r in references.values() if names & set(r.compared)))


def _axes(own: Point, name: str, *, several: bool) -> dict[str, str]:
    stage, axes = stage_and_axes(name)
    apart = {axis: value for axis, value in own.axes.items() if axes.get(axis) != value}
    if several:
        apart["of"] = stage
    return axes | {f"{own.stage}.{axis}": value for axis, value in apart.items()}


def _reference(wanted: str, names: tuple[str, ...], points: Sequence[Point]) -> Reference:
    if wanted == BEST:
        return _best(names, points)
    places = tuple(at for at, name in enumerate(names) if fnmatchcase(name, wanted))
    if not places:
        return Reference(names, (), f"no trial that is compared fits {wanted}", is_possible=False)
    _, configurations = configurations_of(names)
    if len({configurations[at] for at in places}) > 1:
        what = f"the trials that fit {wanted} differ in more than their seeds"
        return Reference(names, (), what, is_possible=False)
    return Reference(names, places, f"likeness to {wanted}")


def _best(names: tuple[str, ...], points: Sequence[Point]) -> Reference:
    """Return the configuration that is best on validation, its mean over seeds."""
    ours = {point.name: point for point in points if point.name in names}
    stages = names_of(point.stage for point in ours.values())
    metrics = {metric_of(list(ours.values()), stage, "val") for stage in stages}
    if not ours or any(point.finished is None for point in ours.values()):
        return Reference(names, (), f"likeness to the {BEST}, which is not known yet")
    metric = metrics.pop()
    values = [ours[name].value(metric) if name in ours else None for name in names]
    known = [value for value in values if value is not None]
    if metrics or len(known) < len(names):
        what = f"validation has no {metric} of all that are compared, so none is best"
        return Reference(names, (), what, is_possible=False)
    _, configurations = configurations_of(names)
    places: dict[str, list[int]] = {}
    for at, one in enumerate(configurations):
        places.setdefault(one, []).append(at)
    sign = -1 if scale_of(metric).lower_is_better else 1
    best = max(places, key=lambda one: sign * fmean(known[at] for at in places[one]))
    return Reference(names, tuple(places[best]), f"likeness to {best}, the {BEST}")
