"""A store that earlier code has written is read on, and an interrupted trial in it goes on.

`store_of_before.tar.xz` was made before the code was put into packages: a dataset, two finished
trials, and a pretraining that was killed after its first saved state, with its lease.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from small import hpt

ARCHIVE = Path(__file__).with_name("store_of_before.tar.xz")


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    # What judged then has to be written now that another probe is the default.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("images: 16", "images: 16, probe: knn"))
    return tmp_path


def test_its_trials_keep_their_keys_and_the_interrupted_one_goes_on(folder):
    store, recipe = folder / "store", str(folder / "recipe.yaml")
    objects = {path: path.read_bytes() for path in store.glob("stages/*/*") if path.is_file()}
    # Whether its holder died cannot be known from here.
    [lease] = store.glob("stages/*/lease.json")
    lease.write_text(json.dumps(json.loads(lease.read_text()) | {"host": "elsewhere", "pids": "?"}))
    plan = json.loads(hpt("plan", recipe, "--json", store=str(store)))
    states = {trial["trial"]: trial["state"] for trial in plan}
    assert states == {
        "base": "cached",
        "probe/init=base": "cached",
        "hpt": "running",
        "probe/init=hpt": "runs",
    }
    lease.unlink()
    printed = hpt("launch", recipe, "--on", "inline", store=str(store), process=False)
    assert "goes on after step 2" in printed or "resumes" in printed
    done = [json.loads(path.read_text())["key"] for path in store.glob("stages/*/DONE")]
    assert len(done) == 4
    for path, data in objects.items():
        if (path.parent / "DONE") in objects:
            assert path.read_bytes() == data, "what was done stays as it is"
    assert "4 of 4 trials done" in hpt("report", store=str(store))
    hpt("pull", "before/base", str(folder / "pulled"), store=str(store))
    assert (folder / "pulled/weights.safetensors").exists()
