"""The report: its verdicts, and what it says of missing trials."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import finished, launched

from hpt_dist.errors import RequestError
from hpt_dist.evals.evidence import Comparison
from hpt_dist.report import published
from hpt_dist.report.report import Report, build
from hpt_dist.trial.records import Finished


def adapt(init: str, shots: int, seed: int) -> str:
    return f"adapt/init={init},shots={shots},seed={seed}"


GRID = [adapt(*point) for point in itertools.product(("base", "hpt"), (1, 3), (0, 1, 2))]


def filled(accuracy: Callable[[str, int, int], float]) -> list[Finished]:
    return [
        finished(adapt(i, s, n), {"test/top1": accuracy(i, s, n)}, details={"n_test": 400})
        for i, s, n in itertools.product(("base", "hpt"), (1, 3), (0, 1, 2))
    ]


def comparisons(report: Report) -> dict[tuple[str, str], Comparison]:
    return {(d.row, d.column): d.comparison for d in report.differences}


def test_cells_are_means_with_sample_deviations() -> None:
    rng = np.random.default_rng(0)
    values = {p: float(rng.uniform(0.2, 0.4)) for p in itertools.product("bh", (1, 3), (0, 1, 2))}
    done = filled(lambda init, shots, seed: values[init[0], shots, seed])
    random.Random(0).shuffle(done)
    report = build(launched(GRID), done)
    assert report.table is not None
    assert (report.table.rows, report.table.columns) == (("base", "hpt"), ("1", "3"))
    assert report.table.over == ("seed",)
    for cell in report.table.cells:
        ours = [100 * values[cell.row[0], int(cell.column), seed] for seed in (0, 1, 2)]
        assert cell.mean == pytest.approx(np.mean(ours))
        assert cell.std == pytest.approx(np.std(ours, ddof=1))
        assert f"{np.mean(ours):.1f} ± {np.std(ours, ddof=1):.1f} (n=3)" in report.markdown()
    assert report.table.num_images == 400
    means = np.array([cell.mean for cell in report.table.cells]) / 100
    largest = 100 * np.sqrt(means * (1 - means) / 400).max()
    assert report.table.standard_error == pytest.approx(largest)
    assert f"up to {largest:.1f} points" in report.markdown()


def test_verdicts_by_column_and_over_all() -> None:
    effect = {1: (0.1, 0.11, 0.12), 3: (-0.1, -0.11, -0.12)}
    done = filled(lambda init, shots, seed: 0.5 + (effect[shots][seed] if init == "hpt" else 0.0))
    found = comparisons(build(launched(GRID), done))
    assert found["hpt", "1"].verdict == "helped"
    assert found["hpt", "3"].verdict == "harmed"
    assert found["hpt", ""].verdict == "none"  # the mean is 0 for each seed
    assert ("base", "1") not in found


def test_missing_trials_are_counted() -> None:
    done = [f for f in filled(lambda i, s, n: 0.2 + 0.1 * n) if f.name != adapt("hpt", 1, 2)]
    done = [f for f in done if not f.name.startswith("adapt/init=base,shots=3")]
    report = build(launched(GRID), done)
    text = report.markdown()
    assert "8 of 12 trials done" in text
    assert " - (0 of 3 done) |" in text
    assert "(n=2 of 3)" in text
    found = comparisons(report)
    assert found["hpt", "1"].n == 2
    assert found["hpt", "3"].n == 0
    assert ("hpt", "") not in found  # one column is no mean over columns


def test_nothing_done_is_a_report_too() -> None:
    report = build(launched(GRID), [])
    assert report.drawings() == {}
    assert "0 of 12 trials done" in report.markdown()
    assert set(report.files()) == {"report.md", "report.html", "report.json"}


def test_a_recipe_without_a_table_still_has_costs() -> None:
    launch = launched(["base"])
    object.__setattr__(launch, "report", {})
    report = build(launch, [finished("base", {}, kind="import", images=0)])
    assert report.table is None
    assert report.costs[0].images == 0
    assert "## Cost" in report.markdown()


def test_backbones_of_other_settings_are_rows_of_their_own() -> None:
    names = {
        "adapt/init=base,shots=1,seed=0": 0.1,
        "adapt/init=hpt,shots=1,seed=0,hpt.steps=50": 0.2,
        "adapt/init=hpt,shots=1,seed=0,hpt.steps=500": 0.4,
    }
    done = [finished(name, {"test/top1": value}) for name, value in names.items()]
    report = build(launched(["base", "hpt", *names]), done)
    assert report.table is not None
    assert report.table.rows == ("base", "hpt (hpt.steps=50)", "hpt (hpt.steps=500)")
    assert all(cell.values for cell in report.table.cells)


def test_values_with_commas_are_read_whole() -> None:
    launch = launched(["adapt/init=a, b,shots=1,seed=0"])
    report = build(launch, [])
    assert report.table is not None
    assert report.table.rows == ("a, b",)
    assert report.table.over == ("seed",)


def test_without_a_metric_that_by_which_val_chose_is_reported() -> None:
    done = [
        finished(name, {"test/auroc": 0.8, "test/map": 0.4}, details={"metric": "auroc"})
        for name in GRID
    ]
    report = build(launched(GRID, metric=None), done)
    assert report.table is not None
    assert report.table.metric == "test/auroc"
    assert "80.0 ± 0.0 (n=3)" in report.markdown()
    assert report.table.standard_error is None  # it is no share of the images
    # Results of before do not say it.
    before = build(launched(GRID, metric=None), filled(lambda *_: 0.5))
    assert before.table is not None
    assert before.table.metric == "test/top1"


def test_less_error_is_better() -> None:
    done = [
        finished(adapt(i, s, n), {"test/ece": 0.1 - 0.05 * (i == "hpt") + 0.001 * n * (i == "hpt")})
        for i, s, n in itertools.product(("base", "hpt"), (1, 3), (0, 1, 2))
    ]
    found = comparisons(build(launched(GRID, metric="test/ece"), done))
    assert found["hpt", "1"].verdict == "helped"
    assert found["hpt", "1"].mean == pytest.approx(-4.9)


def test_only_seeds_are_averaged() -> None:
    names = [f"adapt/init=base,shots=1,optimizer.lr={lr},seed={s}" for lr in (1, 2) for s in (0, 1)]
    report = build(launched(names), [])
    assert report.table is not None
    assert report.table.rows == ("base (optimizer.lr=1)", "base (optimizer.lr=2)")


def test_what_does_not_fit_is_reported() -> None:
    done = filled(lambda *_: 0.5)
    text = build(launched(GRID, metric="test/top", compare="paper/table3_sketch"), done).markdown()
    assert "have no metric test/top; they have test/top1. did you mean test/top1?" in _joined(text)
    assert "did you mean paper/table3_real_to_sketch?" in _joined(text)
    text = build(launched(GRID, baseline="imagenet"), done).markdown()
    assert "no row imagenet to compare with; the rows are base, hpt" in _joined(text)
    assert "Against" not in text


def _joined(text: str) -> str:
    return " ".join(text.split())


def gate_of(base: dict[str, float], hpt: dict[str, float], n_val: int | None = 400) -> Report:
    values = {**base, **hpt}
    details = {"n_val": n_val} if n_val else {}
    done = [
        finished(f"probe/{axes}", {"val/top1": value}, kind="linear", details=details)
        for axes, value in values.items()
    ]
    names = [f.name for f in done]
    return build(launched([*names, "hpt"], table="adapt"), done)


@pytest.mark.parametrize(
    ("hpt", "verdict", "advice"),
    [
        (0.35, "harmed", "keep base"),
        (0.65, "helped", "start from hpt"),
        (0.51, "no evidence", "base is the simpler choice"),
    ],
)
def test_the_gate_judges_single_models_by_validation_images(
    hpt: float, verdict: str, advice: str
) -> None:
    report = gate_of({"init=base": 0.5}, {"init=hpt": hpt})
    (gate,) = report.gates
    (difference,) = gate.differences
    assert difference.comparison.verdict == verdict
    assert f"400 validation images); {advice}" in _joined(report.markdown())


def test_the_gate_judges_seeds_of_pretraining_against_a_fixed_base() -> None:
    hpt = {f"init=hpt,hpt.seed={n}": 0.4 + 0.01 * n for n in range(3)}
    (difference,) = gate_of({"init=base": 0.5}, hpt).gates[0].differences
    assert difference.comparison.n == 3
    assert difference.comparison.verdict == "harmed"


def test_the_gate_without_seeds_or_image_counts_gives_no_verdict() -> None:
    (difference,) = gate_of({"init=base": 0.5}, {"init=hpt": 0.9}, None).gates[0].differences
    assert difference.comparison.verdict == "none"


def test_repeating_a_fixed_evaluation_is_no_evidence_of_its_own() -> None:
    base = {f"init=base,seed={n}": 0.50 for n in range(3)}
    hpt = {f"init=hpt,seed={n}": 0.51 for n in range(3)}
    (difference,) = gate_of(base, hpt).gates[0].differences
    assert difference.comparison.verdict == "no evidence"
    assert difference.comparison.n == 1


def test_costs_add_up_and_a_shared_trial_counts_once() -> None:
    done = filled(lambda *_: 0.5)
    twin = Finished("twin", done[0].key, done[0].result, done[0].run)
    report = build(launched([*GRID, "twin"]), [*done, twin])
    assert len(report.costs) == 12
    total = next(line for line in report.markdown().splitlines() if line.startswith("| total"))
    assert "12,000" in total
    assert "120.0" in total


def test_published_values_stand_beside_ours_under_their_own_name() -> None:
    done = filled(lambda init, shots, seed: 0.3)
    report = build(launched(GRID, compare="paper/table3_real_to_sketch"), done)
    lines = report.markdown().splitlines()
    ours = next(line for line in lines if line.startswith("| hpt") and " ours " in line)
    paper = next(line for line in lines if "paper: MME+HPT" in line)
    assert [cell.strip() for cell in ours.split("|")[3:6]] == ["30.0", "-", "-"]
    assert [cell.strip() for cell in paper.split("|")[3:6]] == ["50.17", "56.43", "58.77"]
    other = launched(GRID, compare="paper/table3_real_to_sketch", columns="seed")
    assert "not by seed" in build(other, done).markdown()


def test_published_tables_are_whole() -> None:
    for name, table in published.TABLES.items():
        assert published.find(name) is table
        widths = {len(values) for values in table.axes.values()}
        widths |= {len(values) for _, values in table.rows.values()}
        assert len(widths) == 1
        # The paper's claim: HPT helps at every budget.
        gains = np.subtract(table.rows["hpt"][1], table.rows["base"][1])
        assert (gains > 0).all()
        # Budgets are geometric from the second on.
        labels = np.array(table.axes["labels"])[1:]
        assert labels[1:] / labels[:-1] == pytest.approx(1.441, abs=0.001)
    with pytest.raises(RequestError, match="did you mean paper/table3_real_to_clipart"):
        published.find("paper/table3_real_to_clip")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_needs_no_other_file() -> None:
    report = build(launched(GRID), filled(lambda i, s, n: 0.2 + 0.01 * n * s))
    parser = _Tags()
    parser.feed(report.html())
    assert not parser.open
    assert [tag for tag, _ in parser.found].count("svg") > 1  # the drawing, and what it means
    assert not {tag for tag, _ in parser.found} & {"link", "iframe", "img", "object"}
    assert not [attrs for _, attrs in parser.found if {"src", "href"} & attrs.keys()]
    policy = next(attrs for tag, attrs in parser.found if tag == "meta" and "content" in attrs)
    assert "default-src 'none'" in str(policy["content"])


def test_html_escapes_names() -> None:
    report = build(launched(["adapt/init=<b>&,shots=1,seed=0"]), [])
    assert "<b>" not in report.html()
    assert "&lt;b&gt;&amp;" in report.html()


def test_files_are_written_and_json_is_whole(tmp_path: Path) -> None:
    report = build(launched(GRID), filled(lambda i, s, n: 0.2 + 0.01 * n * s))
    written = report.write(tmp_path / "new" / "folder")
    assert {path.name: path.read_bytes() for path in written} == report.files()
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(report.files())
    plain = json.loads((tmp_path / "new" / "folder" / "report.json").read_text())
    assert plain == report.as_json()
    assert plain["differences"][0]["comparison"]["n"] == 3


def test_equal_results_make_equal_reports() -> None:
    done = filled(lambda i, s, n: 0.2 + 0.01 * n * s)
    assert build(launched(GRID), done).files() == build(launched(GRID), done[::-1]).files()


def test_building_and_drawing_load_neither_torch_nor_matplotlib() -> None:
    import subprocess

    heavy = "{'torch', 'matplotlib', 'scipy'}"
    code = f"import sys, hpt_dist.report.report; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


# How rows were computed.

FLOAT, BRAIN = "float32, channels_last on a CPU", "bfloat16, channels_last on a GPU"


def computed_as(base: str, hpt: str, **report: Any) -> Report:
    """Return the report of one adaptation for each row and seed, which computed so."""
    names = [adapt(init, 1, seed) for init in ("base", "hpt") for seed in (0, 1, 2)]
    done = [
        finished(name, {"test/top1": 0.5 + n / 100}, numerics=base if n < 3 else hpt)
        for n, name in enumerate(names)
    ]
    return build(launched(names, **report), done)


def test_each_row_says_how_it_was_computed() -> None:
    report = computed_as(FLOAT, FLOAT)
    assert report.computed == {"base": f"mme in {FLOAT}", "hpt": f"mme in {FLOAT}"}
    assert f"base, hpt: mme in {FLOAT}" in " ".join(report.markdown().split())
    assert comparisons(report)["hpt", "1"].n == 3


def test_rows_that_computed_differently_are_not_compared() -> None:
    report = computed_as(FLOAT, BRAIN)
    comparison = comparisons(report)["hpt", "1"]
    assert (comparison.verdict, comparison.n, comparison.mean) == ("none", 0, None)
    assert f"not compared: mme in {BRAIN} and in {FLOAT}" in " ".join(report.markdown().split())
    assert report.as_json()["computed"]["hpt"] == f"mme in {BRAIN}"


def test_one_seed_that_computed_differently_is_enough() -> None:
    names = [adapt(init, 1, seed) for init in ("base", "hpt") for seed in (0, 1, 2)]
    done = [finished(n, {"test/top1": 0.5}, numerics=FLOAT) for n in names[:-1]]
    done.append(finished(names[-1], {"test/top1": 0.6}, numerics=BRAIN))
    assert "not compared" in comparisons(build(launched(names), done))["hpt", "1"].says


def test_what_rows_start_from_counts_too() -> None:
    """Two pretrainings in different precisions are no comparison of what they learnt."""
    names = ["first", "second", *(adapt(init, 1, 0) for init in ("first", "second"))]
    done = [
        finished("first", {}, kind="pretrain", numerics=FLOAT),
        finished("second", {}, kind="pretrain", numerics=BRAIN),
        *(finished(name, {"test/top1": 0.5}, numerics=FLOAT) for name in names[2:]),
    ]
    launch = launched(names, baseline="first")
    documents = {adapt(init, 1, 0): {"init": launch.trials[init]} for init in names[:2]}
    report = build(dataclasses.replace(launch, settings=documents), done)
    assert report.computed["second"] == f"mme in {FLOAT}; pretrain in {BRAIN}"
    assert "pretrain in" in comparisons(report)["second", "1"].says
    assert "not compared" in comparisons(report)["second", "1"].says


def test_precision_itself_may_be_compared() -> None:
    names = [f"adapt/precision={p},seed={s}" for p in ("float32", "bfloat16") for s in (0, 1)]
    done = [
        finished(name, {"test/top1": 0.5 + n / 100}, numerics=BRAIN if "bfloat" in name else FLOAT)
        for n, name in enumerate(names)
    ]
    launch = launched(names, rows="precision", columns="shots", baseline="float32")
    report = build(launch, done)
    assert comparisons(report)["bfloat16", ""].n == 2
