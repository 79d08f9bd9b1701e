"""Published values to print beside ours: HPT, arXiv 2103.12718."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpt_dist.errors import RequestError, nearest


@dataclass(frozen=True)
class PublishedTable:
    """One table of a paper.

    Args:
        name: the value of a recipe's `compare`.
        source: the paper and the table.
        task: what was measured.
        unit: unit of the values.
        axes: for each axis that can name the columns, its value at each column.
        rows: our name of a row to (the paper's name of it, its value at each column).
    """

    name: str
    source: str
    task: str
    unit: str
    axes: Mapping[str, Sequence[int]]
    rows: Mapping[str, tuple[str, Sequence[float]]]


_BUDGETS = {
    "shots": (1, 11, 16, 22, 32, 46, 68),
    "labels": (345, 3795, 5470, 7883, 11362, 16376, 23603),
}


def _table3(target: str, mme: Sequence[float], hpt: Sequence[float]) -> PublishedTable:
    return PublishedTable(
        name=f"paper/table3_real_to_{target}",
        source="HPT (arXiv 2103.12718), table 3",
        task=f"DomainNet real to {target}, EfficientNet-B2, 345 classes, whole target test split",
        unit="%",
        axes=_BUDGETS,
        rows={"base": ("MME", mme), "hpt": ("MME+HPT", hpt)},
    )


TABLES = {
    table.name: table
    for table in (
        _table3(
            "clipart",
            (49.74, 61.11, 63.87, 66.68, 68.01, 69.99, 71.09),
            (57.15, 64.36, 66.67, 68.20, 69.66, 71.47, 72.35),
        ),
        _table3(
            "sketch",
            (41.35, 51.78, 54.90, 57.51, 59.70, 61.36, 62.45),
            (50.17, 56.43, 58.77, 60.72, 62.80, 63.91, 64.90),
        ),
    )
}


def find(name: str) -> PublishedTable:
    """Return a published table.

    Raises:
        RequestError: no table has that name.
    """
    if name not in TABLES:
        raise RequestError(
            f"no published table {name}", allowed=", ".join(TABLES), fix=nearest(name, TABLES)
        )
    return TABLES[name]
