"""Replicates of a trial's metrics over resampled images, from which a report pairs trials."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from hpt_dist.store import Store, committed
from hpt_dist.store.committed import REPLICATES
from hpt_dist.store.records import Line
from hpt_dist.trial.records import document

Replicates = Mapping[str, Sequence[float]]  # by metric; NaN is a draw in which it has no value


@dataclass(frozen=True)
class _Document:
    metrics: Mapping[Line, tuple[Annotated[float, Field(ge=0, le=1)] | None, ...]]


def encoded(replicates: Replicates) -> bytes:
    """Return what replicates.json holds: the same bytes for the same numbers."""
    metrics = {
        name: [None if math.isnan(one) else float(one) for one in values]
        for name, values in replicates.items()
    }
    return json.dumps({"metrics": metrics}, sort_keys=True, separators=(",", ":")).encode()


def ends(details: Mapping[str, Any]) -> dict[str, float]:
    """Return the ends of a result's intervals over images, as test/NAME/low and test/NAME/high."""
    return {
        f"{name}/{end}": value
        for name, interval in details.get("intervals", {}).items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }


def read(store: Store, key: str) -> Replicates:
    """Return the replicates of a finished trial; none of a kind or a version that left none.

    Raises:
        StoreError: they are not what was committed.
        DamagedRecordError: they were committed so, but are no shares of 1.
    """
    if REPLICATES not in committed.digests(store, key):
        return {}
    found = document(store, key, REPLICATES, _Document)["metrics"]
    return {
        name: tuple(math.nan if one is None else one for one in values)
        for name, values in found.items()
    }
