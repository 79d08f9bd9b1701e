"""What identifies and describes a run: plain values, kept in its work folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinalStatus = Literal["FINISHED", "FAILED", "KILLED"]
Status = Literal["RUNNING"] | FinalStatus

# The launch that a run is of, and its store: one key may be in several stores.
LAUNCH_TAG, STORE_TAG = "hpt.launch", "hpt.store"


@dataclass(frozen=True, kw_only=True)
class DatasetInput:
    """A split that a run reads, as MLflow lists it.

    Args:
        name: of the dataset and its split.
        digest: of the dataset's manifest.
        uri: where the dataset lies, without secrets.
        images: of the split.
        classes: of the dataset; 0 without labels.
        context: what the run does with it: training, monitoring, validation or test.
    """

    name: str
    digest: str
    uri: str
    images: int
    classes: int
    context: str


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """The name of a run, and the key that identifies it.

    Args:
        experiment: MLflow experiment; the recipe's name, unless its `mlflow` names another.
        name: shown in the run table.
        key: the trial's key, or the launch's id for a parent run; one key of one store is one run
            of the experiment, however often it restarts.
        parent_run_id: MLflow id of the launch's run.
        tags: flat tags such as `hpt.stage`.
        params: the settings that count, flat; MLflow shows values as text.
        artifact_location: where a new experiment keeps artifacts; None leaves it to the server, or
            to the folder `mlartifacts` beside a SQLite database.
        description: Markdown that MLflow shows above the run; one that a person edited stays.
        datasets: what the run reads.
    """

    experiment: str
    name: str
    key: str
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    artifact_location: str | None = None
    description: str = ""
    datasets: tuple[DatasetInput, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.:-]+", self.key):
            raise ValueError(f"{self.key!r} cannot be the key of the run {self.name}")

    def is_run_of(self, other: RunIdentity) -> bool:
        """Return whether both are one run in MLflow."""
        return (self.experiment, self.key) == (other.experiment, other.key) and (
            self.tags.get(STORE_TAG, "") in ("", other.tags.get(STORE_TAG, ""))
        )
