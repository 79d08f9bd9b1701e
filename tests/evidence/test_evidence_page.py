"""docs/evidence.md follows from the committed records, and says only what they hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evidence import page, records, rows
from evidence.matrix import RESULTS, TARGETS, Unit
from evidence.records import Gate, Sitting, TrialRecord, UnitRecord
from hpt_dist.store.records import DamagedRecordError

LINE, CLIPART, FASHION, FASHION_5K, TUX = TARGETS
ON = Sitting("c" * 40, (), "a processor, 2 cores", {"torch": "2.14.1"}, "float32", 6000.0)


def trial(number, right, settings="s", **more):
    return TrialRecord(
        f"{number:064x}", settings, 0, 100.0, top1=float(right.mean()), labels=100,
        right=records.packed(right), images=len(right), **more,
    )  # fmt: skip


def record(target, seed, share, gain, settings="s", images=1000):
    """Return a unit in which hpt is better than the base by some share of the images."""
    base = np.arange(images) < share * images
    hpt = np.arange(images) < (share + gain) * images
    gate = Gate("helped" if gain > 0 else "harmed", 100 * gain, 1.0, 500)
    training = TrialRecord("f" * 64, "t", 0, 300.0, gate=gate)
    trials = {
        f"linear/init=base,seed={seed}": trial(1, base),
        f"linear/init=hpt,seed={seed}": trial(2, hpt, settings),
        f"hpt/seed={seed}": training,
    }
    return UnitRecord(target.name, seed, trials, (ON,))


def written(folder, *units):
    for one in units:
        target = next(target for target in TARGETS if target.name == one.target)
        records.write(one, records.file_of(Unit(target, one.seed), folder))
    return page.text(folder)


def table_row(text, title, *cells):
    """Return the cells of a table's row after the first ones that it begins with."""
    part = text.split(f"## {title}")[1].split("\n## ")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines()]
    (found,) = (line for line in lines if line[: len(cells)] == list(cells))
    return found[len(cells) :]


def test_the_committed_page_is_that_of_the_committed_records():
    assert page.text(RESULTS) == page.PAGE.read_text()


def test_a_row_has_its_difference_its_intervals_its_verdict_and_its_cost(tmp_path):
    found = written(tmp_path, *(record(LINE, seed, 0.5, 0.1 + 0.002 * seed) for seed in range(5)))
    cells = table_row(found, LINE.title, "hpt", "linear")
    # 0.2 * sqrt(2.5) points of spread, / sqrt(5), * 2.776 of Student's t; 104 of 1000 images.
    assert cells == ["60.4", "5 of 5", "+10.4", "0.4", "1.9", "60.0", "helped"]
    assert table_row(found, LINE.title, "base", "linear")[:3] == ["50.0", "5 of 5", ""]
    assert table_row(found, LINE.title, "*hpt_bn*", "*linear*")[:2] == ["*not run yet*", "*0 of 5*"]
    assert "not run yet*: base, fresh, hpt" in found.split(f"## {CLIPART.title}")[1]


def test_one_seed_has_no_verdict_and_seeds_of_other_settings_do_not_count(tmp_path):
    found = written(tmp_path, record(LINE, 0, 0.5, 0.1), record(LINE, 1, 0.5, 0.1, "older"))
    cells = table_row(found, LINE.title, "hpt", "linear")
    assert (cells[1], cells[3], cells[-1]) == ("1 of 5", "", "one seed: no verdict")
    assert table_row(found, "The answer over all targets", "hpt", "linear") == [
        "1", "1", "+10.0: one domain", "+10.0: one seed",
    ]  # fmt: skip
    assert "**hpt: no verdict before all seeds.** +10.0" in found


def test_targets_decide_together_and_a_story_does_not_count(tmp_path):
    gains = {LINE: 0.02, CLIPART: 0.03, FASHION: 0.02, FASHION_5K: 0.04, TUX: -0.3}
    found = written(
        tmp_path,
        *(
            record(target, seed, 0.5, gain + 0.004 * seed)
            for target, gain in gains.items()
            for seed in range(target.seeds)
        ),
    )
    # Domains of 2.8, 3.8 and (2.8 + 4.8) / 2 = 3.8 points: 3.47 with 4.303 * 0.577 / sqrt(3).
    cells = table_row(found, "The answer over all targets", "hpt", "linear")
    assert cells[:3] == ["3", "5", "+3.5 ± 1.4: helped"]
    assert "**hpt: it helps.** +3.5 ± 1.4 points over 3 domains" in found
    story = found.split(f"## {TUX.title}: a story")[1].split("\n## ")[0]
    assert "harmed" not in story
    assert table_row(found, "Is the gate right?", "helped")[0] == "20"  # and none of the story
    assert "Where both decide (20 cases) they agree in 20: 100 %" in found
    assert table_row(found, FASHION.title, "hpt against scratch", "linear")[0] == "*not run yet*"


def test_a_method_that_does_harm_is_called_so(tmp_path):
    found = written(
        tmp_path,
        *(
            record(target, seed, 0.5, -0.03 - 0.001 * seed)
            for target in (LINE, CLIPART, FASHION)
            for seed in range(5)
        ),
    )
    assert "**hpt: it does harm.**" in found
    assert table_row(found, "Is the gate right?", "harmed") == ["0", "0", "15"]


def test_another_arm_is_compared_on_the_same_seeds():
    found = [record(LINE, seed, 0.5, 0.1) for seed in range(3)]
    assert rows.against(found, "linear", "hpt", "base").mean == pytest.approx(10)
    assert rows.against(found, "linear", "hpt", "scratch") is None


def test_a_damaged_record_is_named(tmp_path):
    written(tmp_path, record(LINE, 0, 0.5, 0.1))
    file = tmp_path / "line-0.json"
    file.write_text(file.read_text().replace('"top1": 0.5', '"top1": "half"'))
    with pytest.raises(DamagedRecordError) as refused:
        page.text(tmp_path)
    assert str(file) in str(refused.value)
    assert "take it from git" in str(refused.value)


def test_a_record_reads_as_it_was_written(tmp_path):
    one = record(LINE, 0, 0.5, 0.1)
    written(tmp_path, one)
    assert records.read(Unit(LINE, 0), tmp_path) == one
    assert one.of("linear", "hpt").answers().sum() == 600
    assert records.read(Unit(LINE, 3), tmp_path) == UnitRecord("line", 3)
    assert dataclasses.replace(one, trials={}).cpu_seconds() == {}
