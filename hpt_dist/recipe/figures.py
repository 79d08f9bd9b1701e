"""The figures of a report: what a launch ends with. They change no result and are in no key.

`report:` is one figure or a list of them. The key that names a figure's kind has the stage, or the
stages, whose trials it shows: `{curve: features, rows: init, columns: steps}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from hpt_dist.recipe.claims import ALLOWED, Claim, parse
from hpt_dist.recipe.settings import Spec, misfit

MOST_FIGURES = 50
# What the rows and columns of a similarity stage's matrix are: no name of an axis.
COMPARED = "compared trials"
# A reference that validation decides; no trial's name begins so, as that of a stage has no space.
BEST = "best on validation"
_Name = Annotated[str, Field(min_length=1, max_length=500)]
# A number of a row, or one for each of its columns; with panels, the same for each panel.
Paper = dict[str, JsonValue]


def _several(value: Any) -> Any:
    """Return the stages that were written as one name or as a list."""
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )


Stages = Annotated[
    tuple[_Name, ...],
    BeforeValidator(_several, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=100, description="the stage whose trials it shows, or several"),
]


class Figure(Spec):
    """What every figure has."""

    rows: _Name = Field(description="the sweep axis that makes rows")
    columns: _Name | None = Field(
        None,
        description="the sweep axis that makes columns; null is one column, in which rows are "
        "compared over all seeds",
    )
    panels: _Name | None = Field(
        None, description="the sweep axis of which each value gets a panel of its own"
    )
    metric: _Name | None = Field(
        None, description="null is that by which the stage's val chose, on test"
    )
    baseline: _Name = Field("base", description="the row that the others are compared with")
    median: bool = Field(
        default=False, description="whether a cell is the median of its trials, not their mean"
    )
    title: _Name | None = Field(None, description="null is what it shows, in words")
    compare: _Name | None = Field(None, description="published values to print beside ours")
    paper: Paper | None = Field(
        None,
        description="values to print beside ours, on the printed scale: of each panel (where there "
        "are panels), row and column (where there are columns)",
    )
    paper_source: _Name | None = Field(None, description="where the values of paper are from")
    claims: Annotated[tuple[_Name, ...], Field(max_length=100)] = Field(
        (), description='what to check, such as "hpt at least base on 15 of 16"'
    )

    @property
    def kind(self) -> str:
        """How it is drawn: the key of `FIGURES`."""
        return type(self).__name__.lower()

    @property
    def of_compared(self) -> bool:
        """Whether it is of the trials that a similarity stage compares, not of the stage's own."""
        return False

    @property
    def has_verdicts(self) -> bool:
        """Whether it compares rows with a baseline row: a similarity is neither good nor bad."""
        return not self.of_compared

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose trials it shows."""
        return tuple(getattr(self, self.kind))

    @property
    def has_panels(self) -> bool:
        """Whether its panels have names."""
        return bool(self.panels) or len(self.stages) > 1

    @property
    def depth(self) -> int:
        """How many names lead to one value of `paper`."""
        return self.has_panels + 1 + bool(self.columns and self.columns != self.rows)

    @property
    def checked(self) -> tuple[Claim, ...]:
        """Its claims."""
        return tuple(map(parse, self.claims))

    @property
    def _place(self) -> str:
        """How one value of `paper` is written."""
        names = {1: ("ROW",), 2: ("ROW", "COLUMN"), 3: ("PANEL", "ROW", "COLUMN")}[self.depth]
        if self.depth == 2 and not self.columns:
            names = ("PANEL", "ROW")
        return ": {".join(names) + ": NUMBER" + "}" * (self.depth - 1)

    @field_validator("claims")
    @classmethod
    def _are_claims(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for number, line in enumerate(lines):
            try:
                parse(line)
            except ValueError as error:
                raise misfit(f"{number}", str(error), ALLOWED) from error
        return lines

    @model_validator(mode="after")
    def _fits(self) -> Figure:
        if len(self.stages) > 1 and self.panels:
            what = "several stages are a panel each, so there can be no other panels"
            raise misfit("panels", what, fix="name one stage, or leave panels out")
        if self.paper_source and not self.paper:
            raise misfit("paper_source", "there are no values that it is the source of")
        for path, value in _leaves(self.paper or {}):
            place = ".".join(("paper", *path))
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise misfit(place, f"{value!r} is no number", "a value on the printed scale")
            if len(path) != self.depth:
                raise misfit(place, f"{value} is at no place of this figure", self._place)
        # Tables of before named both; a matrix of compared trials names none.
        if self.columns == self.rows != COMPARED and self.kind != "table":
            raise misfit("columns", f"{self.columns} makes the rows already")
        return self


class Table(Figure):
    """Means with their spread in rows and columns."""

    table: Stages


class Curve(Figure):
    """A line for each row over the columns, such as steps, on a logarithmic axis.

    Of a stage of kind similarity, with a reference: how alike to it each compared trial is, by the
    axes of these trials.
    """

    curve: Stages
    columns: _Name = Field(description="the sweep axis along which the lines go")
    reference: _Name | None = Field(
        None,
        description=f"of a stage of kind similarity: what the trials that it compares are shown "
        f"against: {BEST}, or the trials whose names fit a text, in which * and ? stand for any",
    )

    @property
    def of_compared(self) -> bool:
        """See `Figure`."""
        return self.reference is not None

    @model_validator(mode="after")
    def _fits_reference(self) -> Curve:
        if self.reference is None:
            return self
        if self.reference != BEST and self.reference.split()[:1] == ["best"]:
            what = f"there is no reference {self.reference!r}"
            raise misfit("reference", what, f"{BEST}, or a trial's name with * and ?")
        if self.metric is None:
            raise misfit("metric", "metric is missing", "one of a similarity stage's matrices")
        if self.compare:
            raise misfit("compare", "no published table has similarities", fix="use paper")
        for number, claim in enumerate(self.checked):
            if claim.is_verdict:
                what = "no verdict judges a similarity"
                raise misfit(f"claims.{number}", what, "at least, above, at most, below, within")
        return self


class Bars(Figure):
    """A bar for each row, in a group for each column."""

    bars: Stages


class Delta(Figure):
    """Each row's difference from the baseline with its interval."""

    delta: Stages


class Matrix(Figure):
    """A field of numbers, coloured by their value.

    Of a stage of kind similarity, without rows and columns: the mean over each two configurations
    of the trials that it compares, a panel for each of its matrices.
    """

    matrix: Stages
    rows: _Name = Field(
        COMPARED, description="the sweep axis that makes rows; leave it out for similarity"
    )
    columns: _Name = Field(
        COMPARED, description="the sweep axis that makes columns; leave it out for similarity"
    )

    @property
    def of_compared(self) -> bool:
        """See `Figure`."""
        return self.rows == COMPARED

    @property
    def has_verdicts(self) -> bool:
        """See `Figure`."""
        return False

    @property
    def has_panels(self) -> bool:
        """See `Figure`; of compared trials, each matrix is one."""
        return self.of_compared or super().has_panels

    @property
    def depth(self) -> int:
        """See `Figure`."""
        return 3 if self.of_compared else super().depth

    @model_validator(mode="after")
    def _fits_similarity(self) -> Matrix:
        if COMPARED not in (self.rows, self.columns):
            return self
        for axis, other in (("rows", "columns"), ("columns", "rows")):
            if getattr(self, axis) != COMPARED:
                what = f"{axis} is there, and {other} is missing"
                raise misfit(axis, what, fix="name both, or none for a stage of kind similarity")
        for setting in ("panels", "compare", "claims"):
            if getattr(self, setting):
                what = f"a matrix of compared trials takes no {setting}"
                raise misfit(setting, what, fix=f"leave {setting} out, or name rows and columns")
        return self


class Cost(Figure):
    """The metric against what training cost, in images and hours; a line for each base."""

    cost: Stages
    rows: _Name = Field("init", description="the sweep axis that makes the points of a line")


FIGURES: dict[str, type[Figure]] = {
    spec.__name__.lower(): spec for spec in (Table, Curve, Bars, Delta, Matrix, Cost)
}


def kind_of(raw: Mapping[str, Any]) -> str:
    """Return the kind that a figure's plain data names; empty if it names none or several."""
    named = [kind for kind in FIGURES if kind in raw]
    return named[0] if len(named) == 1 else ""


def recorded(figure: Figure, stages: Sequence[str]) -> dict[str, Any]:
    """Return a figure as plain data; one that has nothing new is as records of before have it.

    Args:
        figure: what a recipe asks for.
        stages: those of its stages that were launched.
    """
    plain = figure.model_dump(mode="json")
    newer = ("panels", "title", "paper", "paper_source", "claims", "reference", "median")
    kept = {key: value for key, value in plain.items() if value or key not in newer}
    return kept | {figure.kind: stages[0] if len(stages) == 1 else list(stages)}


def read(plain: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of a launch's record: one, or a list of them under `figures`.

    Raises:
        ValueError: they are none.
    """
    several = plain.get("figures", [plain] if plain else [])
    if not isinstance(several, list):
        raise ValueError("its figures are no list")  # noqa: TRY004
    found = []
    for one in several:
        kind = kind_of(one) if isinstance(one, Mapping) else ""
        if not kind:
            raise ValueError(f"it lacks one of {', '.join(FIGURES)}")
        found.append(FIGURES[kind].model_validate(one))
    return found


def _leaves(values: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Return (names that lead to it, value) of each value in nested mappings."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [((name, *path), leaf) for path, leaf in _leaves(value)]
        else:
            found.append(((name,), value))
    return found


def paper_values(figure: Figure) -> dict[tuple[str, str, str], float]:
    """Return the figure's own values of a paper by (panel, row, column); empty for one of them."""
    values = _leaves(figure.paper or {})
    return {_placed(path, has_panels=figure.has_panels): value for path, value in values}


def _placed(path: tuple[str, ...], *, has_panels: bool) -> tuple[str, str, str]:
    panel, rest = (path[0], path[1:]) if has_panels else ("", path)
    return panel, rest[0], rest[1] if len(rest) > 1 else ""
