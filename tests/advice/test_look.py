"""A real look at drawings with real weights, and what its parts compute."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import encoded, picture, sample, write
from scipy import stats

from hpt_dist.advice import features, look
from hpt_dist.advice.clock import Clock
from hpt_dist.advice.look import PIXELS, Place, Question
from hpt_dist.advice.recommending import _placed
from hpt_dist.errors import RequestError
from hpt_dist.evals.features import Labelled
from hpt_dist.networks import backbones, refresh
from hpt_dist.store import open_store

LITE0 = ("package/efficientnet-lite0", "timm/tf_efficientnet_lite0")
TINY = ("random", "timm/test_efficientnet")


@pytest.fixture
def placed(drawings):
    store = open_store(str(drawings))
    return lambda name: _placed(store, name)


def asked(target: Place, *sources: Place, bases=(LITE0,), seconds=6.0) -> Question:
    return Question(target, sources, bases, target.store, "cpu", 1, seconds)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_look_at_drawings_sees_what_they_are(placed):
    line, color = placed("openmoji/line"), placed("openmoji/color")
    lines = []
    found = look.look(asked(line, color, seconds=15.0), lines.append)
    assert lines[0] == "looking at images of line"
    assert lines[-1] == "measuring how fast this machine trains"
    assert found.pictures.short_sides == (128, 128, 128)
    assert (found.pictures.gray, found.pictures.deep) == (1.0, 0.0)
    assert found.copies
    assert found.copies.exact == 0
    [lite0] = found.bases
    assert lite0.score
    assert lite0.dim == 1280
    assert lite0.score.interval
    # One of 38 classes by chance.
    assert lite0.score.interval[0] > 1 / 38
    assert [(one.one, one.other) for one in found.differences] == [(LITE0[0], PIXELS)]
    [source] = found.sources
    assert source.distance
    assert source.distance > 1
    assert found.speed.views_per_second > 0
    assert (found.speed.size, found.speed.batch) == (64, 64)


@pytest.mark.usefixtures("threads")
def test_a_look_that_has_no_time_sees_a_little_of_everything(placed):
    line = placed("openmoji/line")
    began = time.process_time()
    other = ("random", "timm/test_vit")
    found = look.look(asked(line, bases=(TINY, other), seconds=0.01), lambda _: None)
    assert len(found.differences) == 2
    assert found.bases[1].shift is None
    assert found.pictures.seen == 2
    assert found.bases[0].score
    assert found.bases[0].score.images <= 64
    assert found.speed.steps == 2
    assert time.process_time() - began < 20


@pytest.mark.usefixtures("threads")
def test_images_of_a_source_that_judge_the_target_are_found(tmp_path):
    def shown(first, count, split, kind="PNG"):
        numbers = range(first, first + count)
        made = ((n, encoded(picture(n, (48, 32)), kind)) for n in numbers)
        return [sample(f"{split}-{n}", data, split, n % 3) for n, data in made]

    store = open_store(str(tmp_path))
    write(store, "photos", [*shown(0, 12, "train"), *shown(20, 6, "val"), *shown(30, 6, "test")])
    crowd = [*shown(30, 2, "train"), *shown(21, 1, "unlabeled", "JPEG"), *shown(50, 9, "train")]
    write(store, "crowd", [replace(one, label=None) for one in crowd], classes="")
    question = asked(
        _placed(store, "photos"), _placed(store, "crowd"), bases=(TINY,), seconds=100.0
    )
    found = look.look(question, lambda _: None)
    assert found.copies
    assert found.copies.exact == 2
    assert (found.copies.judged, found.copies.others, found.copies.near) == (12, 24, 3)
    assert found.copies.whole
    assert found.sources[0].distance


def test_weights_that_do_not_fit_are_refused(placed):
    question = asked(placed("openmoji/line"), bases=((LITE0[0], "timm/resnet18"),), seconds=0.01)
    with pytest.raises(RequestError, match="cannot be a base"):
        look.look(question, lambda _: None)


def test_distances_are_1_for_the_like_and_rank_the_others():
    generator = torch.Generator().manual_seed(0)

    def drawn(count, shift=0.0, scale=1.0):
        return scale * torch.randn(count, 40, generator=generator) + shift

    (same, spread), (near, _), (far, _), (wide, _) = features.distances(
        drawn(400), [drawn(300), drawn(500, 0.3), drawn(300, 1.0), drawn(300, 0.0, 2.0)]
    )
    assert same == pytest.approx(1, abs=0.15)
    assert spread < 0.15
    assert same < near < far
    assert wide > 2 * same


def test_the_shift_is_0_where_batch_norm_knows_the_data_and_1_where_it_is_a_deviation_off():
    torch.manual_seed(0)
    backbone = backbones.create("timm/test_efficientnet").eval()
    images = torch.rand(16, 3, 32, 32)
    with features._watched(backbone) as seen, torch.no_grad():
        backbone(images)
    moments = {name: refresh.pooled(parts) for name, parts in seen.items()}
    for name, layer in refresh.layers_of(backbone).items():
        layer.running_mean.copy_(moments[name].mean)
        layer.running_var.copy_(moments[name].var)
    assert features.shift(backbone, moments) == pytest.approx(0, abs=1e-3)
    for layer in refresh.layers_of(backbone).values():
        layer.running_mean.add_(layer.running_var.sqrt())
    assert features.shift(backbone, moments) == pytest.approx(1, abs=1e-3)
    assert features.shift(torch.nn.Linear(2, 2), {}) is None


def test_a_difference_is_decided_as_often_as_it_should_be():
    """Of equal models the verdict is wrong in about one of twenty looks."""
    wrong = 0
    generator = np.random.default_rng(0)
    for _ in range(40):
        labels = torch.from_numpy(generator.integers(0, 4, 120))
        both = []
        for _ in range(2):
            bank = torch.from_numpy(generator.normal(size=(120, 8)).astype(np.float32))
            own = torch.from_numpy(generator.normal(size=(120, 8)).astype(np.float32))
            centres = torch.eye(8)[labels]
            queries = Labelled(own + 2 * centres, labels)
            known = Labelled(bank + 2 * centres, labels)
            settings = {"num_classes": 4, "k": 5, "metric": "top1", "split": "val"}
            both.append(features.judged(known, queries, **settings))
        found = features.compared("a", both[0], "b", both[1], 1)
        wrong += found.verdict != "undecided"
    assert wrong <= stats.binom.ppf(0.999, 40, 0.05)


def test_a_clock_gives_each_part_a_share_and_the_least_in_any_case():
    clock = Clock(0)
    assert list(clock.within("abc", least=2)) == ["a", "b"]
    assert list(Clock(100).within("abc")) == ["a", "b", "c"]
    assert 40 < Clock(100).part(0.5).left() <= 50
