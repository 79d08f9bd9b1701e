"""What is asked for: recipes, and the plan of trials that follows from one. No torch."""

from hpt_dist.recipe.kinds import KINDS
from hpt_dist.recipe.kinds.detect import Detect
from hpt_dist.recipe.kinds.finetune import Finetune
from hpt_dist.recipe.kinds.imported import Import
from hpt_dist.recipe.kinds.knn import Knn
from hpt_dist.recipe.kinds.linear import Linear
from hpt_dist.recipe.kinds.mme import Mme
from hpt_dist.recipe.kinds.monitoring import Monitor
from hpt_dist.recipe.kinds.pretrain import METHOD_SETTINGS, SCALING_BATCH, Pretrain
from hpt_dist.recipe.kinds.select import Select
from hpt_dist.recipe.kinds.stage import StageSpec, Trained
from hpt_dist.recipe.settings import (
    Augment,
    Image,
    Optimizer,
    Positive,
    Rate,
    Spec,
    result_fields,
)

__all__ = [
    "KINDS",
    "METHOD_SETTINGS",
    "SCALING_BATCH",
    "Augment",
    "Detect",
    "Finetune",
    "Image",
    "Import",
    "Knn",
    "Linear",
    "Mme",
    "Monitor",
    "Optimizer",
    "Positive",
    "Pretrain",
    "Rate",
    "Select",
    "Spec",
    "StageSpec",
    "Trained",
    "result_fields",
]
