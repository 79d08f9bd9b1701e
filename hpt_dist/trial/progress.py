"""How far the training of a trial is: numbers for its lease and its launcher, and words for people.

The numbers are `step`, `steps`, `images_per_second`, `seconds_left`, `loss`, the last look at
validation under the name of its metric, `looked_step`, and, where the best weights are kept, `best`
and `best_step`. Where these are averages of the base and the last step, `looked_average` and
`best_average` are the share of the way to it. Those that are not known yet are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hpt_dist.recipe.metrics import METRICS
from hpt_dist.train.averages import Average, Place

if TYPE_CHECKING:
    from hpt_dist.train.selection import Selection

_RANK = "monitor/rankme"
# The metric of a look that is shown, and its name in words: the one that selects, or the first.
_SHOWN = {
    "ridge/top1": "ridge",
    "knn/top1": "kNN",
    "val/top1": "val top-1",
    **{f"ridge/{name}": f"ridge {name}" for name in METRICS if name != "top1"},
    **{f"knn/{name}": f"kNN {name}" for name in METRICS if name != "top1"},
    **{f"val/{name}": f"val {name}" for name in METRICS if name != "top1"},
    _RANK: "effective rank",
}

ReportProgress = Callable[[Mapping[str, Any]], None]


def report_nowhere(_facts: Mapping[str, Any]) -> None:
    """Nobody waits for progress: the lease and the tracker show it."""


class Progress:
    """Collects what is shown of a training.

    Args:
        clock: returns seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._facts: dict[str, float] = {}
        self._began: tuple[float, int] | None = None  # when, and at which step

    def note_loss(self, metrics: Mapping[str, float]) -> None:
        """Take the loss out of metrics, if it is there."""
        if "train/loss" in metrics:
            self._facts["loss"] = round(metrics["train/loss"], 4)

    def note_look(self, selection: Selection) -> None:
        """Take the last look at validation, and the best one where its weights are kept."""
        place, metrics = selection.history[-1]
        shown = [name for name in _SHOWN if name in metrics]
        name = selection.metric if selection.metric in shown else next(iter(shown), "")
        if name:
            self._facts |= {name: round(metrics[name], 4), **_facts_of("looked", place)}
        if name and selection.weights:
            best = dict(selection.history)[selection.best_step][name]
            self._facts |= {"best": round(best, 4), **_facts_of("best", selection.best_step)}

    @property
    def facts(self) -> dict[str, float]:
        """The numbers as they are."""
        return dict(self._facts)

    def after(self, step: int, steps: int, images_per_second: float) -> dict[str, float]:
        """Return the numbers after a step, of how many steps."""
        now = self._clock()
        began, first = self._began = self._began or (now, step)
        self._facts |= {"step": step, "steps": steps}
        self._facts["images_per_second"] = round(images_per_second, 1)
        if step > first:  # looks and saves count too
            self._facts["seconds_left"] = round((steps - step) * (now - began) / (step - first))
        return self.facts


def _facts_of(name: str, place: Place) -> dict[str, float]:
    if isinstance(place, Average):
        return {f"{name}_step": place.step, f"{name}_average": place.share}
    return {f"{name}_step": place}


def in_words(facts: Mapping[str, float]) -> str:
    """Return the numbers of a training in words, but its step, the most important first.

    They may be those of another version of this code, or of a kind that shows none.
    """
    parts = [f"loss {facts['loss']:.3f}"] if "loss" in facts else []
    parts += [_look(name, facts) for name in _SHOWN if name in facts][:1]
    if left_s := int(facts.get("seconds_left", 0)):
        parts.append(f"{timedelta(seconds=left_s)} left")
    if rate := facts.get("images_per_second"):
        parts.append(f"{rate:,.0f} images/s")
    return ", ".join(parts)


def _look(name: str, facts: Mapping[str, float]) -> str:
    def value(number: float) -> str:
        is_share = name.rpartition("/")[2] in METRICS
        return f"{100 * number:.1f} %" if is_share else f"{number:.1f}"

    def at(look: str) -> tuple[str, str]:
        share = facts.get(f"{look}_average")
        way = "" if share is None else f"{share} of the way to "
        return way, f"{int(facts.get(f'{look}_step', 0)):,}"

    (way, step), best = at("looked"), at("best")
    text = f"{_SHOWN[name]} {value(facts[name])} at {way}step {step}"
    if "best" not in facts:
        return text
    if (way, step) == best:
        return f"{text} (the best)"
    return f"{text} (best {value(facts['best'])} at {''.join(best)})"
