"""Training methods: one short file each, chosen by name, all served by one training loop."""

from __future__ import annotations

from collections.abc import Callable

from hpt_dist.methods.method import Loss, Method
from hpt_dist.methods.mme import MME
from hpt_dist.methods.moco import MoCoV2

METHODS: dict[str, Callable[..., Method]] = {"moco_v2": MoCoV2, "mme": MME}

__all__ = ["METHODS", "MME", "Loss", "Method", "MoCoV2"]
