"""What a report says of a stage that left an average, and of what it forgot."""

from __future__ import annotations

from typing import Any

from reports import finished, launched

from hpt_dist.page import Grid
from hpt_dist.report.gates import of_averages, verdict_of
from hpt_dist.report.report import Report, build

WORDS = "0.5 of the way from the base to step 30"
LOOKS = {"0": {"knn/top1": 0.4}, "10": {"knn/top1": 0.45}, "30": {"knn/top1": 0.3}}
AVERAGES = {"0.25": {"knn/top1": 0.43}, "0.5": {"knn/top1": 0.5}}
FORGOT = {"says": "forgot 3.1 ± 1.2 points of things"}


def reported(details: dict[str, Any]) -> Report:
    launch = launched(["base", "hpt", "probe/init=base", "probe/init=hpt"])
    object.__setattr__(launch, "report", {})
    launch.settings.update(
        {
            f"probe/init={init}": {"spec": {"kind": "knn", "init": init}, "init": init}
            for init in ("base", "hpt")
        }
    )
    trials = [
        finished("base", {}, kind="import"),
        finished("hpt", {}, kind="pretrain", details=details),
        *(
            finished(f"probe/init={init}", {"val/top1": 0.5}, kind="knn", details={"n_val": 100})
            for init in ("base", "hpt")
        ),
    ]
    return build(launch, trials)


def words(report: Report) -> str:
    return " ".join(report.markdown().split())


def test_the_gate_names_the_average_and_what_was_forgotten() -> None:
    gate = {"says": f"this stage helped by +9.0 ± 1.0 points; kept {WORDS}"}
    details = {"kept_step": 30, "kept_average": 0.5, "gate": gate, "forgetting": FORGOT}
    report = reported(details)
    assert report.verdicts == {"hpt": f"{gate['says']}; {FORGOT['says']}"}
    assert report.gates[0].averages == (f"hpt: it left an average, {WORDS}",)
    assert f"- hpt: it left an average, {WORDS}" in words(report)
    assert "average" not in words(reported({"kept_step": 30, "gate": {"says": "kept step 30"}}))


def test_what_was_forgotten_is_no_verdict_on_what_was_gained() -> None:
    look = {"monitor/rankme": 40.0, "monitor/feature_std": 0.08}
    report = reported({"monitor": {"0": look, "30": look}, "forgetting": FORGOT})
    assert (list(report.verdicts), len(report.unjudged)) == (["hpt"], 1)
    assert verdict_of({}) == ""


def test_the_weights_between_are_listed_on_the_way_from_the_base() -> None:
    details = {"kept_step": 30, "kept_average": 0.5, "monitor": LOOKS, "averages": AVERAGES}
    [grid] = of_averages(details)
    assert isinstance(grid, Grid)
    assert grid.rows == [
        ["the base", "40.0", ""],
        ["0.25 of the way from the base to step 30", "43.0", ""],
        [WORDS, "50.0", "kept"],
        ["step 30", "30.0", ""],
    ]
    [grid] = of_averages({"kept_step": 10, "monitor": LOOKS, "averages": AVERAGES})
    assert grid.rows[-1] == ["step 10", "45.0", "kept"]
    assert of_averages({"kept_step": 30, "monitor": LOOKS}) == []


def test_steps_written_in_another_way_are_the_same_steps() -> None:
    looks = {"000": LOOKS["0"], "030": LOOKS["30"]}
    [grid] = of_averages({"kept_step": 0, "monitor": looks, "averages": AVERAGES})
    assert grid.rows[0] == ["the base", "40.0", "kept"]
