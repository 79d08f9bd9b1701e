"""Differences and pooled intervals: by hand, and how often they hold the truth."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from evidence import pooled
from evidence.pooled import Difference, Part
from hpt_dist.evals import evidence

RUNS = 4000


def bits(*rows):
    return [np.array([c == "1" for c in row]) for row in rows]


def test_a_difference_by_hand():
    """Three seeds, four images: the arm wins 1, 2 and 0 images, and loses none."""
    one = pooled.difference(bits("1100", "1110", "1000"), bits("1000", "1000", "1000"))
    assert one.mean == pytest.approx(25)
    assert one.seeds == Part(pytest.approx(25**2 / 3), 2)
    assert one.seeds_half == pytest.approx(4.302653 * 25 / math.sqrt(3))
    # By image: 0, 200 / 3, 100 / 3 and 0; 100^2 / 3 for the half images; (4 + 2)^2.
    squares = (25**2 + (200 / 3 - 25) ** 2 + (100 / 3 - 25) ** 2 + 25**2 + 100**2 / 3) / 36
    assert one.images.variance == pytest.approx(squares)
    assert one.verdict == "no evidence"


def test_of_one_seed_the_images_are_those_of_the_gate_and_there_is_no_verdict():
    after, before = bits("11110000" * 20, "11001000" * 20)
    one = pooled.difference([after], [before])
    gate = evidence.gate({0: before, 1: after}, kept=1, last=1)
    assert one.mean == pytest.approx(gate.mean)
    assert one.images_half == pytest.approx(gate.half_width, rel=0.02)
    assert (one.seeds_half, one.verdict) == (None, "none")


def test_a_verdict_needs_both_intervals():
    few, many = Part(0.01, 4), Part(25.0, 400)
    assert Difference(3.0, few, Part(0.01, 400)).verdict == "helped"
    assert Difference(-3.0, few, Part(0.01, 400)).verdict == "harmed"
    assert Difference(3.0, few, many).verdict == "no evidence"
    assert Difference(3.0, Part(25.0, 4), Part(0.01, 400)).verdict == "no evidence"


def test_other_targets_are_a_t_test():
    means = [1.2, -0.4, 2.6]
    found = pooled.over_targets(means)
    low, high = ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )
    assert pooled.over_targets([2.0]) == pooled.Pooled(2.0, None, 1)


def test_undecided_targets_decide_together():
    undecided = [Difference(1.0, Part(0.2, 4), Part(0.15, 400)) for _ in range(6)]
    assert {one.verdict for one in undecided} == {"no evidence"}
    found = pooled.on_these_targets(undecided)
    variance = 6 * (0.2 + 0.15) / 36
    degrees = (0.2 * 6 + 0.15 * 6) ** 2 / (6 * 0.2**2 / 4 + 6 * 0.15**2 / 400)
    reach = t.ppf(0.975, math.floor(degrees))
    assert found.half_width == pytest.approx(reach * math.sqrt(variance))
    assert found.verdict == "helped"


def test_targets_with_the_same_images_are_one_domain():
    """Their trainings are independent, and the errors of their images do not cancel."""
    one, other = (Difference(m, Part(0.4, 4), Part(0.3, 400)) for m in (1.0, 2.0))
    domain = pooled.of_a_domain([one, other])
    assert domain.mean == pytest.approx(1.5)
    assert domain.seeds == Part(pytest.approx(0.2), pytest.approx(8))
    assert domain.images.variance == pytest.approx(0.3)
    no_verdict = pooled.of_a_domain([one, Difference(2.0, None, Part(0.3, 400))])
    assert no_verdict.seeds is None
    assert pooled.on_these_targets([no_verdict]).half_width is None


def drawn(generator, effects, seeds, noise, images):
    """Draw what targets measure of known effects: seeds of their own, images that seeds share."""
    found = []
    for effect, scatter, error in zip(effects, noise, images, strict=True):
        values = effect + error * generator.normal() + scatter * generator.normal(size=seeds)
        found.append(
            Difference(
                float(values.mean()),
                Part(float(values.var(ddof=1)) / seeds, seeds - 1),
                Part(error**2, 400),
            )
        )
    return found


def by_inverse_variance(targets):
    """Return the mean and half of the interval of the usual fixed-effect model."""
    weights = [1 / one.seeds.variance for one in targets]
    mean = sum(w * one.mean for w, one in zip(weights, targets, strict=True)) / sum(weights)
    return mean, 1.959964 / math.sqrt(sum(weights))


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_on_these_targets_holds_the_truth(seeds):
    generator, effects = np.random.default_rng(seeds), (2.0, -1.0, 0.5)
    held = 0
    for _ in range(RUNS):
        found = pooled.on_these_targets(
            drawn(generator, effects, seeds, (1.0, 1.5, 0.5), (0.9, 1.2, 0.3))
        )
        held += abs(found.mean - fmean(effects)) < found.half_width
    assert 0.93 < held / RUNS < 0.97


def test_the_interval_of_another_target_holds_the_truth():
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(RUNS):
        effects = 1.0 + 1.5 * generator.normal(size=4)
        its = drawn(generator, effects, 5, (1.0,) * 4, (0.5,) * 4)
        found = pooled.over_targets([one.mean for one in its])
        held += abs(found.mean - 1.0) < found.half_width
    assert 0.93 < held / RUNS < 0.97


def test_weights_by_inverse_variance_would_not():
    """Why they are not used: also with images that are known exactly."""
    generator = np.random.default_rng(8)
    held = 0
    for _ in range(RUNS):
        its = drawn(generator, (1.0,) * 4, 5, (1.0,) * 4, (0.0,) * 4)
        mean, half = by_inverse_variance(its)
        held += abs(mean - 1.0) < half
    assert held / RUNS < 0.9


def test_both_intervals_of_real_answers_hold_the_truth():
    """Answers of simulated trainings on simulated images: each interval covers its own chance."""
    generator, images, seeds = np.random.default_rng(9), 400, 5
    held_images = held_seeds = 0
    runs = 1000
    hard = generator.random(20_000)  # all images there are, by how hard they are
    for _ in range(runs):
        chosen = generator.choice(hard, images)
        skill = generator.normal(0.65, 0.02, size=seeds)
        row = (chosen < skill[:, None]) ^ (generator.random((seeds, images)) < 0.05)
        base = np.tile(chosen < 0.6, (seeds, 1))
        one = pooled.difference(list(row), list(base))
        of_all = 100 * (np.where(hard < 0.65, 0.95, 0.05).mean() - (hard < 0.6).mean())
        held_images += abs(one.mean - of_all) < math.hypot(one.images_half, one.seeds_half)
        here = 100 * (np.where(chosen < 0.65, 0.95, 0.05).mean() - base[0].mean())
        held_seeds += abs(one.mean - here) < one.seeds_half
    assert held_images / runs > 0.95
    assert 0.92 < held_seeds / runs < 0.98
