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


def test_what_has_read_no_test_split_is_no_evaluation() -> None:
    done = [finished("hpt", {"knn/top1": 0.5}, kind="pretrain")]
    report = build(dataclasses.replace(launched(["hpt", "tuned"]), report={}), done)
    assert report.evaluated == ()
    assert "Evaluations" not in report.markdown()
