"""Tables of rows alone: their verdicts, also where an evaluation does not depend on its seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest
from reports import finished, launched

from hpt_dist.report.report import Report, build
from hpt_dist.store.records import DamagedRecordError, decoded
from hpt_dist.trial.records import Launch

BASE = (0.50, 0.52, 0.51)


def reported(
    base: Sequence[float], hpt: Sequence[float], kind: str = "linear", **report: str | None
) -> Report:
    names = {
        f"features/init={init},seed={seed}": value
        for init, values in (("base", base), ("hpt", hpt))
        for seed, value in enumerate(values)
    }
    details = {"n_test": 400, "n_val": 300}
    done = [
        finished(name, {"test/top1": value, "val/top1": value}, kind=kind, details=details)
        for name, value in names.items()
    ]
    launch = launched([*names, "hpt"], table="features", **{"columns": None, **report})
    return build(launch, done)


@pytest.mark.parametrize("columns", [None, "init"])  # older recipes named the rows twice
def test_rows_alone_are_compared_over_seeds(columns: str | None) -> None:
    report = reported(
        BASE,
        [value + gain for value, gain in zip(BASE, (0.1, 0.11, 0.12), strict=True)],
        columns=columns,
    )
    [difference] = report.differences
    assert (difference.row, difference.comparison.verdict) == ("hpt", "helped")
    assert difference.comparison.n == 3
    text = report.markdown()
    assert "## features: test/top1 by init\n" in text
    assert "- hpt: helped by +11.0 ± " in text
    assert len(report.headline()) == 2
    assert not any("//" in name or name.endswith("/") for name in report.headline())
    assert set(report.drawings()) == {"figure-1.svg"}
    assert json.loads(json.dumps(report.as_json()))["table"]["columns"] == [""]


@pytest.mark.parametrize(
    ("hpt", "verdict"), [(0.65, "helped"), (0.35, "harmed"), (0.51, "no evidence")]
)
def test_equal_values_of_frozen_features_are_judged_by_images(hpt: float, verdict: str) -> None:
    report = reported([0.5] * 3, [hpt] * 3)
    [difference] = report.differences
    assert difference.comparison.verdict == verdict
    assert "400 test images" in difference.comparison.says


def test_what_trains_gets_no_verdict_without_a_spread() -> None:
    [difference] = reported([0.5] * 3, [0.6] * 3, kind="mme").differences
    assert difference.comparison.verdict == "none"
    [difference] = reported([0.5], [0.6], kind="mme").differences
    assert "no verdict from one seed" in difference.comparison.says


def test_a_paper_has_no_values_for_a_table_without_columns() -> None:
    text = reported(BASE, BASE, compare="paper/table3_real_to_sketch").markdown()
    assert "has values by shots and by labels; this table has no columns." in " ".join(text.split())


def test_a_launch_is_read_again_with_and_without_columns() -> None:
    launch = launched(["base"], columns=None)
    data = json.dumps(dataclasses.asdict(launch)).encode()
    assert decoded(data, Launch, where="").report["columns"] is None
    del launch.report["columns"]  # type: ignore[attr-defined]
    assert decoded(json.dumps(dataclasses.asdict(launch)).encode(), Launch, where="") == launch
    launch.report["columns"] = 5  # type: ignore[index]
    with pytest.raises(DamagedRecordError, match="its report has no such columns"):
        decoded(json.dumps(dataclasses.asdict(launch)).encode(), Launch, where="")


def test_a_table_of_medians_says_so_and_prints_them() -> None:
    values = (0.2, 0.9, 0.3)
    names = [f"features/init=base,seed={seed}" for seed in range(3)]
    done = [
        finished(name, {"test/AP": value}, kind="detect", details={"n_test": 10})
        for name, value in zip(names, values, strict=True)
    ]
    plain = {"table": "features", "metric": "test/AP", "columns": None}
    medians = build(launched(names, **plain, median=True), done).markdown()
    assert "median ± sample standard deviation over seed" in medians
    assert "30.0 ± " in medians
    means = build(launched(names, **plain), done).markdown()
    assert "mean ± sample standard deviation over seed" in means
    assert "46.7 ± " in means
