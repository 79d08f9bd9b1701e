"""Evaluations of a backbone's frozen features, by the kind of stage that asks for them."""

from __future__ import annotations

from collections.abc import Callable

from hpt_dist.evals import knn, linear
from hpt_dist.evals.features import Labelled, Result, extract

EVALS: dict[str, Callable[..., Result]] = {"knn": knn.evaluate, "linear": linear.evaluate}

__all__ = ["EVALS", "Labelled", "Result", "extract"]
