"""Hierarchical PreTraining, in stages, safely, on one machine or a cluster.

What a program of one's own needs is here by name; docs/library.md shows it. A name is loaded when
it is first used, so importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpt_dist.datasets.facts import Dataset, open_dataset
    from hpt_dist.errors import HptError
    from hpt_dist.evals.classifier import Classifier, load_classifier
    from hpt_dist.launch.calls import PlannedTrial, finished, plan, run
    from hpt_dist.reading.loader import ImageBatch, Loader, eval_loader, train_loader
    from hpt_dist.recipe import Augment
    from hpt_dist.trial.records import Finished
    from hpt_dist.weights.backbone import load_backbone

__version__ = "0.1.0"
__all__ = [
    "Augment",
    "Classifier",
    "Dataset",
    "Finished",
    "HptError",
    "ImageBatch",
    "Loader",
    "PlannedTrial",
    "eval_loader",
    "finished",
    "load_backbone",
    "load_classifier",
    "open_dataset",
    "plan",
    "run",
    "train_loader",
]

_HOMES = {
    "datasets.facts": ("Dataset", "open_dataset"),
    "errors": ("HptError",),
    "evals.classifier": ("Classifier", "load_classifier"),
    "launch.calls": ("PlannedTrial", "finished", "plan", "run"),
    "reading.loader": ("ImageBatch", "Loader", "eval_loader", "train_loader"),
    "recipe": ("Augment",),
    "trial.records": ("Finished",),
    "weights.backbone": ("load_backbone",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"hpt_dist.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
