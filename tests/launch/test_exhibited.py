"""A page's exhibits, read from the store of a launch that ran."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small import TINY

from hpt_dist.launch import exhibited, launches, results
from hpt_dist.recipe.file import load
from hpt_dist.report.exhibits import Exhibits
from hpt_dist.report.report import build
from hpt_dist.store import open_store


def read(folder: Path) -> Exhibits:
    store = open_store(str(folder))
    launch = launches.find(store, "tiny")
    return exhibited.exhibits(store, launch, results.finished(store, launch))


@pytest.fixture(scope="module")
def found(tiny: tuple[Path, Path]) -> Exhibits:
    return read(tiny[0])


def test_trainings_have_their_curves_and_where_they_are(found: Exhibits) -> None:
    assert [card.name for card in found.trials] == [
        "hpt",
        "adapt/init=base,shots=1,seed=0",
        "adapt/init=hpt,shots=1,seed=0",
    ]
    hpt = found.trials[0]
    assert hpt.says == "pretrain (moco_v2) from base, reads color, line"
    assert {"loss", "accuracy on validation", "learning rate"} <= hpt.curves.keys()
    assert hpt.curves["loss"][-1][0] <= 300
    assert "ridge probe" in hpt.verdict
    assert hpt.pictures.keys() == {"views.webp", "neighbours.webp"}
    assert all(data[8:12] == b"WEBP" for data in hpt.pictures.values())
    assert hpt.pull.startswith("hpt-dist pull tiny-")
    assert (Path(hpt.place) / "DONE").exists()
    assert found.more == 3


def test_data_have_licences_and_the_recipe_is_as_written(found: Exhibits) -> None:
    assert [(card.name, card.place) for card in found.data] == [
        ("color", "openmoji/color"),
        ("line", "openmoji/line"),
    ]
    assert all("CC BY-SA 4.0" in card.licence and not card.note for card in found.data)
    assert [(one.trial, one.source) for one in found.weights] == [("base", "random")]
    assert found.recipe == TINY


def test_a_record_has_the_recipe_without_secrets(tmp_path: Path) -> None:
    text = TINY.replace("color: openmoji/color", "color: https://ada:planted-1@host/datasets/color")
    store = open_store(str(tmp_path))
    (tmp_path / "tiny.yaml").write_text(text)
    recipe = load(tmp_path / "tiny.yaml", ["stages.hpt.steps=7"], {"HPT_STORE": str(tmp_path)})
    settings = launches.Settings("local", 1, (), tmp_path / "work", "")
    launch = launches.record(recipe, [], store, settings)
    assert "planted-1" not in (tmp_path / f"launches/{launch.id}.json").read_text()
    assert "# --set stages.hpt.steps" in launch.written
    assert "name: tiny" in launch.written.splitlines()
    assert "${HPT_STORE}" in launch.written
    assert launch.options == ("stages.hpt.steps=7",)
    assert launch.datasets["line"] == "openmoji/line"


def test_what_cannot_be_read_is_named_and_keeps_no_page_away(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(tiny[0], folder, ignore=shutil.ignore_patterns("work", "*.tar"))
    (folder / "datasets/openmoji/color/manifest.json").write_text("{}")
    store = open_store(str(folder))
    launch = launches.find(store, "tiny")
    key = launch.trials["hpt"]
    (folder / f"stages/{key}/metrics.jsonl").write_text("damaged\n")
    found = read(folder)
    assert "cannot be read" in found.data[0].note
    assert found.trials[0].curves == {}
    assert "Its curves or pictures are left out" in found.trials[0].note
    html = build(launch, results.finished(store, launch)).html(found)
    assert "Its curves or pictures are left out" in html
