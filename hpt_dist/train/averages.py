"""Averages of the weights that a training started from and those of its last step. Pure.

After WiSE-FT (arXiv 2109.01903), which averages a zero-shot model and its fine-tuned one. Only the
last step is averaged: so what may be chosen is known before the first look, and an interval that
allows for one more look an average holds. An average with the best step would have been chosen on
validation twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Average:
    """Weights on the straight line from the start of a training to its last step.

    Args:
        share: of the way, between 0 and 1.
        step: the last step.
    """

    share: float
    step: int

    def __str__(self) -> str:
        return f"{self.share} of the way from the base to step {self.step}"


# Weights of a training: those after a step, of which 0 is the start; or an average.
Place = int | Average


def in_words(place: Place) -> str:
    """Return which weights they are; the start is the base."""
    if isinstance(place, Average):
        return str(place)
    return f"step {place}" if place else "the base"


def of_details(details: Mapping[str, Any]) -> Average | None:
    """Return the average that a finished stage left, by its result's details; None for a step."""
    share = details.get("kept_average")
    return None if share is None else Average(float(share), int(details.get("kept_step", 0)))


def averaged(
    base: Mapping[str, Tensor], adapted: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return (1 - share) x base + share x adapted of each floating tensor, rounded once.

    Running statistics of batch norm are averaged as well. What is no floating number, such as the
    count of their batches, is that of the adapted weights.

    Args:
        base: state of a network; on the same device as `adapted`.
        adapted: another state of the same network.
        share: of the way from base to adapted.
    """
    return {
        name: _between(base[name], value, share) if value.is_floating_point() else value
        for name, value in adapted.items()
    }


def _between(base: Tensor, adapted: Tensor, share: float) -> Tensor:
    # In float64, so that no processor's fused instructions show in the result.
    return ((1 - share) * base.double() + share * adapted.double()).to(adapted.dtype)
