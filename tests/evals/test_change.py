"""How far features moved, and how many images show a gain."""

import math

import numpy as np
import pytest
import torch

from hpt_dist.errors import TrainingError
from hpt_dist.evals import evidence
from hpt_dist.evals.change import kept_neighbours, mean_cosine


def features(n=300, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def nearest(rows, k):
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    similar = (unit @ unit.T).fill_diagonal_(-2)
    return [set(row.tolist()) for row in similar.argsort(dim=1, descending=True)[:, :k]]


def test_neighbours_are_counted_as_one_by_one():
    before, after = features(), features() + 0.4 * features(seed=1)
    pairs = zip(nearest(before, 7), nearest(after, 7), strict=True)
    expected = np.mean([len(one & other) / 7 for one, other in pairs])
    assert kept_neighbours(before, after, 7) == pytest.approx(expected)
    assert 0.1 < expected < 0.9


def test_what_keeps_directions_changes_nothing():
    before = features()
    scaled = before * torch.rand(len(before), 1).add(0.1)
    assert mean_cosine(before, scaled) == pytest.approx(1)
    assert kept_neighbours(before, scaled, 10) == 1
    assert mean_cosine(before, -before) == pytest.approx(-1)
    turned = before @ torch.linalg.qr(features(12, 12, 3)).Q
    assert kept_neighbours(before, turned, 10) > 0.999
    assert abs(mean_cosine(before, turned)) < 0.9


def test_features_that_are_not_finite_are_refused():
    bad = features()
    bad[3, 2] = math.nan
    for call in (mean_cosine, lambda one, other: kept_neighbours(one, other, 3)):
        with pytest.raises(TrainingError, match="1 of 300 images are not finite"):
            call(features(), bad)


@pytest.mark.parametrize("gain", [0.1, 0.05])
def test_so_many_images_show_a_gain_in_four_of_five_experiments(gain):
    changed = 0.2
    n = evidence.images_to_show(gain, changed)
    rng = np.random.default_rng(0)
    won = (changed + gain) / 2  # by the better model alone
    draws = rng.multinomial(n, [won, changed - won, 1 - changed], size=4000)
    difference, variance = draws[:, 0] - draws[:, 1], draws[:, 0] + draws[:, 1]
    shown = difference > 1.96 * np.sqrt(variance)
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
