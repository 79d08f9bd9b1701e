"""What MLflow shows above the run of a launch. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpt_dist.tracking.tracker import FinalStatus, page_of
from hpt_dist.trial.records import Launch

# In words that `status` and the report use too.
ENDED: Mapping[FinalStatus, str] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "was stopped",
}
_FILES = ("report.html", "report.md", "report.json")
_LONGEST_REPORT = 5000  # characters: with what follows it fits into MLflow's 8,000
_RUNS_SHOWN = 20


def of_launch(
    launch: Launch,
    store: str,
    status: FinalStatus,
    report: str,
    others: Mapping[str, str],
    experiment_id: str,
    run_id: str,
) -> str:
    """Return the description of a launch in Markdown: its report first, then where more is.

    Args:
        launch: its record.
        store: URI of its store.
        status: how it ended.
        report: in Markdown; empty without one.
        others: the pages of its trials that other launches ran, by name.
        experiment_id: MLflow's, of its run.
        run_id: MLflow's.
    """
    written = ("recipe.yaml",) if launch.written else ()
    files = (*(_FILES if report else ()), *written, "resolved.json")
    links = [f"[{name}]({page_of(experiment_id, run_id, name)})" for name in files]
    parts = [
        shortened(report, _LONGEST_REPORT),
        f"The launch {ENDED[status]}. Files: {', '.join(links)}. "
        f"In a terminal: `hpt-dist report {launch.id} --store {store}`.",
        "Accuracies in MLflow are shares of 1; the report's are per cent.",
    ]
    if others:
        shown = [f"[{name}]({other})" for name, other in list(others.items())[:_RUNS_SHOWN]]
        more = f" and {len(others) - _RUNS_SHOWN} more" if len(others) > _RUNS_SHOWN else ""
        parts.append(f"Trials that other launches ran: {', '.join(shown)}{more}.")
    return "\n\n".join(filter(None, parts))


def shortened(report: str, longest: int) -> str:
    """Return the sections of a report that fit into so many characters, the first ones first."""
    sections = re.split(r"\n(?=## )", report.strip())
    kept, length = list[str](), 0
    for section in sections:
        length += len(section) + 1
        if length > longest:
            kept.append("\nThe rest is in the report's files.")
            break
        kept.append(section)
    return "\n".join(kept).strip()
