"""What is kept of launches and finished trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Where = Literal["local", "inline", "slurm"]


@dataclass(frozen=True)
class Launch:
    """The record of one launch, kept in the store.

    Args:
        id: name of the record.
        recipe: name of the recipe.
        file: where the recipe was read.
        created: ISO 8601, UTC.
        trials: trial names to keys, parents first.
        report: the recipe's report settings; empty without.
        settings: the resolved recipe: what was hashed for each trial, by its name.
        where: what runs its trials.
        work: the local work folder.
        tracking_uri: of MLflow.
        parent_run: MLflow run of the launch; empty while MLflow was out of reach.
    """

    id: str
    recipe: str
    file: str
    created: str
    trials: Mapping[str, str]
    report: Mapping[str, Any]
    work: str
    tracking_uri: str
    parent_run: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: Where = "local"


@dataclass(frozen=True)
class Finished:
    """One finished trial.

    Args:
        name: `stage/axis=value,...`.
        key: of the trial.
        result: result.json: stage, kind, axes, seed, images, metrics, details.
        run: run.json: seconds, host, versions.
    """

    name: str
    key: str
    result: dict[str, Any]
    run: dict[str, Any]

    @property
    def origin(self) -> str:
        """The key of the trial that computed its result: another one that read the same, or it."""
        return str(self.run.get("same_as", self.key))
