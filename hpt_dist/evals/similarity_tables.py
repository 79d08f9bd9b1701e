"""The tables of a similarity stage's result, from its details as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpt_dist.page import Block, Grid, Heading, Paragraph

_TITLES = {
    "features/rv2": "Pooled features: RV2",
    "features/cka": "Pooled features: linear CKA",
    "flattened/rv2": "Flattened convolutions: RV2",
    "flattened/cka": "Flattened convolutions: linear CKA",
    "outputs/rv2": "Linear outputs: RV2",
    "outputs/cka": "Linear outputs: linear CKA",
    "errors/iou": "Misclassified images: intersection over union",
}


def blocks(details: Mapping[str, Any], level: int = 2) -> list[Block]:
    """Return a table of each matrix, with Welch's test below it where there is one.

    Args:
        details: of the result: trials, matrices and welch.
        level: of the headings.
    """
    names, welch = details["trials"], details.get("welch", {})
    numbers = [str(place) for place in range(1, len(names) + 1)]
    found: list[Block] = []
    matrices = details["matrices"]
    for name in (*_TITLES, *sorted(matrices.keys() - _TITLES.keys())):
        if name not in matrices:
            continue
        rows = [
            [f"{number}. {trial}", *map(_text, row)]
            for number, trial, row in zip(numbers, names, matrices[name], strict=True)
        ]
        found += [Heading(level, _TITLES.get(name, name)), Grid(["trial", *numbers], rows)]
        if name in welch:
            found.append(Paragraph(_in_words(welch[name])))
    return found


def _in_words(welch: Mapping[str, Any]) -> str:
    (first, second), (pairs, others) = welch["means"], welch["pairs"]
    p = "-" if welch["p"] is None else f"{welch['p']:.2g}"
    return (
        f"Means of the groups: {_text(first)} of {pairs} pairs and {_text(second)} of {others}; "
        f"Welch's t {_text(welch['t'])}, p {p}."
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def is_whole(details: Mapping[str, Any]) -> bool:
    """Return whether a result's details hold matrices of all its trials."""
    names: Sequence[str] = details.get("trials", ())
    matrices: Mapping[str, Sequence[Sequence[Any]]] = details.get("matrices", {})
    return bool(names and matrices) and all(
        len(matrix) == len(names) and all(len(row) == len(names) for row in matrix)
        for matrix in matrices.values()
    )
