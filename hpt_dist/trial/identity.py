"""What MLflow shows of a trial beside its metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from hpt_dist import __version__
from hpt_dist.errors.secrets import public_address
from hpt_dist.recipe.settings import counting_settings
from hpt_dist.recipe.trial import Trial
from hpt_dist.store.paths import stage_prefix
from hpt_dist.tracking.tracker import LAUNCH_TAG, STORE_TAG, DatasetInput, RunIdentity

_CONTEXTS = {"val": "validation", "test": "test"}
_UNITS = (
    "Accuracies (`top1`) are shares of 1. `kept/...` are the values of the weights that the stage "
    "leaves, `active_seconds` is the time that its processes worked, without waits between them."
)


def of_trial(
    trial: Trial,
    experiment: str,
    parent_run: str | None,
    artifact_location: str | None,
    *,
    store: str,
    launch: str = "",
) -> RunIdentity:
    """Return the identity of a trial's run: its key, with its settings as params.

    Args:
        trial: the trial.
        experiment: MLflow's.
        parent_run: MLflow run of the launch; None for none.
        artifact_location: of a new experiment; None for MLflow's default.
        store: URI of the store that it is in.
        launch: id of the launch that runs it; empty for none.
    """
    tags = {"hpt.stage": trial.stage, "hpt.init": trial.init, "hpt.version": __version__}
    tags |= {"hpt.role": "candidate"} if trial.is_candidate else {}
    tags |= {"hpt.candidates": ", ".join(trial.choices)} if trial.candidates else {}
    tags |= {f"hpt.dataset.{alias}": d.digest for alias, d in trial.datasets.items()}
    # The digest of an address tells stores apart, and shows none.
    tags |= {STORE_TAG: hashlib.sha256(store.encode()).hexdigest()[:16]}
    tags |= {LAUNCH_TAG: launch} if launch else {}
    return RunIdentity(
        experiment=experiment,
        name=trial.name,
        key=trial.key,
        parent_run_id=parent_run,
        tags=tags,
        params=_params(trial),
        artifact_location=artifact_location,
        description=_description(trial, store, launch),
        datasets=tuple(_datasets(trial, store)),
    )


def _params(trial: Trial) -> dict[str, str]:
    image = {f"image.{name}": str(value) for name, value in trial.document["image"].items()}
    settings = counting_settings(trial.spec)
    # What it chooses is in its result; one that tries others has settings of its own.
    for one in () if trial.spec.tries() else trial.candidates:
        settings = dict(settings.items() & counting_settings(one.spec).items())
    return {**settings, "backbone": trial.backbone, **image}


def _datasets(trial: Trial, store: str) -> Iterator[DatasetInput]:
    """Yield each split that a trial reads once, with all that it does with it."""
    contexts: dict[str, list[str]] = {}
    kept_back = trial.spec.kept_back()
    for read in trial.spec.reads():
        if (trial.is_candidate and read.split in kept_back) or (
            trial.candidates and read.split not in kept_back
        ):
            continue
        split = read.split.partition("/")[2]
        watched = read.setting.partition(".")[0] == "monitor"  # what may be forgotten, too
        context = "monitoring" if watched else _CONTEXTS.get(split, "training")
        contexts.setdefault(read.split, []).append(context)
    for reference, what in contexts.items():
        alias, _, split = reference.partition("/")
        dataset = trial.datasets[alias]
        yield DatasetInput(
            name=f"{dataset.name}/{split}",
            digest=dataset.digest,
            uri=f"{public_address(dataset.store or store)}/datasets/{dataset.name}",
            images=dataset.images.get(split, 0),
            classes=dataset.classes,
            context=", ".join(dict.fromkeys(what)),
        )


def _description(trial: Trial, store: str, launch: str) -> str:
    """Return what a trial is, in Markdown."""
    spec = trial.spec
    method = getattr(spec, "method", "") or getattr(spec, "objective", "")
    method = f" ({method})" if method not in ("", spec.kind) else ""
    start = f"starts from `{spec.parent}`" if spec.parent else f"takes `{spec.imported}`"
    if not spec.parent and trial.candidates:
        start = f"leaves the best of {len(trial.candidates)} backbones"
    start = f"compares {len(trial.compared)} trials" if trial.compared else start
    reads = ", ".join(f"`{one.name}` ({one.images:,})" for one in _datasets(trial, store))
    steps = f", {trial.steps:,} steps" if trial.steps else ""
    lines = [
        f"**{trial.name}**: {spec.kind}{method} of {trial.backbone}{steps}; {start}.",
        f"Validation chooses among {len(trial.candidates)} candidates: see `choice.md`."
        if trial.candidates
        else "",
        "A candidate: its stage's choice is made on validation, and it reads no test."
        if trial.is_candidate
        else "",
        f"Reads (images): {reads}." if reads else "",
        f"Launch `{launch}`: `hpt-dist pull {launch}/{trial.name} DEST` copies its results."
        if launch
        else "",
        f"In the store: `{public_address(store)}/{stage_prefix(trial.key)}`.",
        _UNITS,
    ]
    return "\n\n".join(filter(None, lines))
