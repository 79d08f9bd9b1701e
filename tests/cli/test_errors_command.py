"""hpt-dist errors on real images: a planted wrong label, names to escape, what is not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from pictures import encoded, picture, sample
from PIL import Image
from selenium import webdriver
from shapes import write_shapes
from small import document, environment, fill, hpt, write_recipe

from hpt_dist.datasets.shards import write_dataset
from hpt_dist.sources.sample import FileSource
from hpt_dist.store import open_store

RECIPE = """\
name: judged
store: ${HPT_STORE}
datasets: {pets: pets, shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32, normalize: dataset}
stages:
  base: {kind: import, weights: random}
  line: {kind: linear, data: pets, solver: lbfgs, l2: [1.0e-3], init: base}
  near: {kind: knn, data: pets, k: [3], init: base, sweep: {seed: [0, 1]}}
  several: {kind: linear, data: shapes, solver: lbfgs, init: base}
"""
CLASSES = ["<b>dark</b>", "red", "white & bright, with a name that is as long as names can become"]
COLOURS = [(10, 10, 30), (200, 40, 40), (245, 245, 230)]
PLANTED = "val-004"


def pets():
    """Return images whose classes differ in colour; one of val has a wrong label."""
    samples = []
    for start, (split, count) in zip(
        (0, 100, 200), {"train": 48, "val": 24, "test": 12}.items(), strict=True
    ):
        for at in range(count):
            label, key = at % 3, f"{split}-{at:03}"
            plain = Image.new("RGB", (60, 40), COLOURS[label])
            data = encoded(Image.blend(picture(start + at, (60, 40)), plain, 0.8))
            samples.append(sample(key, data, split, (label + 1) % 3 if key == PLANTED else label))
    return FileSource("pets", "made", CLASSES, samples)


@pytest.fixture(scope="module")
def judged(tmp_path_factory, mlflow_tables):
    """A store in which evaluations of pets and of drawn images of several labels went through."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "made/datasets").mkdir(parents=True)
    store = fill(folder / "store", folder / "made", mlflow_tables)
    write_dataset(pets(), open_store(str(store)), "pets")
    write_shapes(open_store(str(store)))
    threads = torch.get_num_threads()
    path = str(write_recipe(folder, RECIPE))
    hpt("launch", path, "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    return store


@pytest.fixture
def store(judged, tmp_path):
    """A copy to change, datasets included."""
    return shutil.copytree(judged, tmp_path / "store")


def errors(store, tmp_path, trial, *more, **options):
    page = tmp_path / "page.html"
    printed = hpt("errors", trial, "--to", str(page), *more, store=str(store), **options)
    return printed, page.read_text() if page.exists() else ""


def folder_of(store, trial):
    [found] = [
        path.parent
        for path in store.glob("stages/*/result.json")
        if json.loads(path.read_text())["trial"] == trial
    ]
    return found


def test_a_planted_wrong_label_is_first_in_the_sheet(judged, tmp_path):
    printed, page = errors(judged, tmp_path, "judged/line", "--json")
    found = document(printed)
    assert found["mistakes"][0]["key"] == PLANTED
    assert found["mistakes"][0]["answered"] == "red"
    assert found["mistakes"][0]["probability"] > 0.9
    first = re.search(r'<img [^>]*alt="([^"]*)"><figcaption>(.*?)</figcaption>', page)
    assert first
    assert (first[1], first[2].split("<br>")[2]) == (PLANTED, PLANTED)
    assert "→" in first[2].split("<br>")[1]
    assert page.count("<img") == found["wrong"]
    assert not re.search(r'(src|href)="http', page)


def test_names_of_classes_and_files_are_escaped(judged, tmp_path):
    printed, page = errors(judged, tmp_path, "judged/line")
    assert "<b>" not in page
    assert "&lt;b&gt;dark" in page
    assert "line: " in printed
    assert "images of pets/val are answered wrongly" in printed
    assert re.search(r"^class +images +accuracy", printed, re.MULTILINE)


def test_of_several_labels_it_shows_both_kinds_and_average_precisions(judged, tmp_path):
    printed, page = errors(judged, tmp_path, "judged/several", "--split", "test", "--json")
    found = document(printed)
    result = json.loads((folder_of(judged, "several") / "result.json").read_text())
    precisions = [one["average_precision"] for one in found["classes"]]
    each = [one for one in precisions if one is not None]
    assert sum(each) / len(each) == pytest.approx(result["metrics"]["test/map"])
    assert [one["name"] for one in found["classes"] if one["average_precision"] is None] == [
        "frame"
    ]
    assert {one["kind"] for one in found["mistakes"]} == {"false positive", "false negative"}
    assert "Most confident false negatives" in page
    assert "what is changed because of them" in page


def test_a_stage_of_several_trials_is_asked_about(judged, tmp_path):
    printed, _ = errors(judged, tmp_path, "judged/near", code=2)
    assert "near has 2 trials" in printed
    assert "near/seed=0, near/seed=1" in printed
    printed, page = errors(judged, tmp_path, "judged/near/seed=1")
    assert page


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["judged"], "judged names no trial"),
        (["judged/base"], "base (import) names no classes"),
        (["judged/lime"], "has no stage or trial lime"),
        (["judged/line", "--split", "train"], "line left no predictions of train\n  allowed: test"),
        (["judged/line", "--to", "x.png"], "x.png has the wrong ending"),
    ],
)
def test_what_cannot_be_shown_is_refused(judged, asked, says):
    printed = hpt("errors", *asked, store=str(judged), code=2)
    assert says in printed


def test_a_trial_of_an_earlier_version_says_how_to_get_predictions(store, tmp_path):
    folder = folder_of(store, "line")
    done = json.loads((folder / "DONE").read_text())
    done["objects"] = {n: v for n, v in done["objects"].items() if "predictions" not in n}
    (folder / "DONE").write_text(json.dumps(done))
    printed, _ = errors(store, tmp_path, "judged/line", code=2)
    assert f"delete {folder}/DONE and launch again" in printed


def test_images_that_are_gone_or_others_now_leave_a_sheet_without_pictures(store, tmp_path):
    manifest = store / "datasets/pets/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"made"', '"remade"'))
    printed, page = errors(store, tmp_path, "judged/line")
    assert "the dataset pets in" in printed
    assert "is another one now" in page
    manifest.unlink()
    printed, page = errors(store, tmp_path, "judged/line")
    assert "the sheet has no pictures: no dataset pets" in printed
    assert "<img" not in page
    assert PLANTED in page


def test_damaged_predictions_are_named(store, tmp_path):
    path = folder_of(store, "line") / "predictions.val.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    printed, _ = errors(store, tmp_path, "judged/line", code=1)
    assert f"{path} is not what was committed" in printed


def test_it_reads_and_draws_without_torch(judged, tmp_path):
    code = (
        "import sys; sys.argv[0] = 'hpt-dist'\n"
        "from hpt_dist.cli.main import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    words = ["errors", "judged/line", "--to", str(tmp_path / "x.html")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(str(judged)),
        capture_output=True,
        text=True,
    )
    assert done.stderr.split()[-1] == "False", done.stderr


@pytest.mark.services
def test_the_sheet_fits_a_phone_and_a_desk(judged, tmp_path, chromium: webdriver.Chrome):
    for trial in ("line", "several"):
        errors(judged, tmp_path, f"judged/{trial}")
        for width in (390, 1280):
            chromium.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500},
            )
            chromium.get(f"file://{tmp_path}/page.html")
            assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
            drawn = "return [...document.images].every(one => one.complete && one.naturalWidth)"
            assert chromium.execute_script(drawn)
            shots = os.environ.get("HPT_SCREENSHOTS", str(tmp_path))
            chromium.save_screenshot(f"{shots}/errors-{trial}-{width}.png")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
