"""What is kept of launches and finished trials, and the specs by which it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from hpt_dist.recipe import KINDS, figures
from hpt_dist.recipe.metrics import METRICS
from hpt_dist.store import Store, committed, records
from hpt_dist.store.paths import DONE, FAILURE, stage_prefix
from hpt_dist.store.records import SEEN, Count, DamagedRecordError, Line, Name, PathPart, Sha256

Where = Literal["local", "inline", "slurm"]
# `pull` names folders by them.
TrialName = Annotated[str, Field(pattern=f"^[A-Za-z0-9_]{SEEN}*$", max_length=1000)]
# Numbers whose squares can be added.
_Finite = Annotated[float, Field(gt=-1e100, lt=1e100)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Step = Annotated[str, Field(pattern=r"^[0-9]{1,15}$")]
# A share between 0 and 1 as Python writes it.
_Between = Annotated[str, Field(pattern=r"^(0\.[0-9]{1,20}|[0-9](\.[0-9]{1,20})?e-[0-9]{1,3})$")]
_LONGEST_RECIPE = 2**23
_SHARE = re.compile(rf"/({'|'.join(METRICS)}|accuracy)$")


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _is_report(report: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        figures.read(report)
    except ValidationError as error:
        path = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"its report has no such {path or 'figure'}") from error
    return report


def _are_documents(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, document in settings.items():
        if not isinstance(document, dict) or not isinstance(document.get("init", ""), str):
            raise ValueError(f"the settings of {name} are no document")  # noqa: TRY004
    return settings


def _are_metrics(metrics: dict[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if _SHARE.search(name) and not 0 <= value <= 1:
            raise ValueError(f"{name} is no share of 1")
    return metrics


def _is_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no kind of stage {kind}")
    return kind


@dataclass(frozen=True)
class Launch:
    """The record of one launch, kept in the store.

    Args:
        id: name of the record.
        recipe: name of the recipe.
        file: where the recipe was read.
        created: ISO 8601, UTC.
        trials: trial names to keys, parents first.
        report: the recipe's report settings, see `figures.read`; empty without.
        settings: the resolved recipe: what was hashed for each trial, by its name.
        where: what runs its trials.
        work: the local work folder.
        tracking_uri: of MLflow.
        parent_run: MLflow run of the launch; empty while MLflow was out of reach.
        experiment: MLflow's; empty in records of older versions, for one of the recipe's name.
        report_set: the report's settings that options gave, not the recipe's file.
        written: the recipe as it was written, see `recipe.written`; empty in older records.
        options: what `--set` changed of it.
        datasets: the recipe's names of datasets to their names in the store, or full URIs.
    """

    id: PathPart
    recipe: PathPart
    file: Line
    created: Annotated[str, AfterValidator(_is_time)]
    trials: Mapping[TrialName, Sha256]
    report: Annotated[Mapping[str, Any], AfterValidator(_is_report)]
    work: Line
    tracking_uri: Line
    parent_run: Line = ""
    settings: Annotated[Mapping[str, Any], AfterValidator(_are_documents)] = field(
        default_factory=dict
    )
    where: Where = "local"
    experiment: Line = ""
    report_set: tuple[Name, ...] = ()
    written: Annotated[str, Field(max_length=_LONGEST_RECIPE)] = ""
    options: tuple[Annotated[str, Field(max_length=_LONGEST_RECIPE)], ...] = ()
    datasets: Mapping[Line, Line] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """One finished trial.

    Args:
        name: `stage/axis=value,...`.
        key: of the trial.
        result: result.json: stage, kind, axes, seed, images, metrics, details.
        run: run.json: seconds, host, versions.
        replicates: of its metrics over resampled images, by name; none where it left none.
        fault: why its replicates cannot be used; empty where they can.
    """

    name: str
    key: str
    result: dict[str, Any]
    run: dict[str, Any]
    replicates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fault: str = ""

    @property
    def origin(self) -> str:
        """The key of the trial that computed its result: another one that read the same, or it."""
        return str(self.run.get("same_as", self.key))

    @property
    def inputs(self) -> str:
        """The digest of all that it read: two that ran at the same time both computed one result.

        Its origin, where it has noted none: it starts from nothing, or is of an earlier version.
        """
        return str(self.run.get("inputs", self.origin))


@dataclass(frozen=True)
class SpecPart:
    """What readers of spec.json use of it."""

    backbone: Name
    init: str = ""


@dataclass(frozen=True)
class _Verdict:
    says: str = ""


@dataclass(frozen=True)
class _Welch:
    means: tuple[_Finite | None, _Finite | None]
    pairs: tuple[Count, Count]
    t: _Finite | None
    df: _Finite | None
    p: _Finite | None


@dataclass(frozen=True)
class _Choice:
    metric: Line
    chosen: Line
    index: Count
    values: Mapping[Line, _Finite]
    margin: str
    diverged: Mapping[Line, str]
    beside: Mapping[Line, Mapping[Line, _Finite]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Details:
    """What reports use of a result's details: verdicts, choices, looks, images of each split."""

    intervals: Mapping[Line, tuple[_Share, _Share]] = field(default_factory=dict)
    gate: _Verdict = field(default_factory=_Verdict)
    forgetting: _Verdict = field(default_factory=_Verdict)
    kept_step: Count | None = None
    kept_average: _Share | None = None
    averages: Mapping[_Between, Mapping[Line, _Finite]] = field(default_factory=dict)
    collapsed: tuple[str, ...] = ()
    choice: _Choice | None = None
    untrained: Mapping[Line, _Finite] = field(default_factory=dict)
    trials: tuple[Line, ...] = ()
    matrices: Mapping[Line, tuple[tuple[_Finite | None, ...], ...]] = field(default_factory=dict)
    welch: Mapping[Line, _Welch] = field(default_factory=dict)
    monitor: Mapping[Annotated[str, Field(pattern=r"^[0-9]{1,15}$")], Mapping[Line, _Finite]] = (
        field(default_factory=dict)
    )
    change: Mapping[Line, _Finite] = field(default_factory=dict)
    pool_images: Count = 0
    licence: str = ""
    protocol: Literal["disjoint", "transductive", "published"] = "disjoint"
    n_train: Count | None = None
    n_val: Count | None = None
    n_test: Count | None = None
    n_published: Count | None = None
    n_labelled: Count | None = None
    n_unlabelled: Count | None = None


@dataclass(frozen=True)
class ResultPart:
    """What readers of result.json use of it."""

    kind: Annotated[str, AfterValidator(_is_kind)]
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)]
    images: Count
    metrics: Annotated[dict[Line, _Finite], AfterValidator(_are_metrics)]
    details: _Details
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunPart:
    """What readers of run.json use of it."""

    seconds: Annotated[_Finite, Field(ge=0)]
    host: str = ""
    numerics: str = ""
    same_as: Sha256 = ""
    stores: Mapping[Line, Line] = field(default_factory=dict)
    inputs: Sha256 = ""
    device: str = ""
    state_bytes: Count | None = None


def document(store: Store, key: str, name: str, part: type[Any]) -> dict[str, Any]:
    """Return a JSON object of a finished trial, its digest checked.

    Args:
        store: the root of the store.
        key: of the trial.
        name: spec.json, result.json or run.json.
        part: the spec of what its reader uses of it.

    Raises:
        StoreError: it does not exist, or differs from what was committed.
        DamagedRecordError: it was committed so, but is not what the spec says.
    """
    root = store.at(stage_prefix(key))
    data = committed.read(store, key, name)
    fix = f"delete {root.uri}/{DONE} and launch again"
    return records.document(data, part, where=f"{root.uri}/{name}", fix=fix)


@dataclass(frozen=True)
class _Failure:
    """The content of failure.json: the message of the error that ended a process.

    Args:
        error: the message.
        job: the scheduler's name for the job of that process; empty without a scheduler.
        restarts: how often the scheduler had started that job before.
    """

    error: str
    job: str = ""
    restarts: Count = 0


def failure(root: Store) -> str:
    """Return why the last process of a trial, or of a part of a sharding, failed.

    It is only a note: where it is damaged, the text says so.

    Args:
        root: the store at its prefix.

    Returns:
        The message; empty if there is no note.

    Raises:
        StoreError: the store cannot be reached.
    """
    unreadable = f"for a reason that cannot be read ({root.uri}/{FAILURE})"
    try:
        found = records.read(root, FAILURE, _Failure)
    except DamagedRecordError:
        return unreadable
    return (found.error.strip() or unreadable) if found else ""


def failed_start(root: Store) -> tuple[str, int]:
    """Return (job, its restarts) of the process that `failure` is of; ("", 0) if nobody knows.

    Raises:
        StoreError: the store cannot be reached.
    """
    try:
        found = records.read(root, FAILURE, _Failure)
    except DamagedRecordError:
        return "", 0
    return (found.job, found.restarts) if found else ("", 0)
