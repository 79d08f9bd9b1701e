"""The engine's benchmarks: their arithmetic, and that every contestant trains for real."""

from dataclasses import replace

import pytest
import torch

from benchmarks import engine_anchor, engine_ranks, engine_saving
from benchmarks.engine_step import OURS, Setting, bare, interleaved, moco
from hpt_dist.train import optim

SMALL = Setting("timm/test_resnet", size=32, batch=4, queue=16)


def test_contestants_take_turns_with_the_loops_own_steps():
    turns, methods = [], []

    def peers(method, views):
        methods.append(method)
        before = method.queue.clone()
        passes = bare(method, views, SMALL.numerics)

        def other():
            turns.append(int(method.pointer))
            passes()

        assert torch.equal(method.queue, before)
        return {"other": other}

    seconds = interleaved(SMALL, peers, rounds=3, steps=2, threads=1)
    assert {name: len(values) for name, values in seconds.items()} == {OURS: 3, "other": 3}
    assert all(value > 0 for values in seconds.values() for value in values)
    # Two steps of four keys went into the queue of sixteen between each two turns.
    assert turns == [0, 0, 8, 8, 0, 0, 8, 8]


def test_lightlys_steps_and_ours_have_the_same_losses():
    pytest.importorskip("lightly", reason="the bench extra is not installed")
    from benchmarks.engine_lightly import LightlyMoCo

    setting = replace(SMALL, momentum=0.9)
    views = setting.views()
    method, theirs = moco(setting), LightlyMoCo(setting, views)
    for head, encoder in ((method.projector, theirs.query), (method.projector, theirs.momentum)):
        copied = zip(head.parameters(), encoder[1].parameters(), strict=True)
        for ours, other in copied:
            other.data.copy_(ours)
    theirs.criterion.memory_bank.bank.copy_(method.queue)
    optimizer = optim.build(method, method.backbone, **setting.optimizer.model_dump())
    for done in range(1, 7):  # once around the queue and further
        optimizer.zero_grad()
        loss = method(views)
        loss.total.backward()
        optimizer.step()
        method.after_step(done)
        torch.testing.assert_close(theirs(), loss.total.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        theirs.criterion.memory_bank.bank, method.queue, rtol=1e-2, atol=1e-3
    )


def test_the_cost_of_a_save_is_what_its_steps_take_longer():
    # Saves after steps 4, 8, 12: a stall of 3 and a slower next step, over a drifting machine.
    seconds = [1.0, 1, 1, 4, 1.5, 1, 1, 8, 3, 2, 2, 4, 1.5, 1, 1, 1]
    extra, usual = engine_saving.cost(seconds, 4)
    assert usual == 1
    assert extra == pytest.approx(3.5)
    assert engine_saving.cost([2.0] * 16, 4) == (0, 2)


def test_saving_is_reported_by_the_loop():
    seconds, stalled_s = engine_saving.step_seconds(SMALL, every=4, steps=13, threads=1)
    assert len(seconds) == 12
    assert 0 < stalled_s < sum(seconds)
    assert engine_saving.step_seconds(SMALL, every=100, steps=13, threads=1)[1] == 0


def test_two_ranks_train_the_same_batch():
    assert engine_ranks.step_seconds(2, 1, SMALL, steps=2) > 0


def test_an_anchor_is_measured_with_every_method():
    found = list(engine_anchor.rows(SMALL, rounds=1))
    names = [f"{name}_anchored_over_plain" for name in ("moco_v2", "byol", "simclr")]
    assert [row.name for row in found] == names
    assert all(row.ratio > 0 for row in found)
