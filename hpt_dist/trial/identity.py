"""What MLflow shows of a trial beside its metrics."""

from __future__ import annotations

from typing import Any

from hpt_dist import __version__
from hpt_dist.recipe.plan import Trial
from hpt_dist.tracking.tracker import RunIdentity


def of_trial(
    trial: Trial, experiment: str, parent_run: str | None, artifact_location: str | None
) -> RunIdentity:
    """Return the identity of a trial's run: its key, with its settings as params.

    Args:
        trial: the trial.
        experiment: MLflow's, the recipe's name.
        parent_run: MLflow run of the launch; None for none.
        artifact_location: of a new experiment; None for MLflow's default.
    """
    tags = {"hpt.stage": trial.stage, "hpt.init": trial.init, "hpt.version": __version__}
    tags |= {f"hpt.dataset.{alias}": d.digest for alias, d in trial.datasets.items()}
    return RunIdentity(
        experiment=experiment,
        name=trial.name,
        key=trial.key,
        parent_run_id=parent_run,
        tags=tags,
        params={**_params(trial.document["spec"]), "backbone": trial.backbone},
        artifact_location=artifact_location,
    )


def _params(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _params(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat
