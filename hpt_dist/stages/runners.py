"""How each kind of stage runs: its file's `run`; and what validation chose of it reads test."""

from __future__ import annotations

from functools import partial

from hpt_dist.recipe.trial import Trial
from hpt_dist.stages import (
    bn_refresh,
    choice,
    dense,
    detect,
    finetune,
    imported,
    knn,
    linear,
    mme,
    pretrain,
    select,
    similarity,
)
from hpt_dist.trial.run import Runner

RUNNERS: dict[str, Runner] = {
    "import": imported.run,
    "bn_refresh": bn_refresh.run,
    "pretrain": pretrain.run,
    "knn": knn.run,
    "linear": linear.run,
    "dense": dense.run,
    "select": select.run,
    "similarity": similarity.run,
    "mme": mme.run,
    "finetune": finetune.run,
    "detect": detect.run,
}
# Of the kinds that set CHOOSES; one that leaves a backbone has no test to read.
TESTS: dict[str, choice.ReadTest] = {
    "knn": knn.read_test,
    "linear": linear.read_test,
    "mme": mme.read_test,
    "finetune": finetune.read_test,
}


def runner_of(trial: Trial) -> Runner:
    """Return what runs a trial."""
    if trial.candidates and trial.spec.CHOOSES:
        return partial(choice.run, read_test=TESTS.get(trial.spec.kind))
    return RUNNERS[trial.spec.kind]
