"""Classes that gain and lose in a report: which trials show them, and what its three forms say."""

import json
import shutil

import numpy as np
import pytest
from small import document, hpt

from hpt_dist.evals.by_class import ClassChange
from hpt_dist.evals.evidence import Comparison
from hpt_dist.launch import by_class, launches, results
from hpt_dist.page import as_html, markdown
from hpt_dist.report import gains
from hpt_dist.report.cells import Difference
from hpt_dist.report.gains import Gains
from hpt_dist.report.shown import Panel, Shown
from hpt_dist.report.tables import Table
from hpt_dist.store import open_store
from hpt_dist.trial import predictions_file
from hpt_dist.trial.predictions_file import Facts


def panel(*trials, metric="test/top1", judged="hpt"):
    axes = ("init", "labels", "base", ("base", "hpt"), ("5", "9"))
    table = Table("adapt", metric, *axes, (), (), None, None)
    comparison = Comparison("helped", 2, 1.0, 0.5, 1.0, "helped")
    differences = (Difference(judged, "", 2, comparison),)
    return Panel("", table, {}, differences, (), (), (), (), trials)


def shown(*panels):
    return Shown("table", "t", panels, "", "")


TRIALS = tuple(
    (row, labels, f"adapt/init={row},labels={labels},seed={seed}")
    for row in ("base", "hpt")
    for labels in ("5", "9")
    for seed in (0, 1)
)


def test_pairs_are_of_one_column_and_one_seed_as_they_get_done():
    every = {name for _, _, name in TRIALS}
    found = gains.wanted([shown(panel(*TRIALS))], "hpt", every)
    assert (found.row, found.baseline, found.split) == ("hpt", "base", "test")
    assert set(found.pairs) == {
        (f"adapt/init=hpt,{rest}", f"adapt/init=base,{rest}")
        for rest in ("labels=5,seed=0", "labels=5,seed=1", "labels=9,seed=0", "labels=9,seed=1")
    }
    half = {name for name in every if "labels=5" in name} - {"adapt/init=base,labels=5,seed=1"}
    [pair] = gains.wanted([shown(panel(*TRIALS))], "hpt", half).pairs
    assert pair == ("adapt/init=hpt,labels=5,seed=0", "adapt/init=base,labels=5,seed=0")
    assert gains.wanted([shown(panel(*TRIALS))], "hpt", set()) is None
    assert gains.wanted([shown(panel(*TRIALS, metric="test/auroc"))], "hpt", every) is None
    assert gains.wanted([shown(panel(*TRIALS, judged="other"))], "hpt", every) is None
    assert gains.wanted([], "", every) is None


def test_a_base_without_seeds_is_the_other_side_of_each():
    fixed = ("base", "5", "adapt/init=base")
    ours = [("hpt", "5", f"adapt/init=hpt,hpt.seed={seed}") for seed in (0, 1)]
    found = gains.wanted([shown(panel(fixed, *ours))], "hpt", {name for *_, name in [fixed, *ours]})
    assert found.pairs == ((ours[0][2], fixed[2]), (ours[1][2], fixed[2]))


def change(name, points, images=60):
    share = points / 100
    return ClassChange(name, images, 0.5, 0.5 + share, share, share - 0.1, share + 0.1, 2, 1)


def test_the_page_shows_both_ends_and_escapes_names():
    classes = tuple(change(f"c{n}", 30 - 5 * n) for n in range(13))
    classes = (change("<b>|\x1b[31m", 40), *classes)
    blocks = gains.blocks([Gains("hpt", "base", "birds", "test", 3, classes)])
    text, html = markdown(blocks), as_html("t", blocks)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "points" not in line]
    assert len(rows) == 1 + 10
    assert [row.split("|")[1].strip() for row in rows[2:6]] == ["c0", "c1", "c2", "c3"]
    assert rows[-1].split("|")[1].strip() == "c12"
    assert "+30.0 | [+20.0, +40.0]" in " ".join(text.split())
    assert "Of 14 classes 7 gain, 6 lose and 1 stay" in " ".join(text.split())
    assert "mean over 3 pairs" in " ".join(text.split())
    assert "\x1b" not in html + text
    assert "&lt;b&gt;" in html
    assert gains.blocks([Gains("hpt", "base", "birds", "test", 3, (change("a", 0),))]) == []


def test_of_many_datasets_the_first_are_shown():
    one = Gains("hpt", "base", "birds", "test", 1, (change("a", 5),))
    text = markdown(gains.blocks([one] * 5))
    assert text.count("Classes that gain and lose most: hpt against base") == 3
    assert "one pair" in text
    assert "2 more datasets" in text


@pytest.fixture
def launched(tiny):
    """The store of a finished launch, its record, and its finished trials."""
    store = open_store(str(tiny[0]))
    launch = launches.find(store, "tiny")
    return store, launch, results.finished(store, launch)


def answers(store, launch, init):
    key = launch.trials[f"adapt/init={init},shots=1,seed=0"]
    data = store.get(f"stages/{key}/predictions.test.parquet")
    return predictions_file.read(data, init)


def test_a_launch_shows_the_classes_of_its_predictions_in_all_forms(launched, tiny):
    store, launch, done = launched
    [found] = by_class.build(store, launch, done).gains
    assert (found.row, found.baseline, found.pairs) == ("hpt", "base", 1)
    assert (found.dataset, found.split) == ("openmoji/line", "test")
    facts, base = answers(store, launch, "base")
    _, ours = answers(store, launch, "hpt")
    for one in found.classes:
        its = [n for n, answer in enumerate(base) if facts.classes[answer.labels[0]] == one.name]
        right = [
            np.mean([side[n].top[0] == side[n].labels[0] for n in its]) for side in (base, ours)
        ]
        assert one.images == len(its)
        assert (one.base, one.ours) == pytest.approx(tuple(right))
    printed = hpt("report", "tiny", store=str(tiny[0]))
    assert "Classes that gain and lose most: hpt against base" in printed
    plain = document(hpt("report", "tiny", "--json", store=str(tiny[0])))
    assert [one["name"] for one in plain["gains"][0]["classes"]] == [c.name for c in found.classes]
    page = next(tiny[0].glob("work/reports/**/report.html")).read_text()
    assert "Classes that gain and lose most: hpt against base" in page


def test_predictions_that_are_missing_or_damaged_leave_the_report_whole(launched, tiny, tmp_path):
    _, launch, done = launched
    folder = tmp_path / "store"
    shutil.copytree(tiny[0], folder, ignore=shutil.ignore_patterns("work", "*.tar"))
    key = launch.trials["adapt/init=hpt,shots=1,seed=0"]
    (folder / f"stages/{key}/predictions.test.parquet").write_bytes(b"damaged")
    report = by_class.build(open_store(str(folder)), launch, done)
    assert report.gains == ()
    assert report.table.cells[1].mean is not None
    entries = json.loads((folder / f"stages/{key}/DONE").read_text())
    del entries["objects"]["predictions.test.parquet"]
    (folder / f"stages/{key}/DONE").write_text(json.dumps(entries))
    assert by_class.build(open_store(str(folder)), launch, done).gains == ()


def test_hits_are_of_files_of_one_label_alone(launched):
    store, launch, _ = launched
    key = launch.trials["adapt/init=hpt,shots=1,seed=0"]
    data = store.get(f"stages/{key}/predictions.test.parquet")
    hits, (facts, found) = predictions_file.hits(data, "x"), predictions_file.read(data, "x")
    assert hits.facts == facts
    assert hits.labels.tolist() == [one.labels[0] for one in found]
    assert hits.right.tolist() == [one.top[0] == one.labels[0] for one in found]
    assert hits.is_of_the_same(hits)
    assert isinstance(hits.facts, Facts)
