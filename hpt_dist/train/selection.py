"""Select the weights that a training keeps: the best by its looks at validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from hpt_dist.train.averages import Place


@dataclass(frozen=True)
class Look:
    """The result of one look at validation, equal on every rank.

    Args:
        metrics: by name.
        right: bool [n], whether each validation image was classified correctly; None if no
            images were, or the metric is another one.
        replicates: float64 [draws], of the metric that selects over resampled validation images,
            where none of them is right or wrong by itself; else None.
        images: how many validation images there are; 0 if none were classified.
    """

    metrics: dict[str, float]
    right: Tensor | None = None
    replicates: Tensor | None = None
    images: int = 0


@dataclass(frozen=True)
class Evaluation:
    """When and how to look at validation during training.

    Args:
        every: steps between looks; after the last step there is always one.
        run: looks at the method as it is. A collective call.
        keeps: the module to keep the best weights of; None keeps none.
        select_on: the metric that selects. Empty selects nothing.
        lower_is_better: whether that metric is an error.
        patience: looks after the best before stopping; None never stops early.
        before_training: whether to look at the incoming weights too, which then can be the best.
        ties: of equally good weights, keep the later (as MME does) or the earlier ones.
    """

    every: int
    run: Callable[[], Look]
    keeps: nn.Module | None = None
    select_on: str = ""
    lower_is_better: bool = False
    patience: int | None = None
    before_training: bool = False
    ties: Literal["later", "earlier"] = "later"

    def is_due(self, done: int, steps: int) -> bool:
        """Return whether to look after `done` of all steps."""
        if not done:
            return self.before_training
        return done % self.every == 0 or done == steps


@dataclass
class Selection:
    """The best weights so far, chosen on validation alone.

    Args:
        history: (place, metrics) of every look; a place is a number of steps, or an average.
        right: whether each validation image was classified correctly, by place.
        replicates: see `Look`, by place.
        images: see `Look`, of the last one.
        metric: that selects; empty before the first look, and where nothing is selected.
        best_step: steps of the best, or the average that it is; -1 before the first.
        best_value: its value; of an error its negative.
        weights: the kept module's state there.
    """

    history: list[tuple[Place, dict[str, float]]] = field(default_factory=list)
    right: dict[Place, Tensor] = field(default_factory=dict)
    replicates: dict[Place, Tensor] = field(default_factory=dict)
    images: int = 0
    metric: str = ""
    best_step: Place = -1
    best_value: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, done: Place, look: Look, plan: Evaluation) -> None:
        """Note a look after `done` steps, or at an average."""
        self.history.append((done, look.metrics))
        self.images = look.images
        if look.right is not None:
            self.right[done] = look.right.cpu()
        if look.replicates is not None:
            self.replicates[done] = look.replicates.cpu()
        self.metric = plan.select_on
        if not plan.select_on:
            return
        value = look.metrics[plan.select_on] * (-1 if plan.lower_is_better else 1)
        if value > self.best_value or (value == self.best_value and plan.ties == "later"):
            self.best_step, self.best_value = done, value
            kept = plan.keeps.state_dict() if plan.keeps else {}
            self.weights = {name: value.detach().cpu().clone() for name, value in kept.items()}

    def is_stale(self, patience: int | None) -> bool:
        """Return whether as many looks came after the best as patience allows."""
        places = [place for place, _ in self.history]
        after = places[places.index(self.best_step) + 1 :] if self.best_step in places else places
        return patience is not None and patience <= len(after)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved selection."""
        vars(self).update(state)
        self.history = [(step, metrics) for step, metrics in self.history]
