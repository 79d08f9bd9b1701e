"""What a trial gets of a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hpt_dist.slurm.placement import memory_to_shard_gb, place
from hpt_dist.slurm.profile import Profile


def trial(gpus: int, kind: str = "pretrain", memory_gb: float | None = None) -> SimpleNamespace:
    """Return what a placement asks of a trial."""
    wish = SimpleNamespace(gpus=gpus, memory_gb=memory_gb, time_min=None)
    trains = kind == "pretrain"
    spec = SimpleNamespace(
        imported="weights" if kind == "import" else "",
        TRAINS=trains,
        USES_GPU=trains,
        resources=wish,
        rank_faults=lambda _: [],
    )
    return SimpleNamespace(spec=spec)


@pytest.mark.parametrize(
    ("gpus", "kind", "wish", "memory_gb"),
    [
        (1, "pretrain", None, 50),
        (8, "pretrain", None, 400),
        (16, "pretrain", None, 400),  # on two nodes
        (6, "pretrain", None, 300),
        (1, "pretrain", 120, 120),
        (1, "knn", None, 50),
        (1, "import", None, 8),
        (1, "import", 30, 30),
    ],
)
def test_a_job_takes_the_memory_of_its_ranks(gpus, kind, wish, memory_gb):
    profile = Profile(nodes=4, gpus_per_node=8, memory_gb=400)
    assert place(trial(gpus, kind, wish), profile).memory_gb == memory_gb


def test_what_nobody_else_could_use_is_taken_whole():
    alone = Profile.model_validate(
        {"gpus_per_node": 8, "memory_gb": 400, "sbatch": {"exclusive": True}}
    )
    assert place(trial(1), alone).memory_gb == 400
    assert place(trial(1), Profile(memory_gb=16)).memory_gb == 16  # one process on CPUs
    assert place(trial(1), Profile(gpus_per_node=8)).memory_gb is None
    assert place(trial(1, "import"), Profile(memory_gb=4)).memory_gb == 4


def test_a_job_that_shards_takes_the_memory_of_its_cores():
    assert memory_to_shard_gb(Profile(memory_gb=16, cpus_per_task=2)) == 16
    shared = Profile(memory_gb=400, gpus_per_node=8, cpus_per_gpu=8, cpus_per_task=4)
    assert memory_to_shard_gb(shared) == 25
    assert memory_to_shard_gb(shared.model_copy(update={"cpus_per_task": 128})) == 400
    assert memory_to_shard_gb(Profile()) is None
