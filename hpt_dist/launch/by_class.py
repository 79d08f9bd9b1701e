"""The report of a launch, with the classes that gain and lose by what its trials answered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hpt_dist.errors import HptError
from hpt_dist.launch.survey import looked_up
from hpt_dist.report import gains, report
from hpt_dist.report.gains import Gains, Wanted
from hpt_dist.report.report import Report
from hpt_dist.store import Store, committed
from hpt_dist.store.paths import stage_prefix
from hpt_dist.trial.predictions import file_of
from hpt_dist.trial.records import Finished, Launch

if TYPE_CHECKING:
    from hpt_dist.trial.predictions_file import Hits

log = logging.getLogger(__name__)


def build(store: Store, launch: Launch, done: Sequence[Finished]) -> Report:
    """Return the report of a launch; see `report.report.build`.

    Predictions that are missing or cannot be read are left out.

    Args:
        store: where the launch is.
        launch: its record.
        done: its finished trials.
    """
    built = report.build(launch, done)
    wanted = gains.wanted(built.figures, built.answer.row, {one.name for one in done})
    return replace(built, gains=tuple(_gains(store, launch, wanted))) if wanted else built


def _gains(store: Store, launch: Launch, wanted: Wanted) -> list[Gains]:
    """Return the gains on each dataset that pairs of trials have answered."""
    from hpt_dist.evals.by_class import changes  # it imports NumPy

    names = list(dict.fromkeys(name for pair in wanted.pairs for name in pair))
    hits = dict(
        zip(names, looked_up(lambda n: _hits(store, launch, n, wanted.split), names), strict=True)
    )
    found: dict[str, list[tuple[Hits, Hits]]] = {}
    for name, other in wanted.pairs:
        ours, base = hits[name], hits[other]
        if ours and base and ours.is_of_the_same(base):
            found.setdefault(ours.facts.digest, []).append((base, ours))
    return [
        Gains(
            wanted.row,
            wanted.baseline,
            pairs[0][0].facts.dataset,
            wanted.split,
            len(pairs),
            changes(
                pairs[0][0].facts.classes,
                pairs[0][0].labels,
                [(base.right, ours.right) for base, ours in pairs],
            ),
        )
        for pairs in found.values()
    ]


def _hits(store: Store, launch: Launch, name: str, split: str) -> Hits | None:
    """Return which images a trial answered rightly; None where it did not keep that."""
    from hpt_dist.trial import predictions_file  # it imports pyarrow

    key, file = launch.trials[name], file_of(split)
    try:
        if file not in committed.digests(store, key):
            return None
        data = committed.read(store, key, file)
        return predictions_file.hits(data, f"{store.uri}/{stage_prefix(key)}/{file}")
    except HptError as error:
        log.info("%s shows no classes: %s", name, error)
        return None
