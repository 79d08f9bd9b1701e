"""How each kind of stage runs: its file's `run`."""

from __future__ import annotations

from hpt_dist.stages import finetune, imported, knn, linear, mme, pretrain
from hpt_dist.trial.run import Runner

RUNNERS: dict[str, Runner] = {
    "import": imported.run,
    "pretrain": pretrain.run,
    "knn": knn.run,
    "linear": linear.run,
    "mme": mme.run,
    "finetune": finetune.run,
}
