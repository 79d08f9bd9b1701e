"""Training methods: one short file each, chosen by name, all served by one training loop."""

from __future__ import annotations

from collections.abc import Callable

from hpt_dist.methods.anchor import Anchored
from hpt_dist.methods.byol import BYOL
from hpt_dist.methods.embeddings import feature_std
from hpt_dist.methods.finetuning import FineTuning
from hpt_dist.methods.method import Loss, Method
from hpt_dist.methods.mme import MME
from hpt_dist.methods.moco import MoCoV2
from hpt_dist.methods.simclr import SimCLR

METHODS: dict[str, Callable[..., Method]] = {
    "moco_v2": MoCoV2,
    "byol": BYOL,
    "simclr": SimCLR,
    "mme": MME,
}

__all__ = [
    "BYOL",
    "METHODS",
    "MME",
    "Anchored",
    "FineTuning",
    "Loss",
    "Method",
    "MoCoV2",
    "SimCLR",
    "feature_std",
]
