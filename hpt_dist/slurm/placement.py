"""What a trial gets of a cluster: its wishes, within what the profile allows. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpt_dist.recipe.trial import Trial
from hpt_dist.slurm.profile import Profile

# An import reads a file of weights, and trains nothing.
_IMPORT_GB = 8.0


@dataclass(frozen=True)
class Placement:
    """The part of a cluster that a trial's job has; trials of one placement make an array.

    Args:
        nodes: how many.
        ranks_per_node: processes on each, one for each GPU.
        gpus_per_node: real or pretended; 0 where the trial trains on CPUs.
        cpus_per_rank: cores, and threads, of each process.
        memory_gb: of each node; None leaves it to the cluster.
        time_min: limit of the job, minutes.
    """

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    cpus_per_rank: int
    memory_gb: float | None
    time_min: int

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.ranks_per_node

    def place_of(self, rank: int) -> tuple[int, int]:
        """Return (node, process on that node) of a rank: Slurm fills one node after the other."""
        return divmod(rank, self.ranks_per_node)

    def __str__(self) -> str:
        what = "GPU" if self.gpus_per_node else "process"
        plural = "" if self.ranks == 1 else "s" if self.gpus_per_node else "es"
        on = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.ranks} {what}{plural}{on}"


def place(trial: Trial, profile: Profile, ranks: int | None = None) -> Placement:
    """Return what a trial gets.

    A wish for more than the profile allows, or than its batches can be shared out over, gets the
    next smaller number of processes that fills its nodes evenly: fewer of them give the same
    result, later.

    Args:
        trial: its `resources` are its wishes.
        profile: how the cluster is used.
        ranks: asked for at the launch, instead of the recipe's `gpus`.
    """
    wish = trial.spec.resources
    most = ranks or wish.gpus if trial.spec.TRAINS else 1
    per_node = profile.ranks_per_node
    nodes, count = _even(trial, min(most, profile.nodes * per_node), per_node)
    on_gpus = profile.gpus_per_node and trial.spec.USES_GPU
    return Placement(
        nodes=nodes,
        ranks_per_node=count // nodes,
        gpus_per_node=count // nodes if on_gpus else 0,
        cpus_per_rank=profile.cpus_per_gpu,
        memory_gb=wish.memory_gb or _memory_gb(trial, profile, count // nodes),
        time_min=min(wish.time_min or profile.time_min, profile.time_min),
    )


def _memory_gb(trial: Trial, profile: Profile, ranks: int) -> float | None:
    """Return the memory of each node of a job with so many processes there; None for no wish."""
    whole = profile.memory_gb
    # Nobody else could use what a job leaves of a node that it has for itself.
    if whole is None or profile.sbatch.exclusive is True:
        return whole
    if trial.spec.imported:
        return min(whole, _IMPORT_GB)
    return whole * ranks / profile.ranks_per_node


def memory_to_shard_gb(profile: Profile) -> float | None:
    """Return the memory of a job that shards; None for no wish."""
    if profile.memory_gb is None or not profile.gpus_per_node:
        return profile.memory_gb
    cores = profile.cpus_per_gpu * profile.gpus_per_node
    return profile.memory_gb * min(1.0, profile.cpus_per_task / cores)


def _even(trial: Trial, most: int, per_node: int) -> tuple[int, int]:
    """Return (nodes, ranks), the most that fill their nodes evenly and share the batches."""
    for count in range(most, 1, -1):
        nodes = math.ceil(count / per_node)
        if count % nodes == 0 and not trial.spec.rank_faults(count):
            return nodes, count
    return 1, 1
