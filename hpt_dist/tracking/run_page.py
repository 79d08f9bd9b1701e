"""What MLflow's UI shows of a run: its page, and the description above it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

# MLflow 3.17's UI does not look at an experiment's kind: it wants this in the address.
_TRAINING_VIEW = "?workflowType=machine_learning"
# The description that people read and edit, and the digest of the one that we have written.
_NOTE_TAG, _WRITTEN_TAG = "mlflow.note.content", "hpt.description"
_LONGEST_NOTE = 8000  # characters, MLflow's limit


def page_of(experiment_id: str, run_id: str = "", artifact: str = "") -> str:
    """Return the page of an experiment, a run or a file of a run, relative to MLflow's UI."""
    run = f"/{run_id}" if run_id else ""
    file = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}/runs{run}{file}{_TRAINING_VIEW}"


def described(tags: Mapping[str, str], text: str) -> dict[str, str]:
    """Return the tags that describe a run; none where a person has edited its description.

    Args:
        tags: of the run, as MLflow has them.
        text: the description in Markdown; empty for none.
    """
    there, written = tags.get(_NOTE_TAG), tags.get(_WRITTEN_TAG)
    text = text[:_LONGEST_NOTE]
    if not text or there == text or (there is not None and _digest(there) != written):
        return {}
    return {_NOTE_TAG: text, _WRITTEN_TAG: _digest(text)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
