"""What a report says of pretraining that no label judged."""

from __future__ import annotations

from typing import Any

from reports import finished, launched

from hpt_dist.report.report import Report, build


def look(rank: float, spread: float) -> dict[str, float]:
    return {"monitor/rankme": rank, "monitor/feature_std": spread}


def reported(*more: Any, **details: Any) -> Report:
    details = {
        "pool_images": 1500,
        "monitor": {"0": look(40, 0.08), "30": look(20, 0.04)},
    } | details
    names = ["base", "hpt"]
    launch = launched([*names, *(one.name for one in more)])
    object.__setattr__(launch, "report", {})
    trials = [
        finished("base", {}, kind="import"),
        finished("hpt", {}, kind="pretrain", details=details),
    ]
    return build(launch, [*trials, *more])


def words(report: Report) -> str:
    return " ".join(report.markdown().split())


def test_it_says_what_changed_and_that_this_is_no_verdict() -> None:
    text = words(reported(change={"images": 1500, "cosine": 0.82, "k": 10, "neighbours": 0.423}))
    assert "| hpt | 1,500 | 30 | 40.0 -> 20.0 | 0.0800 -> 0.0400 | 0.820 | 42% of 10 |" in text
    assert "hpt: its features have not collapsed: rank at 50 %, spread at 50 % of before" in text
    assert "There is no verdict on quality" in text
    assert "hpt-dist pull quick/hpt FOLDER" in text


def test_results_of_before_have_fewer_numbers() -> None:
    assert "| 0.0800 -> 0.0400 | - | - |" in words(reported())
    assert reported(monitor={}).unjudged == ()
    assert reported(monitor={"0": {"knn/top1": 0.1}, "5": {"knn/top1": 0.1}}).unjudged == ()


def test_collapsed_features_are_not_offered() -> None:
    collapsed = reported(collapsed=["monitor/rankme"])
    assert "hpt: its features have collapsed (monitor/rankme): do not use these weights" in words(
        collapsed
    )
    assert collapsed.verdicts == {}


def test_where_labels_judge_the_report_says_so() -> None:
    judged = reported(gate={"says": "this stage helped by +3.0 ± 1.0 points"})
    assert (judged.unjudged, list(judged.verdicts)) == ((), ["hpt"])
    probes = [
        finished(f"probe/init={init}", {"val/top1": 0.5}, kind="knn", details={"n_val": 50})
        for init in ("base", "hpt")
    ]
    text = words(reported(*probes))
    assert "what changed" in text
    assert "no verdict on quality" not in text
