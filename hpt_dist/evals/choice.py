"""What validation chooses among candidates. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hpt_dist.errors import DataError, DivergedError
from hpt_dist.evals import evidence
from hpt_dist.page import Block, Grid, Paragraph

_VAL = "val/"


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Args:
        metric: by which.
        chosen: the name of the best candidate.
        index: its place among them.
        values: the metric of each candidate by its name, in the order of the recipe; those that
            diverged are left out.
        margin: the best less the second best, in words; empty without a second.
        diverged: why, by their names.
        beside: what else is known of a candidate, by its name; nothing is chosen by it.
    """

    metric: str
    chosen: str
    index: int
    values: Mapping[str, float]
    margin: str
    diverged: Mapping[str, str]
    beside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def says(self) -> str:
        """All of it in words."""
        scale = evidence.scale_of(self.metric)
        value = scale.text(self.values[self.chosen] * scale.factor)
        count = len(self.values) + len(self.diverged)
        text = f"chose {self.chosen} of {count}: {self.metric} {value} {scale.unit}"
        margin = f"; against the next one: {self.margin}" if self.margin else ""
        return f"{text.rstrip()}{margin}"

    def blocks(self) -> list[Block]:
        """Return it as a part of a page: what was chosen, and every candidate."""
        scale = evidence.scale_of(self.metric)
        more = list(dict.fromkeys(name for found in self.beside.values() for name in found))
        rows = [
            [
                name,
                scale.text(value * scale.factor),
                *(_text(one, self.beside.get(name, {}).get(one)) for one in more),
                "chosen" if name == self.chosen else "",
            ]
            for name, value in self.values.items()
        ]
        rows += [[name, "-", *("-" for _ in more), why] for name, why in self.diverged.items()]
        header = ["candidate", *map(_with_unit, (self.metric, *more)), ""]
        return [Paragraph(f"Validation {self.says}."), Grid(header, rows)]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def _with_unit(metric: str) -> str:
    return f"{metric}, {evidence.scale_of(metric).unit}".removesuffix(", ")


def _text(metric: str, value: float | None) -> str:
    scale = evidence.scale_of(metric)
    return "-" if value is None else scale.text(value * scale.factor)


def choose(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> Choice:
    """Return the candidate that is best on validation; of equals the first.

    Args:
        names: of the candidates, in the order of the recipe.
        results: the result.json of each; all have the metric that they were judged by.

    Raises:
        DivergedError: every candidate diverged.
        DataError: there is no one metric of validation that all have, or one has read test.
    """
    diverged = {
        name: str(result["details"]["out"])
        for name, result in zip(names, results, strict=True)
        if isinstance(result["details"].get("out"), str)
    }
    if len(diverged) == len(names):
        why = "; ".join(f"{name}: {what}" for name, what in diverged.items())
        raise DivergedError(f"every candidate diverged ({why})", fix="give other candidates")
    places = [place for place, name in enumerate(names) if name not in diverged]
    names, results = [names[n] for n in places], [results[n] for n in places]
    metric = _metric(results)
    for name, result in zip(names, results, strict=True):
        if read := [one for one in result["metrics"] if one.startswith(("test/", "published/"))]:
            raise DataError(f"{name} has read test: {', '.join(sorted(read))}")
    values = [result["metrics"][metric] for result in results]
    sign = -1 if evidence.scale_of(metric).lower_is_better else 1
    ranking = sorted(range(len(values)), key=lambda n: (-sign * values[n], n))
    index, margin = ranking[0], ""
    if len(ranking) > 1:
        second = values[ranking[1]]
        margin = _margin(metric, values[index], second, results[index]["details"])
    by_name = dict(zip(names, values, strict=True))
    return Choice(metric, names[index], places[index], by_name, margin, diverged)


def _metric(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the metric of validation by which all candidates were judged."""
    named = {result["details"].get("metric") for result in results} - {None}
    known = set.intersection(*(set(result["metrics"]) for result in results))
    names = {f"{_VAL}{one}" for one in named} or {one for one in known if one.startswith(_VAL)}
    if len(names) != 1 or not names <= known:
        raise DataError(
            "the candidates have no single metric of validation to choose by",
            allowed=", ".join(sorted(known)),
        )
    return names.pop()


def _margin(metric: str, best: float, second: float, details: Mapping[str, Any]) -> str:
    """Return how far the best is before the second, and what the number of images adds."""
    scale, images = evidence.scale_of(metric), details.get("n_val")
    if evidence.is_accuracy(metric) and images:
        compared = evidence.on_images(best, second, int(images), "validation", scale)
        return compared.says.replace("helped by", "better by", 1)  # nothing was done to the next
    return f"{scale.signed((best - second) * scale.factor)}"
