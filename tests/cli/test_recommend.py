"""`recommend`: a recipe on standard output or in a file, mistakes, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pictures import labelled, write
from small import environment, hpt, wait_for

from hpt_dist.store import open_store

TINY = "timm/test_efficientnet=random"
QUICK = ("--look-seconds", "1")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of one's own, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def store(tmp_path):
    """A store with labelled images, some without val, and some that only judge."""
    opened = open_store(str(tmp_path / "hpt-store"))
    splits = [*labelled(48), *labelled(12, split="val"), *labelled(12, split="test")]
    write(opened, "photos", splits)
    write(opened, "bare", labelled(8))
    write(opened, "only", labelled(4, split="test"))
    return opened.uri


def refused(*words: str, store: str) -> str:
    return hpt("recommend", *words, store=store, code=2)


def test_the_recipe_is_written_plans_and_is_never_overwritten(store):
    printed = hpt(
        *("recommend", "photos", "-o", "mine.yaml", "--base", TINY, "--hours", "2", *QUICK),
        store=store,
    )
    assert "photos: train 48, val 12, test 12 images; 3 classes: a, b, c" in printed
    assert "raw pixels: nearest neighbours" in printed
    assert "wrote mine.yaml" in printed
    recipe = yaml.safe_load(Path("mine.yaml").read_text())
    assert recipe["name"] == "photos"
    assert recipe["stages"]["hpt"]["steps"] > 300
    planned = hpt("plan", "mine.yaml", store=store)
    assert "features/init=hpt_bn,seed=2" in planned
    assert "note:" not in planned.replace("note: store", "")
    before = Path("mine.yaml").read_bytes()
    said = refused("photos", "--out", "mine.yaml", store=store)
    assert "mine.yaml is there already" in said
    assert Path("mine.yaml").read_bytes() == before
    assert not [one for one in Path("hpt-store").iterdir() if one.name != "datasets"]


def test_json_is_one_document_and_labels_without_val_say_what_to_do(store):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hpt_dist", "recommend", "bare", "--json"),
            *("--name", "my first", "--base", TINY, *QUICK),
        ],
        env=environment(store),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert not found["labelled"]
    recipe = yaml.safe_load(found["recipe"])
    assert recipe["name"] == "my_first"
    assert list(recipe["stages"]) == ["base", "hpt"]
    assert recipe["stages"]["hpt"]["keep"] == "last"
    assert found["facts"]["bases"][0]["score"]["split"] == "train"
    assert found["hours"] > 0
    assert "bare has labels, but no split val" in done.stderr
    assert "--split hash" in found["recipe"]


def test_mistakes_are_refused_with_what_to_do(store, tmp_path):
    assert "no dataset photo in" in refused("photo", store=store)
    assert "did you mean photos?" in refused("photo", store=store)
    (tmp_path / "images").mkdir()
    assert "hpt-dist shard images" in refused("images", store=store)
    assert "nothing to pretrain on" in refused("only", store=store)
    assert "photos is named twice" in refused("photos", "--source", "photos", store=store)
    assert "both called photos" in refused(
        *("photos", "--source", f"{twin(tmp_path)}/datasets/more/photos"), store=store
    )
    assert "0 is no number of hours" in refused("photos", "--hours", "0", store=store)
    assert "nan is no number of hours" in refused("photos", "--hours", "nan", store=store)
    assert "no time for a look" in refused("photos", "--look-seconds", "0", store=store)
    bases = {
        "timm/resnet5000": "no backbone resnet5000",
        "package/lite": "no package of weights has the name",
        "gone.pth": "no such file of weights exists",
        "random": "nothing tells which network random is of",
        "timm/resnet50=gone.pth": "no such file of weights exists",
    }
    for given, says in bases.items():
        printed = refused("photos", "--base", given, store=store)
        assert says in printed, printed
        assert "--base" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "hpt-store", "images"]


def twin(tmp_path: Path) -> str:
    elsewhere = open_store(str(tmp_path / "elsewhere"))
    write(elsewhere, "more/photos", labelled(8))
    return elsewhere.uri


def test_hours_that_do_not_suffice_are_refused_and_nothing_is_written(store):
    words = ("photos", "-o", "x.yaml", "--base", TINY, "--hours", "0.0001", *QUICK)
    printed = hpt("recommend", *words, store=store, code=2, process=True)
    assert "0.0001 hours do not suffice here" in printed
    assert "or more" in printed
    assert not Path("x.yaml").exists()


def test_ctrl_c_ends_the_look_and_leaves_nothing(store):
    running = subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", "recommend", "photos", "-o", "x.yaml", "--base", TINY],
        env=environment(store),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: children_of(running.pid))
    lookers = children_of(running.pid)
    running.send_signal(signal.SIGINT)
    said = running.communicate()[1]
    assert running.returncode == 1
    assert "Traceback" not in said
    assert "interrupted" in said
    assert not Path("x.yaml").exists()
    wait_for(lambda: not any(is_alive(one) for one in lookers))


def children_of(parent: int) -> list[Path]:
    """Return the folders in /proc of the processes that another one started."""
    return [one for one in Path("/proc").glob("[0-9]*") if state(one)[1:2] == [str(parent)]]


def is_alive(process: Path) -> bool:
    return state(process)[:1] not in ([], ["Z"])


def state(process: Path) -> list[str]:
    """Return what /proc says of a process from its state on; nothing where it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
