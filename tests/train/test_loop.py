"""The loop by itself, on a method small enough to try every save point."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from hpt_dist.errors import Interrupted, TrainingError
from hpt_dist.methods import Loss, Method
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.store import open_store
from hpt_dist.train import optim
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.train.loop import FLOAT32, Loop, fit, make_accelerator
from hpt_dist.train.selection import Evaluation, Look

STEPS = 12


class Regression(Method):
    """Two phases, state outside the parameters, and a layer that draws from torch's generator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 1)
        self.phases = 2
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, inputs, phase):
        features = self.backbone(inputs[0])
        self.last = features.detach().float().mean(dim=0)
        total = (self.head(features) - phase).square().mean()
        return Loss(total, {"loss": total.detach()})

    @torch.no_grad()
    def after_step(self, done):
        self.mean.lerp_(self.last, 0.1)


class Watched:
    """An observer that remembers, and asks to stop or counts as fenced off at a step."""

    def __init__(self, interrupt=None, stop_after=None):
        self.points, self.interrupt, self.stop_after = [], interrupt, stop_after

    def metrics(self, step, values):
        self.points.append((step, values))

    def progress(self, step, steps, images_per_second):
        assert 0 < step <= steps
        assert images_per_second > 0

    def looked(self, selection):
        assert selection.history

    def metrics_so_far(self):
        return ""

    def restore_metrics(self, lines):
        assert lines == ""

    def check(self):
        pass


@contextmanager
def feed(start, interrupt=None, stop_after=None, bad=None):
    def inputs():
        step = start
        while True:
            generator = torch.Generator().manual_seed(step)
            batch = torch.randn(6, 4, generator=generator)
            if step == bad:
                batch[0, 0] = float("nan")
            if interrupt is not None and step + 1 == stop_after:
                interrupt.cause = "SIGTERM"
            yield ((batch,), (batch,))
            step += 1

    yield inputs()


def rates(optimizer, step):
    optim.set_learning_rates(optimizer, head=optim.cosine(step, STEPS), backbone=1.0)
    return 0.1


def run(folder, *, interrupt=None, stop_after=None, bad=None, evaluation=None, every=1000, **more):
    interrupt = interrupt or Interrupt()
    accelerator = make_accelerator(threads=1, seed=3)
    method = Regression()
    optimizer = optim.build(
        method, method.backbone, name="sgd", lr=0.1, weight_decay=0.01, momentum=0.9,
        nesterov=True, trust=1e-3, backbone_lr_scale=0.5,
        fused=more.get("numerics", FLOAT32).precision != "float16",
    )  # fmt: skip
    observer = Watched()
    loop = Loop(
        method=method,
        optimizer=optimizer,
        set_rates=rates,
        feed=partial(feed, interrupt=interrupt, stop_after=stop_after, bad=bad),
        steps=STEPS,
        images_per_step=6,
        checkpoints=Checkpoints(open_store(str(folder))),
        checkpoint_every=every,
        evaluation=evaluation(method) if evaluation else None,
        **more,
    )
    outcome = fit(loop, accelerator, observer, interrupt)
    return method.state_dict(), outcome, observer


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_interrupted_after_any_step_it_ends_with_the_same_bits(tmp_path, step):
    expected, _, _ = run(tmp_path / "undisturbed")
    with pytest.raises(Interrupted, match=f"SIGTERM after step {step}"):
        run(tmp_path / "disturbed", interrupt=Interrupt(), stop_after=step)
    got, outcome, _ = run(tmp_path / "disturbed")
    assert same(expected, got)
    assert outcome.seconds_before > 0


def test_saving_more_often_changes_nothing(tmp_path):
    assert same(run(tmp_path / "never")[0], run(tmp_path / "always", every=1)[0])


def test_the_last_step_is_saved_where_something_comes_after_it(tmp_path):
    expected, _, _ = run(tmp_path / "plain")
    assert Checkpoints(open_store(str(tmp_path / "plain"))).steps() == []
    got, _, _ = run(tmp_path / "followed", saves_last=True)
    assert Checkpoints(open_store(str(tmp_path / "followed"))).steps() == [STEPS]
    again, _, observer = run(tmp_path / "followed", saves_last=True)
    assert same(expected, got)
    assert same(expected, again)
    assert observer.points == []  # no step was taken twice


def test_a_loss_that_is_not_finite_stops_with_its_step_and_the_last_good_state(tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at step 8[\s\S]*that of step 4"):
        run(tmp_path, bad=7, every=4)
    # A damaged state is never saved.
    assert Checkpoints(open_store(str(tmp_path))).steps() == [4]


def test_patience_stops_and_the_best_is_kept_also_over_a_restart(tmp_path):
    values = {2: 0.1, 4: 0.7, 6: 0.7, 8: 0.2, 10: 0.3, 12: 0.9}

    def evaluation(method, patience=2):
        seen = []

        def evaluate():
            seen.append(len(seen))
            # How often it was trained tells the step, whichever process asks.
            return Look({"val/top1": values[int(method.steps)]})

        method.register_buffer("steps", torch.zeros(()))
        after = method.after_step

        def counted(done):
            after(done)
            method.steps += 1
            assert method.steps == done

        method.after_step = counted
        return Evaluation(
            every=2, run=evaluate, keeps=method, select_on="val/top1", patience=patience
        )

    _, outcome, _ = run(tmp_path / "at once", evaluation=evaluation)
    assert (outcome.selection.best_step, outcome.selection.best_value) == (6, 0.7)
    assert outcome.selection.weights["steps"] == 6
    assert [step for step, _ in outcome.selection.history] == [2, 4, 6, 8, 10]
    for stop in range(1, 11):  # also where a look is due, and at the last one, which ends it
        with pytest.raises(Interrupted):
            run(tmp_path / f"{stop}", interrupt=Interrupt(), stop_after=stop, evaluation=evaluation)
        _, resumed, _ = run(tmp_path / f"{stop}", evaluation=evaluation)
        assert resumed.selection.history == outcome.selection.history
        assert same(resumed.selection.weights, outcome.selection.weights)


@pytest.mark.parametrize("look", [1, 2, STEPS // 3])
def test_stopped_in_a_look_it_looks_again_and_ends_with_the_same_bits(tmp_path, look):
    looks = []

    def evaluation(method, interrupt, stop=False):
        def evaluate():
            looks.append(method)
            for _ in interrupt.heeding(range(2)):
                if stop and len(looks) == look:
                    interrupt.ask("SIGTERM")
            return Look({"val/top1": float(method.head.weight.detach().sum())})

        return Evaluation(every=3, run=evaluate, keeps=method, select_on="val/top1")

    undisturbed = partial(evaluation, interrupt=Interrupt())
    expected, outcome, _ = run(tmp_path / "at once", evaluation=undisturbed)
    looks.clear()
    interrupt = Interrupt()
    asked = partial(evaluation, interrupt=interrupt, stop=True)
    with pytest.raises(Interrupted, match="while it looked at images"):
        run(tmp_path / "twice", interrupt=interrupt, evaluation=asked)
    assert Checkpoints(open_store(str(tmp_path / "twice"))).steps() == [3 * look]
    got, resumed, _ = run(tmp_path / "twice", evaluation=undisturbed)
    assert same(got, expected)
    assert resumed.selection.history == outcome.selection.history


def test_the_samples_of_a_loss_that_is_not_finite_are_named(tmp_path, caplog):
    def keys_of(step):
        return [f"step {step} image {i}" for i in range(10)]

    with pytest.raises(TrainingError, match=r"samples step 7 image 0, .* and 2 more, in the log"):
        run(tmp_path, bad=7, keys_of=keys_of)
    assert "the samples of step 8: step 7 image 0 " in caplog.text
    assert "image 9" in caplog.text


def test_the_incoming_weights_are_kept_where_nothing_is_better(tmp_path):
    def evaluation(method):
        def evaluate():
            return Look({"val/top1": 0.5})

        return Evaluation(
            every=5, run=evaluate, keeps=method, select_on="val/top1",
            before_training=True, ties="earlier",
        )  # fmt: skip

    before = {name: value.clone() for name, value in Regression().state_dict().items()}
    _, outcome, _ = run(tmp_path / "at once", evaluation=evaluation)
    assert [step for step, _ in outcome.selection.history] == [0, 5, 10, 12]
    assert outcome.selection.best_step == 0
    assert same(outcome.selection.weights, before)
    with pytest.raises(Interrupted):
        run(tmp_path / "twice", interrupt=Interrupt(), stop_after=5, evaluation=evaluation)
    _, resumed, _ = run(tmp_path / "twice", evaluation=evaluation)
    assert resumed.selection.history == outcome.selection.history
    assert same(resumed.selection.weights, before)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions_resume_with_the_same_bits_and_their_scale(tmp_path, precision):
    settings = {"numerics": Numerics(precision, "contiguous")}
    expected, _, _ = run(tmp_path / "undisturbed", **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "disturbed", interrupt=Interrupt(), stop_after=5, **settings)
    _, state = Checkpoints(open_store(str(tmp_path / "disturbed"))).latest()
    assert (state["scaler"].get("scale", 0) > 1) is (precision == "float16")
    got, _, _ = run(tmp_path / "disturbed", **settings)
    assert same(expected, got)
    assert not same(expected, run(tmp_path / "float32")[0])


def test_every_window_of_metrics_is_written_once(tmp_path):
    _, _, observer = run(tmp_path, every=4)
    steps = [step for step, values in observer.points if "train/loss" in values]
    assert steps == [4, 8, 10, 12]
