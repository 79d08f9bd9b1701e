"""Many trials, on a real Slurm that holds them, and many nodes, simulated."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import submitit
from hypothesis import given
from hypothesis import strategies as st
from slurm_site import made
from small import hpt

from hpt_dist.launch.slurm_process import name_ranks
from hpt_dist.reading.order import Order
from hpt_dist.recipe import Pretrain
from hpt_dist.recipe.trial import Trial
from hpt_dist.slurm.placement import Placement, place
from hpt_dist.slurm.profile import Profile

# Many trials.

SEEDS = 994
SWEEP = ("--set", "stages.adapt.sweep.init=[hpt]", "--set")


@pytest.mark.services
@pytest.mark.slow
def test_a_thousand_trials(tmp_path, slurm, drawings):
    site = made(tmp_path, slurm, drawings)
    sweep = (*SWEEP, f"stages.adapt.sweep.seed={list(range(SEEDS))}")
    try:
        printed = site.launch("--hold", *sweep)
        count = SEEDS + 4
        assert f"{count} trials submitted" in printed
        jobs = slurm.jobs()
        assert len(jobs) == count
        # No array is larger than this cluster allows.
        sizes = Counter(job.partition("_")[0] for job in jobs)
        assert sorted(sizes.values()) == [1, 1, 1, 1, SEEDS - 600, 600]
        again = site.launch("--hold", *sweep)
        assert f"{count} trials are in the queue already" in again
        assert "nothing to submit" in again
        assert set(site.states().values()) == {"queued"}
        assert len(site.states()) == count
        assert site.hpt("cancel", "small").count("removed from the queue") == count
        assert slurm.jobs() == {}
    finally:
        slurm.call("scancel", "--quiet", "--me")


def test_more_trials_than_an_array_holds(tmp_path, drawings):
    site = made(tmp_path, None, drawings)
    arguments = site.arguments("--dry-run", *SWEEP, f"stages.adapt.sweep.seed={list(range(2100))}")
    printed = hpt(*arguments, store=str(site.store))
    assert [line for line in printed.splitlines() if line.startswith("==> adapt")] == [
        "==> adapt: 1001 trials, 1 GPU each",
        "==> adapt: 1001 trials, 1 GPU each",
        "==> adapt: 98 trials, 1 GPU each",
    ]
    assert printed.count("#SBATCH --array=0-1000%4") == 2


# Many nodes, simulated.


def trial_of(batch: int, gpus: int) -> Trial:
    values = {"kind": "pretrain", "init": "base", "data": ["color/train"], "batch": batch}
    spec = Pretrain.model_validate(
        values | {"moco": {"queue": 4 * batch}, "resources": {"gpus": gpus}}
    )
    return Trial("hpt", "hpt", {}, frozenset(), spec, "", {}, "resnet50", {}, "0" * 64)


@given(st.integers(2, 400), st.integers(1, 100), st.integers(1, 12), st.integers(0, 8))
def test_a_trial_gets_the_most_that_it_wishes_and_can_use(batch, gpus, nodes, per_node):
    trial = trial_of(batch, gpus)
    placement = place(trial, Profile(nodes=nodes, gpus_per_node=per_node))
    most = min(gpus, nodes * max(per_node, 1))
    assert placement.nodes <= nodes
    assert 1 <= placement.ranks_per_node <= max(per_node, 1)
    assert placement.gpus_per_node == (placement.ranks_per_node if per_node else 0)
    assert batch % placement.ranks == 0
    assert placement.ranks <= most
    # No larger number would do: each would leave a node less full than another, or a batch uneven.
    for count in range(placement.ranks + 1, most + 1):
        on = math.ceil(count / max(per_node, 1))
        assert count % on or trial.spec.rank_faults(count)


NODES, GPUS = 128, 8
RANKS = NODES * GPUS


def environment_of(rank: int) -> dict[str, str]:
    """What Slurm tells a process of the whole cluster's job."""
    node, local = divmod(rank, GPUS)
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_NTASKS": str(RANKS),
        "SLURM_JOB_NUM_NODES": str(NODES),
        "SLURM_JOB_NODELIST": f"gpu[001-{NODES:03}]",
        "SLURM_NODEID": str(node),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local),
    }


def test_the_ranks_of_1024_gpus(monkeypatch):
    """Each process knows its own place, and all of them know one place to meet."""
    address = {"gpu001": [(2, 1, 6, "", ("10.0.0.1", 0))]}
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port: address[host])
    placement = place(trial_of(8192, RANKS), Profile(nodes=NODES, gpus_per_node=GPUS))
    assert placement == Placement(NODES, GPUS, GPUS, 4, None, 240)
    reported = []
    for rank in range(RANKS):
        variables = environment_of(rank)
        monkeypatch.setattr("os.environ", variables)
        environment = submitit.slurm.slurm.SlurmJobEnvironment()
        assert environment.hostnames[environment.node] == f"gpu{rank // GPUS + 1:03}"
        name_ranks(environment)
        reported.append(variables)
    places = [placement.place_of(rank) for rank in range(RANKS)]
    assert len(set(places)) == RANKS
    assert [int(one["RANK"]) for one in reported] == list(range(RANKS))
    named = [(int(one["SLURM_NODEID"]), int(one["LOCAL_RANK"])) for one in reported]
    assert named == places
    for name, value in {
        "WORLD_SIZE": RANKS,
        "LOCAL_WORLD_SIZE": GPUS,
    }.items():
        assert {one[name] for one in reported} == {str(value)}
    assert {one["MASTER_ADDR"] for one in reported} == {"10.0.0.1"}
    assert len({one["MASTER_PORT"] for one in reported}) == 1


def test_jobs_that_run_at_the_same_time_meet_at_different_places(monkeypatch):
    """A place that is taken costs a restart."""
    ports = set()
    for job in range(1000):
        for restarts in range(3):
            variables = environment_of(0) | {"SLURM_JOB_NODELIST": "localhost"}
            variables |= {"SLURM_JOB_ID": str(job), "SLURM_RESTART_COUNT": str(restarts)}
            monkeypatch.setattr("os.environ", variables)
            name_ranks(submitit.slurm.slurm.SlurmJobEnvironment())
            ports.add(int(variables["MASTER_PORT"]))
    assert len(ports) == 3000
    assert min(ports) > 1024
    assert max(ports) < 32768


def test_the_samples_of_1024_gpus():
    """All of them read a batch, each once, and a node reads shards that few others do."""
    batch, steps, first = 8192, 8, 100_000
    placement = Placement(NODES, GPUS, GPUS, 8, None, 240)
    order = Order("simulated", 0, np.full(100_000, 10_000), streams=64)
    shards_of: dict[int, set[int]] = {}
    for step in range(first, first + steps):
        shares = [order.batch(step, batch, rank, RANKS)[0] for rank in range(RANKS)]
        assert np.array_equal(np.concatenate(shares), order.batch(step, batch)[0])
        for rank, share in enumerate(shares):
            node, _ = placement.place_of(rank)
            shards_of.setdefault(node, set()).update(order.shards_of(share).tolist())
    # A node's 64 images a step are half of a stream's: of the 8 shards of its window.
    assert max(map(len, shards_of.values())) <= 8
    for node in range(0, NODES, 2):
        others = set().union(*(shards_of[n] for n in range(NODES) if n // 2 != node // 2))
        assert not (shards_of[node] | shards_of[node + 1]) & others
