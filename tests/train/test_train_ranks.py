"""Every method through the real loop on one rank and on two: the same training."""

import os
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from ranks import on_ranks
from torch import nn

from hpt_dist.errors import DataError, Interrupted, TrainingError
from hpt_dist.launch import local, process
from hpt_dist.methods import METHODS, MME, Anchored
from hpt_dist.methods.source_labels import PseudoCentres
from hpt_dist.networks import backbones
from hpt_dist.store import open_store
from hpt_dist.train import optim
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.train.loop import Loop, fit, make_accelerator
from hpt_dist.trial import ranks
from hpt_dist.trial import run as trial

BATCH, STEPS, DIM = 8, 6, 16
METHOD_SETTINGS = {
    "moco_v2": {"queue": 16, "momentum": 0.9, "temperature": 0.2, "dim": 8},
    "byol": {"hidden": 12, "dim": 8, "momentum": 0.9, "steps": STEPS},
    "simclr": {"temperature": 0.5, "dim": 8},
}
# (method, bn_group, which parameters of the backbone learn)
CASES = [
    ("moco_v2", None, "all"),
    ("moco_v2", 4, "all"),
    ("moco_v2", 4, "batchnorm"),
    ("moco_v2", 2, "head"),
    ("byol", 4, "all"),
    ("simclr", None, "batchnorm"),
    ("simclr", 4, "all"),
    ("mme", None, "all"),
    ("anchored moco_v2", 4, "all"),
    ("anchored byol", 4, "batchnorm"),
    ("anchored simclr", None, "all"),
    ("ent", None, "batchnorm"),
    ("s+t", None, "head"),
    ("t", None, "all"),
    ("consistency", None, "all"),
    ("adapted", None, "all"),
]
ANCHORED = CASES[8]
# "adapted" is s+t with adapted source labels.
ADAPTATIONS = ("mme", "ent", "s+t", "t", "consistency", "adapted")


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, DIM, 3, stride=2), nn.BatchNorm2d(DIM), nn.ReLU(), nn.Conv2d(DIM, DIM, 3),
        nn.BatchNorm2d(DIM), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def make(name, which):
    net = backbone()
    backbones.trainable_parameters(net, which)
    if name in ADAPTATIONS:
        objective = "s+t" if name == "adapted" else name
        centres = PseudoCentres(3, 8, mix=0.5, temperature=0.6, scale=0.05)
        return MME(
            net, DIM, 3, head_dim=8, objective=objective, threshold=0.6,
            centres=centres if name == "adapted" else None, seed=1,
        )  # fmt: skip
    anchored, _, name = name.rpartition(" ")
    method = METHODS[name](net, DIM, **METHOD_SETTINGS[name], seed=1)
    return Anchored(method, 5.0) if anchored else method


@contextmanager
def feed(start, name, rank, world, bad=None):
    share = BATCH // world
    rows = slice(rank * share, (rank + 1) * share)
    half = share // 2  # of source images, then as many of the target
    source = torch.arange(rank * half, (rank + 1) * half)
    labelled = torch.cat([source, BATCH // 2 + source])

    def inputs():
        step = start
        while True:
            generator = torch.Generator().manual_seed(step)
            scale = 1 + torch.rand(BATCH, 3, 1, 1, generator=generator)
            views = [scale * torch.randn(BATCH, 3, 12, 12, generator=generator) for _ in range(2)]
            if step == bad:
                views[0][-1] = float("inf")  # on the last rank alone
            if name in ADAPTATIONS:
                labels = torch.randint(3, (BATCH,), generator=generator)
                given = views[0][labelled], labels[labelled]
                if name == "consistency":
                    yield ((*given, views[1][rows], 2 * views[1][rows]),)
                else:
                    yield given, (views[1][rows],)
            else:
                yield (tuple(view[rows] for view in views),)
            step += 1

    yield inputs()


class Quiet:
    def __init__(self):
        self.values = []

    def metrics(self, step, values):
        self.values.append((step, values["train/loss"]))

    def progress(self, step, steps, images_per_second):
        pass

    def looked(self, selection):
        assert selection.history

    def metrics_so_far(self):
        return ""

    def restore_metrics(self, lines):
        assert lines == ""

    def check(self):
        pass


def trained(rank, world, folder, case, stop_on=None, bad=None, resume=False):
    """Train a case; return the state, and the losses that the loop reported."""
    name, bn_group, which = case
    shares = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    if world > 1:
        os.environ.update({key: str(value) for key, value in shares.items()}, OMP_NUM_THREADS="1")
    accelerator = make_accelerator(threads=1, seed=0)
    assert accelerator.num_processes == world
    method = make(name, which).to(memory_format=torch.channels_last).train()
    method.group_batch_norm(BATCH, bn_group, world)
    optimizer = optim.build(
        method, method.backbone, name="sgd", lr=0.1, weight_decay=1e-3, momentum=0.9,
        nesterov=False, trust=1e-3, backbone_lr_scale=1.0,
    )  # fmt: skip
    interrupt = Interrupt()

    def rates(_, step):
        if stop_on == rank and step == 2:
            interrupt.cause = "SIGTERM"
        return 0.1

    def place_centres(step):
        if name == "adapted" and step % 3 == 1:  # not where states are saved
            unlabelled = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(9))
            method.eval()
            with torch.no_grad():
                method.place_centres(method.embed(unlabelled))
            method.train()
        if name == "adapted":
            method.adapt_labels(on=step >= 1)

    observer = Quiet()
    loop = Loop(
        method=method,
        optimizer=optimizer,
        set_rates=rates,
        feed=partial(feed, name=name, rank=rank, world=world, bad=bad),
        steps=STEPS,
        images_per_step=2 * BATCH,
        checkpoints=Checkpoints(open_store(folder)),
        checkpoint_every=2,
        before_step=place_centres,
    )
    try:
        fit(loop, accelerator, observer, interrupt)
    except (Interrupted, TrainingError) as error:
        return {"error": str(error)}
    return {"state": dict(method.state_dict()), "losses": observer.values}


def every_case(rank, world, folder):
    found = {}
    for number, case in enumerate(CASES):
        found[number] = trained(rank, world, f"{folder}/{number}", case)
    found["stopped"] = trained(rank, world, f"{folder}/stopped", CASES[1], stop_on=1)
    found["again"] = trained(rank, world, f"{folder}/stopped", CASES[1])
    found["anchored stopped"] = trained(rank, world, f"{folder}/held", ANCHORED, stop_on=1)
    found["anchored again"] = trained(rank, world, f"{folder}/held", ANCHORED)
    found["elastic"] = trained(rank, world, f"{folder}/elastic", CASES[1], stop_on=0)
    found["bad"] = trained(rank, world, f"{folder}/bad", CASES[1], bad=4)
    return found


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    return folder, on_ranks(2, tmp_path_factory.mktemp("ranks") / "r", every_case, str(folder))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{n}-{b}-{w}" for n, b, w in CASES])
def test_two_ranks_are_one(two_ranks, tmp_path, number):
    _, found = two_ranks
    first, second = (rank[number] for rank in found)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    alone = trained(0, 1, str(tmp_path), CASES[number])
    torch.testing.assert_close(first["state"], alone["state"], rtol=1e-4, atol=1e-5)
    assert [s for s, _ in first["losses"]] == [s for s, _ in alone["losses"]]
    expected = [loss for _, loss in alone["losses"]]
    assert [loss for _, loss in first["losses"]] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("number", [2, 5])
def test_hpt_bn_moves_exactly_batch_norm_and_the_head(two_ranks, number):
    """Also the running statistics, which nobody trains."""
    _, found = two_ranks
    name, _, which = CASES[number]
    before, after = make(name, which).state_dict(), found[0][number]["state"]
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    backbone_moved = {key for key in moved if key.startswith("backbone.")}
    assert backbone_moved == {
        key for key in after if key.startswith(("backbone.1.", "backbone.4."))
    }
    assert {key for key in moved if key.startswith("projector.")}


def test_a_signal_to_one_rank_stops_both_and_both_go_on_to_the_same_bits(two_ranks):
    _, found = two_ranks
    for rank, printed in zip(found, ("another rank", "SIGTERM"), strict=True):
        # The answer to the question of step 3 is there after step 4.
        assert f"stopped by {printed} after step 4" in rank["stopped"]["error"]
        torch.testing.assert_close(rank["again"]["state"], rank[1]["state"], rtol=0, atol=0)
        assert "after step 4" in rank["anchored stopped"]["error"]
        held, undisturbed = rank["anchored again"]["state"], rank[8]["state"]
        torch.testing.assert_close(held, undisturbed, rtol=0, atol=0)


def test_one_rank_goes_on_where_two_were_stopped(two_ranks):
    folder, found = two_ranks
    alone = trained(0, 1, f"{folder}/elastic", CASES[1])
    torch.testing.assert_close(alone["state"], found[0][1]["state"], rtol=1e-4, atol=1e-5)


def test_a_loss_that_one_rank_alone_sees_go_wrong_stops_all(two_ranks):
    folder, found = two_ranks
    for rank in found:
        assert "the loss is not finite at step 5" in rank["bad"]["error"]
    assert Checkpoints(open_store(f"{folder}/bad")).steps() == [4, 2]


def test_a_connection_that_breaks_means_that_another_rank_ended():
    with pytest.raises(ranks.ProcessLostError), ranks.noticing_losses():
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shapes"), ranks.noticing_losses():
        raise RuntimeError("shapes cannot be multiplied")


def test_the_launch_says_how_many_ranks_died():
    processes = [SimpleNamespace(exit_code=0), SimpleNamespace(exit_code=-9)]
    running = local._Running(None, processes, 1, [], process.Outcome("lost", "it broke"))
    assert "1 of this trial's 2 processes died" in local._outcome_of(running).error
    killed = local._Running(None, processes, 1, [])
    assert "its process was killed" in local._outcome_of(killed).error


def test_an_error_that_one_rank_alone_has_is_that_of_rank_0(monkeypatch, capsys):
    def damaged(*_):
        raise DataError("image 7 is damaged", where="a.tar", fix="make it anew")

    monkeypatch.setattr(trial, "follow", damaged)
    for name, value in ranks.world(0, 2, ranks.free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "is_begun", lambda: True)
    spec = SimpleNamespace(kind="pretrain")
    order = SimpleNamespace(trial=SimpleNamespace(spec=spec, candidates=()))
    with ranks.hosting(2) as together:
        with pytest.raises(SystemExit) as ended:
            process.follow(None, order)
        with pytest.raises(TrainingError) as error, together():
            raise RuntimeError("[gloo] Connection closed by peer")
    assert ended.value.code == 1
    assert "image 7 is damaged" in capsys.readouterr().out
    assert str(error.value) == "a.tar: image 7 is damaged\n  do: make it anew"
