"""The section on adaptation follows from the records of its units; verdicts are those by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evidence import adapted, page, records
from evidence.matrix import ADAPTATIONS, OBJECTIVES, Unit
from evidence.records import Sitting, TrialRecord, UnitRecord

LINE, PAINT, CLIPART = ADAPTATIONS
ON = Sitting("c" * 40, (), "a processor, 2 cores", {"torch": "2.14.1"}, "float32", 6000.0)
IMAGES = 1000


def trial(number, share, settings="s", labels=38):
    right = np.arange(IMAGES) < round(share * IMAGES)
    return TrialRecord(
        f"{number:064x}", settings, 0, 100.0, top1=float(right.mean()), labels=labels,
        right=records.packed(right), images=IMAGES,
    )  # fmt: skip


def record(target, seed, share, gains, shots=(1, 3, 5), settings="s"):
    """Return a unit in which HPT adds a share of the images to what each objective reaches."""
    trials = {}
    for objective, gain in gains.items():
        for number in shots:
            name = f"objective={objective},shots={number},seed={seed}"
            base = trial(1, share, settings, 38 * number)
            trials[f"adapt/init=base,{name}"] = base
            trials[f"adapt/init=hpt,{name}"] = trial(2, share + gain, settings, 38 * number)
    return UnitRecord(target.name, seed, trials, (ON,))


def written(folder, *units):
    for one in units:
        target = next(target for target in ADAPTATIONS if target.name == one.target)
        records.write(one, records.file_of(Unit(target, one.seed), folder))
    return page.text(folder)


def row(text, title, *cells):
    """Return the cells of a table's row after the first ones that it begins with."""
    part = text.split(f"### {title}\n")[1].split("\n### ")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines()]
    (found,) = (line for line in lines if line[: len(cells)] == list(cells))
    return found[len(cells) :]


def test_a_pair_has_its_accuracies_and_what_hpt_adds_with_a_verdict(tmp_path):
    gains = (0.1, 0.11, 0.12)
    found = written(
        tmp_path,
        *(
            record(LINE, seed, 0.5 + 0.02 * seed, {"mme": gain, "s+t": 0.0, "consistency": -gain})
            for seed, gain in enumerate(gains)
        ),
    )
    # 50, 52 and 54 of a spread of 2; 60, 63 and 66 of 3.
    assert row(found, LINE.title, "base, mme")[0] == "52.0 ± 2.0 (3 of 5 seeds)"
    assert row(found, LINE.title, "hpt, mme") == ["63.0 ± 3.0 (3 of 5 seeds)"] * 3
    # 11 points; over seeds 4.303 * 1 / sqrt(3). 160 images change, 100, 40 or 20 times of three:
    # their differences have a mean of 11 and squares of 10, 60 and 90 images of 100, 66.7 and 33.3.
    cells = row(found, LINE.title, "mme", "3")
    assert (cells[0], cells[1]) == ("+11.0", "2.5")
    assert float(cells[2]) == pytest.approx(halves(gains), abs=0.06)
    assert cells[3:] == ["3 of 5", "helped"]
    assert row(found, LINE.title, "consistency", "1")[0] == "-11.0"
    assert row(found, LINE.title, "consistency", "1")[-1] == "harmed"
    assert row(found, LINE.title, "s+t", "5") == ["+0.0", "0.0", "0.1", "3 of 5", "no evidence"]
    assert "1,000 test images; labelled target images: 38, 114, 190." in " ".join(found.split())
    assert "3 of 15 units" in found


def halves(gains):
    """Return half of the interval over images, counted image by image."""
    changed = np.zeros(IMAGES)
    for seed, gain in enumerate(gains):
        first = round((0.5 + 0.02 * seed) * IMAGES)
        changed[first : first + round(gain * IMAGES)] += 100 / len(gains)
    spread = ((changed - changed.mean()) ** 2).sum() + 100**2 / len(gains)
    return 1.959964 * np.sqrt(spread) / (IMAGES + 2)


def test_what_is_missing_is_named_so(tmp_path):
    found = written(tmp_path, record(LINE, 0, 0.5, {"mme": 0.1}, shots=(1,)))
    assert row(found, LINE.title, "base, mme")[0] == "50.0 (1 of 5 seeds)"
    assert row(found, LINE.title, "base, mme")[1] == "*not measured yet*"
    assert row(found, LINE.title, "mme", "1")[-1] == "one seed: no verdict"
    assert row(found, LINE.title, "*mme*", "*3*")[0] == "*not measured yet*"
    says = "*not measured yet*: base and hpt, each by s+t, mme, consistency, with 1, 3, 5 labels"
    assert says in found.split(f"### {PAINT.title}")[1].split("###")[0].replace("\n", " ")
    assert row(found, "What HPT adds over all pairs", "mme", "1") == [
        "1 of 3", "1", "+10.0: one seed",
    ]  # fmt: skip


def test_pairs_decide_together_as_one_set_of_drawings(tmp_path):
    """Each pair counts alike; their errors on images do not cancel, those of trainings do."""
    at = {LINE: 0.02, PAINT: 0.03, CLIPART: 0.04}
    spread = (-0.004, -0.002, 0.0, 0.002, 0.004)
    found = written(
        tmp_path,
        *(
            record(target, seed, 0.5, {"mme": gain + spread[seed]}, shots=(1,))
            for target, gain in at.items()
            for seed in range(5)
        ),
    )
    pairs, seeds, pooled = row(found, "What HPT adds over all pairs", "mme", "1")
    assert (pairs, seeds) == ("3 of 3", "5")
    # Of seeds: a variance of .1 / 5 a pair, over 3 of them; of images: the mean of three errors.
    images = np.mean([on_images(gain, spread) for gain in at.values()])
    error = np.sqrt(0.1 / 5 / 3 + images**2)
    half = float(pooled.split("± ")[1].split(":")[0])
    assert half == pytest.approx(1.96 * error, abs=0.06)
    assert pooled.startswith("+3.0 ± ")
    assert pooled.endswith(": helped")


def on_images(gain, spread):
    changed = np.zeros(IMAGES)
    for one in spread:
        changed[500 : 500 + round((gain + one) * IMAGES)] += 100 / len(spread)
    return np.sqrt(((changed - changed.mean()) ** 2).sum() + 100**2 / len(spread)) / (IMAGES + 2)


def test_seeds_of_other_settings_do_not_count():
    both = [record(LINE, 0, 0.5, {"mme": 0.1}), record(LINE, 1, 0.7, {"mme": 0.2}, settings="t")]
    difference, seeds = adapted.gain(both, "mme", [1])
    assert (seeds, difference.mean) == (1, pytest.approx(10))
    assert adapted.accuracy(both, "base", "mme", 1).mean == pytest.approx(50)
    assert adapted.gain(both, "consistency", [1]) is None


def test_budgets_count_alike_and_only_of_seeds_that_have_all():
    """10 points with one label and 20 with three are 15, image by image."""
    both = [record(LINE, seed, 0.5, {"mme": 0.1}, shots=(1,)) for seed in range(3)]
    more = [record(LINE, seed, 0.5, {"mme": 0.2}, shots=(3,)) for seed in range(2)]
    joined = [
        dataclasses.replace(one, trials={**one.trials, **other.trials})
        for one, other in zip(both, more, strict=False)
    ]
    difference, seeds = adapted.gain([*joined, both[2]], "mme", [1, 3])
    assert (seeds, difference.mean) == (2, pytest.approx(15))
    changed = np.zeros(IMAGES)
    changed[500:600], changed[600:700] = 100, 50
    spread = ((changed - changed.mean()) ** 2).sum() + 100**2 / 2
    assert difference.images_half == pytest.approx(1.959964 * np.sqrt(spread) / (IMAGES + 2))
    assert adapted.gain([both[2]], "mme", [1, 3]) is None


def test_a_trial_is_found_by_some_of_its_axes():
    """What else was swept, such as settings of an objective, does not hide it."""
    one = trial(1, 0.5)
    name = "adapt/init=base,shots=1,seed=0,objective=mme,optimizer.lr=0.01"
    found = UnitRecord("color_to_line", 0, {name: one, "hpt/seed=0": trial(2, 0.5)})
    assert adapted.trial("base", "mme", 1)(found) == one
    assert adapted.trial("base", "mme", 10)(found) is None
    assert found.find("hpt") is not None
    assert found.find("few", init="base") is None


def test_other_sections_do_not_depend_on_adaptations(tmp_path):
    units = [record(LINE, seed, 0.5, dict.fromkeys(OBJECTIVES, 0.1)) for seed in range(2)]
    other = [dataclasses.replace(one, target=PAINT.name) for one in units]
    empty, full = page.text(tmp_path / "none"), written(tmp_path, *units, *other)
    section = "## Few labels in another domain"
    assert full.split(section)[0] == empty.split(section)[0]
    assert full != empty
    assert "| color_to_paint/1 " in full.split("### Command and commit")[1]
