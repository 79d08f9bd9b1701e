"""Evaluations that no table shows have their numbers in the report all the same."""

from __future__ import annotations

import dataclasses
import json

from reports import finished, launched

from hpt_dist.report.report import Report, build

NAMES = [
    "base",
    "depth/features=layer2",
    "depth/features=pool",
    "tuned/seed=0",
    "tuned/seed=1",
    "tuned/seed=2",
    "adapt/init=base,shots=1,seed=0",
]


def reported(*, table: bool, metric: str = "top1") -> Report:
    values = {"depth/features=layer2": 0.5, "tuned/seed=0": 0.6, "tuned/seed=1": 0.7}
    values |= {"adapt/init=base,shots=1,seed=0": 0.9}
    done = [
        finished(
            name,
            {f"val/{metric}": value, f"test/{metric}": value / 2, "test/top1": 0.01},
            kind="linear",
            details={"metric": metric},
        )
        for name, value in values.items()
    ]
    launch = launched(NAMES)
    return build(launch if table else dataclasses.replace(launch, report={}), done)


def test_without_a_table_every_evaluation_has_its_numbers() -> None:
    report = reported(table=False, metric="auroc")
    text = report.markdown()
    assert "## Evaluations\n" in text
    lines = [" ".join(line.split()) for line in text.splitlines() if "auroc, %" in line]
    rows = {line.split("|")[1].strip(): line for line in lines}
    names = [
        "depth (features=layer2)",
        "depth (features=pool)",
        "tuned",
        "adapt (init=base, shots=1)",
    ]
    assert list(rows) == names
    assert "50.0 (n=1) | 25.0 (n=1)" in rows["depth (features=layer2)"]
    assert rows["depth (features=pool)"].count("- (0 of 1 done)") == 2
    assert "65.0 ± 7.1 (n=2 of 3) | 32.5 ± 3.5 (n=2 of 3)" in rows["tuned"]
    assert "report: {table: STAGE, rows: SETTING}" in " ".join(text.split())
    assert [one["metric"] for one in json.loads(json.dumps(report.as_json()))["evaluated"]] == [
        "auroc"
    ] * 4


def test_beside_a_table_the_others_are_shown_and_it_is_not_shown_twice() -> None:
    report = reported(table=True)
    assert [one.name for one in report.evaluated] == [
        "depth (features=layer2)",
        "depth (features=pool)",
        "tuned",
    ]
    text = report.markdown()
    assert "## Other evaluations\n" in text
    assert "SETTING" not in text


UNREAD = "kept its last weights without a look at validation, and read the test split once."


def detected(*more: str, **metrics: float) -> Report:
    """A launch of two detectors that never look at val; `metrics` are of a probe beside them."""
    details = {"metric": "AP", "steps": 8, "selected": {"step": 8}}
    names = ["detector/init=base,seed=0", "detector/init=hpt,seed=0"]
    done = [
        finished(name, {"test/AP": 0.2 + at / 10}, kind="detect", details=details)
        for at, name in enumerate(names)
    ]
    if metrics:
        found = {name.replace("_", "/"): value for name, value in metrics.items()}
        done.append(finished("probe", found, kind="linear", details={"metric": "top1"}))
    launch = launched([*names, "probe"])
    table = {"table": "detector", "rows": "init", "metric": "test/AP"} if more else {}
    return build(dataclasses.replace(launch, report=table), done)


def test_where_no_trial_looked_at_val_there_is_no_column_of_it() -> None:
    text = " ".join(detected().markdown().split())
    assert "trials | metric | test" in text
    assert f"Each trial {UNREAD}" in text
    assert "Every choice" not in text


def test_beside_what_chose_on_val_those_that_did_not_look_are_named() -> None:
    text = " ".join(detected(val_top1=0.5, test_top1=0.4).markdown().split())
    assert "trials | metric | val | test" in text
    assert "detector (init=base) | AP, % | - | 20.0 (n=1)" in text
    assert "Every choice was made on validation; each trial read the test split once." in text
    for row in ("detector (init=base)", "detector (init=hpt)"):
        assert f"Each trial of {row} {UNREAD}" in text
    assert f"Each trial of probe {UNREAD}" not in text


def test_a_table_of_trials_that_did_not_look_at_val_says_so() -> None:
    text = " ".join(detected("table").markdown().split())
    assert f"Each trial {UNREAD}" in text
    assert "Every choice" not in text


def test_what_has_read_no_test_split_is_no_evaluation() -> None:
    done = [finished("hpt", {"knn/top1": 0.5}, kind="pretrain")]
    report = build(dataclasses.replace(launched(["hpt", "tuned"]), report={}), done)
    assert report.evaluated == ()
    assert "Evaluations" not in report.markdown()
