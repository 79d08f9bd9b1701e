"""Differences over resampled images: what is found, and that noise is not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from reports import finished, launched

from hpt_dist.evals import bootstrap, evidence, metrics, resampled
from hpt_dist.report.report import build
from hpt_dist.train.averages import Average
from hpt_dist.train.selection import Evaluation, Look, Selection

N, CLASSES = 120, 4
SCALE = evidence.scale_of("val/auroc")


def labels_of(generator, n=N):
    return generator.random((n, CLASSES)) < 0.3


def model(generator, labels, skill):
    """Log-odds of a model with errors of its own."""
    return skill * labels + generator.normal(0, 1, labels.shape)


def measured(scores, labels, name="auroc"):
    return metrics.compute(name, scores, labels), bootstrap.replicates([name], scores, labels)[name]


def difference(one, other, n=N):
    (value, drawn), (base, base_drawn) = one, other
    return value - base, resampled.half_width((drawn - base_drawn).tolist(), n)


def test_models_that_share_their_errors_are_told_apart_by_fewer_images():
    generator = np.random.default_rng(1)
    labels = labels_of(generator)
    base = model(generator, labels, 0.8)
    better = base + 0.15 * labels + 0.05 * generator.normal(size=base.shape)
    mean, half = difference(measured(better, labels), measured(base, labels))
    assert resampled.one_model_each(100 * mean, 100 * half, N, "test", SCALE).verdict == "helped"
    # Each by itself has an interval that holds the other's value.
    low, _ = bootstrap.interval(*measured(better, labels), N)
    assert low < measured(base, labels)[0]


def test_models_that_answer_alike_differ_by_nothing():
    generator = np.random.default_rng(2)
    labels = labels_of(generator)
    scores = model(generator, labels, 1.0)
    mean, half = difference(
        measured(scores, labels), measured(2 * scores, labels)
    )  # the same ranks
    assert (mean, half) == (0, 0)
    assert resampled.one_model_each(mean, half, N, "test", SCALE).verdict == "no evidence"


@pytest.mark.parametrize("differences", [[0.1] * 5, [math.nan, 0.1], [], [math.nan]])
def test_draws_that_cannot_tell_show_nothing(differences):
    half = resampled.half_width(differences, 10)
    assert half == 1.0
    assert resampled.one_model_each(90.0, 100 * half, 10, "test", SCALE).verdict == "no evidence"
    assert resampled.half_width([0.1, 0.2], 1) == 1.0


@pytest.mark.parametrize(
    ("seeds", "images", "verdict"),
    [
        ([2.0, 2.1, 1.9], 1.0, "helped"),
        ([-2.0, -2.1, -1.9], 1.0, "harmed"),
        ([2.0, 2.1, 1.9], 3.0, "no evidence"),  # other images might say otherwise
        ([9.0, -5.0, 2.0], 1.0, "no evidence"),  # other seeds might
    ],
)
def test_a_verdict_over_seeds_needs_the_images_too(seeds, images, verdict):
    over_seeds = evidence.paired(seeds, SCALE)
    found = resampled.by_seeds_and_images(over_seeds, images, N, "test", SCALE)
    assert found.verdict == verdict
    assert (found.half_width, found.images_half_width) == (over_seeds.half_width, images)
    assert f"± {images:.1f} over 120 test images, paired bootstrap)" in found.says
    assert f"± {over_seeds.half_width:.1f} over n=3 seeds" in found.says


def looks(generator, skills, name="auroc"):
    labels = labels_of(generator)
    return {step: measured(model(generator, labels, s), labels, name) for step, s in skills.items()}


def judged(found, kept, metric="knn/auroc"):
    values, drawn = ({step: one[at] for step, one in found.items()} for at in (0, 1))
    return resampled.gate(metric, values, drawn, N, kept=kept, last=max(found))


def test_verdicts_on_a_stage_in_words():
    found = looks(np.random.default_rng(3), {0: 0.5, 5: 2.0, 10: 0.5})
    helped = judged(found, kept=5)
    assert helped.verdict == "helped"
    assert helped.mean == pytest.approx(100 * (found[5][0] - found[0][0]))
    assert helped.says.startswith("this stage helped by +")
    assert helped.says.endswith(
        "points (AUROC, mean over classes, nearest neighbours, paired bootstrap over 120 "
        "validation images, 2 looks); kept step 5"
    )
    harmed = judged(looks(np.random.default_rng(3), {0: 2.0, 5: 0.5}), kept=0)
    assert harmed.verdict == "harmed"
    assert harmed.says.endswith("1 look); kept the base")


def test_an_average_is_one_more_look():
    steps = looks(np.random.default_rng(3), {0: 0.5, 5: 2.0, 10: 0.5})
    average = Average(0.5, 10)
    values, drawn = ({0: steps[0][at], 10: steps[10][at], average: steps[5][at]} for at in (0, 1))
    found = resampled.gate("knn/auroc", values, drawn, N, kept=average, last=10)
    as_step = judged(steps, kept=5)
    assert (found.mean, found.half_width) == (as_step.mean, as_step.half_width)
    assert found.says.endswith(
        "2 looks, 1 of them at averages); kept 0.5 of the way from the base to step 10"
    )


def test_less_error_is_better():
    generator = np.random.default_rng(3)
    scores = generator.normal(0, 1.5, (N, CLASSES))
    labels = generator.random((N, CLASSES)) < metrics.probabilities(scores)
    sure = {0: measured(scores, labels, "ece"), 5: measured(9 * scores, labels, "ece")}
    error = judged(sure, 5, "knn/ece")
    assert (error.mean > 0, error.verdict) == (True, "harmed")


def test_looking_more_often_asks_for_more_evidence():
    found = looks(np.random.default_rng(4), {0: 0.5, 1: 1.0})
    few = judged(found, kept=1)
    many = judged(found | dict.fromkeys(range(2, 21), found[1]), kept=1)
    assert many.half_width > 1.4 * few.half_width


def test_the_best_of_many_looks_without_an_effect_passes_rarely():
    generator, verdicts = np.random.default_rng(5), []
    for _ in range(60):
        found = looks(generator, dict.fromkeys(range(5), 1.0))
        best = max((1, 2, 3, 4), key=lambda step: found[step][0])
        verdicts.append(judged(found, kept=best).verdict)
    assert verdicts.count("helped") <= 0.07 * len(verdicts)


def report_of(generator, skill, metric="auroc", *, several=True, seeds=1):
    """Return the report of a launch whose two backbones were evaluated on the same images."""
    labels = labels_of(generator)
    if not several:
        labels = labels.argmax(axis=1)
    has, done = metrics.members(labels, CLASSES), []
    for init, worth in (("base", 1.0), ("hpt", skill)):
        for seed in range(seeds):
            axes = f"init={init}" + (f",seed={seed}" if seeds > 1 else "")
            value, drawn = measured(model(generator, has, worth), labels, metric)
            names = [f"{split}/{metric}" for split in ("val", "test")]
            details = {"n_val": N, "n_test": N, "metric": metric}
            made = finished(
                f"probe/{axes}", dict.fromkeys(names, value), kind="knn", details=details
            )
            done.append(replace(made, replicates=dict.fromkeys(names, drawn.tolist())))
    names = [one.name for one in done]
    return build(launched([*names, "hpt"], table="probe", columns=None, metric=None), done)


def test_the_gate_finds_no_evidence_in_noise():
    generator, times = np.random.default_rng(6), 150
    verdicts = [
        report_of(generator, 1.0).gates[0].differences[0].comparison.verdict for _ in range(times)
    ]
    assert verdicts.count("no evidence") >= 0.93 * times


@pytest.mark.parametrize(
    ("metric", "several"), [("auroc", True), ("map", True), ("balanced_accuracy", False)]
)
def test_the_gate_finds_what_is_there(metric, several):
    report = report_of(np.random.default_rng(7), 3.0, metric, several=several)
    (gate,) = report.gates
    assert gate.metric == f"val/{metric}"
    assert gate.differences[0].comparison.verdict == "helped"
    text = " ".join(report.markdown().split())
    assert "(one model each; ± is a paired bootstrap's over 120 validation images)" in text
    assert "start from hpt" in text


def test_accuracies_are_judged_as_ever():
    comparison = report_of(np.random.default_rng(8), 3.0, "top1", several=False)
    comparison = comparison.gates[0].differences[0].comparison
    assert "± is that of 120 validation images" in comparison.says
    assert comparison.images_half_width is None


def test_what_repeats_over_seeds_is_judged_by_seeds_and_images():
    report = report_of(np.random.default_rng(9), 2.0, seeds=3)
    comparison = report.differences[0].comparison
    assert (comparison.n, comparison.verdict) == (3, "helped")
    assert comparison.images_half_width != comparison.half_width
    assert "Where both are given, the verdict needs both." in " ".join(report.markdown().split())


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_a_selection_keeps_what_its_metric_says(lower_is_better):
    plan = Evaluation(1, lambda: Look({}), None, "knn/x", lower_is_better, before_training=True)
    selection = Selection()
    for step, value in enumerate((0.5, 0.3, 0.7)):
        drawn = torch.full((3,), value, dtype=torch.float64)
        selection.add(step, Look({"knn/x": value}, replicates=drawn, images=9), plan)
    assert selection.best_step == (1 if lower_is_better else 2)
    again = Selection()
    again.load_state_dict(selection.state_dict())
    assert (again.images, set(again.replicates)) == (9, {0, 1, 2})
