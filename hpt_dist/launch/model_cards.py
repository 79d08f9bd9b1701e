"""Model cards of a launch's weights, which `pull` brings along with them."""

from __future__ import annotations

from collections.abc import Sequence

from hpt_dist.launch import exhibited, results
from hpt_dist.report import card
from hpt_dist.report.report import build
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch


def texts(store: Store, launch: Launch, names: Sequence[str]) -> dict[str, str]:
    """Return the model card of each of some finished trials by its name, in Markdown.

    Raises:
        HptError: a result of the launch is damaged.
    """
    done = results.finished(store, launch)
    report, sources = build(launch, done), exhibited.sources(store, launch, done)
    by_name = {one.name: one for one in done}
    return {name: card.markdown(report, sources, by_name, name) for name in names}
