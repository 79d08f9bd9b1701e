"""The page opens with its answer in a sentence."""

from __future__ import annotations

import pytest
from many_figures import everything
from reports import finished, launched

from hpt_dist.report.answer import Answer
from hpt_dist.report.report import build

GAINS = (0.1, 0.11, 0.12)


def answered(hpt: list[float], done: int = 6, **report: object) -> Answer:
    values = {"base": [0.5, 0.52, 0.51], "hpt": hpt}
    names = {
        f"adapt/init={init},shots=1,seed={seed}": value
        for init, several in values.items()
        for seed, value in enumerate(several)
    }
    records = [finished(name, {"test/top1": value}) for name, value in names.items()]
    return build(launched(list(names), **report), records[:done]).answer


@pytest.mark.parametrize(
    ("gain", "verdict", "opening"),
    [
        (GAINS, "helped", "**Helped.** hpt against base in adapt, test/top1 at shots 1: +"),
        ([-one for one in GAINS], "harmed", "**Harmed.**"),
        ((0.01, -0.01, 0.0), "no evidence", "**No evidence of a difference.**"),
    ],
)
def test_one_row_is_answered(gain: list[float], verdict: str, opening: str) -> None:
    base = (0.5, 0.52, 0.51)
    found = answered([b + g for b, g in zip(base, gain, strict=True)])
    assert (found.verdict, found.row) == (verdict, "hpt")
    lead = found.lead()
    assert f"**{lead.verdict}** {lead.text}".startswith(opening)
    assert "n=3 seeds" in found.says


def test_what_is_not_done_is_said() -> None:
    found = answered([0.6, 0.6, 0.6], done=4)
    assert found.verdict == "none"
    assert found.says.endswith("So far: 4 of 6 trials are done.")
    assert "Nothing is done yet, of 6 trials." in answered([0.6] * 3, done=0).says


def test_without_a_row_to_compare_with_there_is_no_verdict() -> None:
    found = answered([0.6, 0.61, 0.62], baseline="other")
    assert (found.verdict, found.row) == ("none", "")


def test_a_stage_that_kept_its_base_is_no_evidence() -> None:
    names = [f"adapt/init={init},shots=1,seed=0" for init in ("base", "hpt")]
    done = [finished(name, {"test/top1": 0.5}) for name in names]
    done[1].run["same_as"] = done[0].key
    found = build(launched(names), done).answer
    assert (found.verdict, found.row) == ("no evidence", "hpt")
    assert "it kept the weights of base, so its result is the same." in found.says


def test_a_gate_answers_where_the_recipe_asks_for_no_figure() -> None:
    names = [f"probe/init={init}" for init in ("base", "hpt")]
    done = [
        finished(name, {"val/top1": value}, kind="linear", details={"n_val": 2000})
        for name, value in zip(names, (0.5, 0.7), strict=True)
    ]
    launch = launched(names)
    object.__setattr__(launch, "report", {})
    found = build(launch, done).answer
    assert found.verdict == "helped"
    assert "frozen features judged by linear on validation in probe" in found.says


def test_a_gate_of_several_budgets_compares_each_with_the_baseline_at_the_same() -> None:
    values = {("base", 1): 0.2, ("base", 5): 0.5, ("hpt", 1): 0.5, ("hpt", 5): 0.5}
    names = {f"few/init={init},shots={n}": value for (init, n), value in values.items()}
    details = {"n_val": 2000}
    done = [finished(n, {"val/top1": v}, kind="linear", details=details) for n, v in names.items()]
    launch = launched(list(names))
    object.__setattr__(launch, "report", {})
    [gate] = build(launch, done).gates
    found = {one.row: one.comparison.verdict for one in gate.differences}
    assert found == {"hpt (shots=1)": "helped", "hpt (shots=5)": "no evidence"}


def test_of_several_rows_validation_chooses_the_one_to_answer_about() -> None:
    """Which row is best on test is not asked: the best of several would be better than it is."""
    test = {"base": 0.5, "lucky": 0.9, "hpt": 0.7}
    val = {"base": 0.5, "lucky": 0.6, "hpt": 0.8}
    names = {f"adapt/init={i},seed={s}": (i, s) for i in test for s in range(3)}
    done = [
        finished(
            name,
            {
                f"{split}/top1": of[i] + s * s / 100 * (1 + len(i) / 10)
                for split, of in (("val", val), ("test", test))
            },
        )
        for name, (i, s) in names.items()
    ]
    found = build(launched(list(names), columns=None), done).answer
    assert found.row == "hpt"
    assert "Of 2 rows validation prefers it; the others: lucky (helped)." in found.says
    # Trials that are missing may be those that would have been worse.
    some = [one for one in done if one.name != "adapt/init=lucky,seed=2"]
    partly = build(launched(list(names), columns=None), some).answer
    assert (partly.row, "it is the recipe's first" in partly.says) == ("lucky", True)


def test_panels_are_counted_and_the_cost_is_named() -> None:
    found = build(*everything()).answer
    assert found.verdict == "helped"
    assert "on 4 values of data, at the last steps of each: helped on 3" in found.says
    assert "Of 3 rows validation prefers it." in found.says
    report = build(*everything([{"bars": "few", "rows": "init", "columns": "data"}]))
    assert "its training took" in report.answer.says
    assert "image views and" in report.answer.says
    assert "CPU-hours" in report.answer.says
