"""The kinds of stage, one file each; `stages` has a file of the same name that runs it."""

from hpt_dist.recipe.kinds.bn_refresh import BnRefresh
from hpt_dist.recipe.kinds.dense import Dense
from hpt_dist.recipe.kinds.detect import Detect
from hpt_dist.recipe.kinds.finetune import Finetune
from hpt_dist.recipe.kinds.imported import Import
from hpt_dist.recipe.kinds.knn import Knn
from hpt_dist.recipe.kinds.linear import Linear
from hpt_dist.recipe.kinds.mme import Mme
from hpt_dist.recipe.kinds.pretrain import Pretrain
from hpt_dist.recipe.kinds.select import Select
from hpt_dist.recipe.kinds.similarity import Similarity
from hpt_dist.recipe.kinds.stage import StageSpec

KINDS: dict[str, type[StageSpec]] = {
    "import": Import,
    "bn_refresh": BnRefresh,
    "pretrain": Pretrain,
    "knn": Knn,
    "linear": Linear,
    "dense": Dense,
    "select": Select,
    "similarity": Similarity,
    "mme": Mme,
    "finetune": Finetune,
    "detect": Detect,
}
