"""The statistics of a report against scipy, and verdicts in words."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hpt_dist.evals import evidence
from hpt_dist.evals.evidence import on_images, paired, scale_of, seed_differences
from hpt_dist.train.averages import Average

Bools = npt.NDArray[np.bool_]

TOP1 = scale_of("test/top1")
# Rounded as accuracies are, so that spreads are either zero or far from rounding.
accuracies = st.integers(0, 1000).map(lambda n: n / 1000)
N = 400


@settings(deadline=None)
@given(
    st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=12),
    st.randoms(use_true_random=False),
)
def test_paired_differences_are_scipys_and_have_no_order(
    pairs: list[tuple[float, float]], shuffle: random.Random
) -> None:
    ours = [({"seed": str(n)}, pair[0]) for n, pair in enumerate(pairs)]
    base = [({"seed": str(n)}, pair[1]) for n, pair in enumerate(pairs)]
    expected = [a - b for a, b in pairs]
    found = seed_differences(ours, base)
    assert sorted(found) == sorted(expected)
    shuffle.shuffle(ours)
    shuffle.shuffle(base)
    assert seed_differences(ours, base) == found
    comparison = paired([d * 100 for d in found], TOP1)
    if np.ptp(expected) < 1e-9:
        assert comparison.verdict == "none"
        return
    test = stats.ttest_rel([a * 100 for a, _ in pairs], [b * 100 for _, b in pairs])
    interval = test.confidence_interval(0.95)
    assert comparison.mean == pytest.approx(np.mean(expected) * 100, abs=1e-9)
    assert comparison.mean - comparison.half_width == pytest.approx(interval.low, abs=1e-7)
    assert comparison.mean + comparison.half_width == pytest.approx(interval.high, abs=1e-7)
    if abs(test.pvalue - 0.05) > 1e-9:
        verdicts = ("helped", "harmed")
        assert (comparison.verdict in verdicts) == (test.pvalue < 0.05)
    assert comparison.detectable > comparison.half_width


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_the_verdict_turns_with_the_sign(differences: list[float]) -> None:
    turned = {"helped": "harmed", "harmed": "helped"}
    there = paired(differences, TOP1)
    back = paired([-d for d in differences], TOP1)
    assert back.verdict == turned.get(there.verdict, there.verdict)
    loss = paired(differences, scale_of("val/loss"))
    assert loss.verdict == turned.get(there.verdict, there.verdict)
    assert there.says.startswith(
        {
            "helped": "helped by +",
            "harmed": "harmed by -",
            "no evidence": "no evidence of a difference: ",
            "none": there.says[:1],
        }[there.verdict]
    )


def test_too_little_gives_no_verdict() -> None:
    for few in ([], [30.0], [30.0, 30.0], [30.0, 30.0 + 1e-12], [math.nan, 1.0], [1.0, math.inf]):
        comparison = paired(few, TOP1)
        assert comparison.verdict == "none"
        assert comparison.half_width is None
        assert not comparison.says.startswith(("helped", "harmed"))


def test_no_evidence_says_what_the_seeds_can_show() -> None:
    says = paired([1.0, -1.0, 0.5], TOP1).says
    assert re.fullmatch(
        r"no evidence of a difference: \+0\.2 ± 2\.6 points \(n=3 seeds\); "
        r"this many seeds can show differences above 3\.2 points",
        says,
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_a_detectable_difference_is_found_four_times_in_five(n: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(4000, n))
    detectable = paired(list(np.sqrt(n) * stats.zscore(np.arange(n), ddof=1)), TOP1).detectable
    assert detectable is not None
    # In units of a standard error of 1: shift by it, and test with the known quantiles.
    shifted = noise * np.sqrt(n) + detectable
    power = np.mean(stats.ttest_1samp(shifted, 0, axis=1).pvalue < 0.05)
    assert 0.7 < power < 0.95


def test_settings_beside_the_seed_are_no_repetitions() -> None:
    def side(shift: float) -> list[tuple[dict[str, str], float]]:
        return [
            ({"seed": str(seed), "objective": objective}, 0.1 * seed + shift * factor)
            for seed in (0, 1)
            for objective, factor in (("mme", 1.0), ("ent", 3.0))
        ]

    assert seed_differences(side(0.2), side(0.1)) == pytest.approx([0.2, 0.2])
    # A seed that lacks one of them would be the average of something else.
    assert seed_differences(side(0.2)[:-1], side(0.1)) == pytest.approx([0.2])


def test_what_only_one_side_sweeps_is_averaged() -> None:
    ours = [({"hpt.seed": str(n)}, 0.5 + 0.1 * n) for n in range(3)]
    base = [({}, 0.5)]
    assert seed_differences(ours, base) == pytest.approx([0.1])
    assert seed_differences(ours, base, fixed_base=True) == pytest.approx([0.0, 0.1, 0.2])


@given(accuracies, accuracies, st.integers(1, 5000))
def test_one_model_each_is_judged_by_the_images(ours: float, base: float, images: int) -> None:
    comparison = on_images(ours, base, images, "validation", TOP1)
    assert comparison.mean == pytest.approx((ours - base) * 100)
    assert comparison.half_width > 0
    if images > 1000 and 0.1 < min(ours, base) <= max(ours, base) < 0.9:
        error = math.sqrt((ours * (1 - ours) + base * (1 - base)) / images)
        assert comparison.half_width == pytest.approx(196 * error, rel=0.02)
    wide = on_images(ours, base, images * 4, "validation", TOP1)
    assert wide.half_width < comparison.half_width


def right(share: float, seed: int = 0) -> Bools:
    return np.random.default_rng(seed).random(N) < share


def flipped(base: Bools, gained: int, lost: int) -> Bools:
    """Return answers that are right for some more and for some fewer images."""
    ours = base.copy()
    ours[np.flatnonzero(~base)[:gained]] = True
    ours[np.flatnonzero(base)[:lost]] = False
    return ours


def test_verdicts_in_words() -> None:
    base = right(0.5)
    helped = evidence.gate({0: base, 10: flipped(base, 60, 10)}, kept=10, last=10)
    assert helped.verdict == "helped"
    assert helped.mean == pytest.approx(12.5)
    assert helped.says.startswith("this stage helped by +12.5 ± ")
    assert helped.says.endswith("kept step 10")
    harmed = evidence.gate({0: base, 10: flipped(base, 10, 60)}, kept=0, last=10)
    assert harmed.says.startswith("harmed: -12.5 ± ")
    assert harmed.says.endswith(
        "at step 10 (nearest neighbours, 400 validation images, 1 look); kept the base"
    )
    kept_anyway = evidence.gate({0: base, 10: flipped(base, 10, 60)}, kept=10, last=10)
    assert kept_anyway.says.startswith("this stage harmed: -12.5 ± ")
    little = evidence.gate({0: base, 10: flipped(base, 12, 10)}, kept=10, last=10)
    assert little.verdict == "no evidence"
    same = evidence.gate({0: base, 10: base}, kept=0, last=10)
    assert same.verdict == "no evidence"
    assert "no step was better: +0.0 ± 0.5 points at step 10" in same.says


@given(st.integers(0, 80), st.integers(0, 80))
def test_the_interval_agrees_with_the_exact_test_away_from_its_edge(gained: int, lost: int) -> None:
    base = right(0.5)
    verdict = evidence.gate({0: base, 1: flipped(base, gained, lost)}, kept=1, last=1).verdict
    if gained + lost:
        p = stats.binomtest(gained, gained + lost).pvalue
        if p < 0.03:
            assert verdict == ("helped" if gained > lost else "harmed")
        elif p > 0.08:
            assert verdict == "no evidence"


def test_looking_more_often_asks_for_more_evidence() -> None:
    base = right(0.5)
    ours = flipped(base, 40, 20)
    few = evidence.gate({0: base, 1: ours}, kept=1, last=1)
    many = evidence.gate({0: base, **dict.fromkeys(range(1, 21), ours)}, kept=1, last=20)
    assert few.verdict == "helped"
    assert many.verdict == "no evidence"
    assert many.half_width > 1.4 * few.half_width


def test_an_average_is_one_more_look_and_has_its_name() -> None:
    base = right(0.5)
    ours = flipped(base, 60, 10)
    average = Average(0.5, 20)
    looks = {0: base, 10: base, 20: base, Average(0.25, 20): base, average: ours}
    found = evidence.gate(looks, kept=average, last=20)
    as_steps = evidence.gate({0: base, 1: base, 2: base, 3: base, 4: ours}, kept=4, last=4)
    assert (found.mean, found.half_width, found.looks) == (as_steps.mean, as_steps.half_width, 4)
    assert (found.kept_step, found.judged_step, found.kept_average) == (20, 20, 0.5)
    assert found.says.endswith(
        "400 validation images, 4 looks, 2 of them at averages); "
        "kept 0.5 of the way from the base to step 20"
    )
    worse = evidence.gate(looks, kept=0, last=20)
    assert worse.says.startswith("no step and no average was better: +0.0 ± ")
    assert (worse.kept_step, worse.judged_step, worse.kept_average) == (0, 20, None)


def test_the_best_of_many_looks_without_an_effect_passes_rarely() -> None:
    generator = np.random.default_rng(1)
    verdicts = []
    for _ in range(300):
        base = generator.random(N) < 0.5
        looks = {
            step: np.where(generator.random(N) < 0.2, generator.random(N) < 0.5, base)
            for step in range(1, 11)
        }
        best = max(looks, key=lambda step: looks[step].mean())
        verdicts.append(evidence.gate({0: base, **looks}, kept=best, last=10).verdict)
    assert verdicts.count("helped") <= 0.08 * len(verdicts)


def test_the_statistics_load_neither_torch_nor_scipy() -> None:
    code = "import sys, hpt_dist.evals.evidence; print({'torch', 'scipy'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr
