"""`continue` goes from images to a verdict and weights, asks once, and goes on after anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import document, environment, hpt, outcome, saved_step, wait_for
from terminal import Terminal

from hpt_dist import sources

CONTINUE = [sys.executable, "-m", "hpt_dist", "continue", "--look-seconds", "1"]
STORE = "./hpt-store"
TINY = """\
name: pile
datasets: {pile: pile}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [pile/train]
    steps: 60
    batch: 8
    moco: {queue: 32}
    batch_norm: frozen
    monitor: {every: 30}
    keep: last
    checkpoint_every: 5
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, mlflow_tables):
    """Work in a folder of one's own, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path(STORE, "work").mkdir(parents=True)
    shutil.copy(mlflow_tables, f"{STORE}/work/mlflow.db")


def drawings(folder, classes=2, each=30, flat=False):
    """Write drawings of OpenMoji as images of a user, in folders of classes or in one."""
    source = sources.open_source("openmoji/line")
    for label in range(classes):
        of_class = [one for one in source.samples() if one.label == label][:each]
        for number, one in enumerate(of_class):
            home = Path(folder) / ("" if flat else f"class {label}")
            home.mkdir(parents=True, exist_ok=True)
            (home / f"{label}-{number:03}.png").write_bytes(one.read())


def shrink(file):
    """Edit a recipe, as its user may: a tiny network and few steps."""
    recipe = yaml.safe_load(file.read_text())
    recipe |= {"backbone": "timm/test_efficientnet", "image": {"size": 32}}
    for stage in recipe["stages"].values():
        if stage["kind"] == "import":
            stage["weights"] = "random"
        if "steps" in stage:
            stage |= {"steps": 8, "batch": 8}
        if stage["kind"] == "pretrain":
            stage |= {"moco": {"queue": 16}, "head_warmup_steps": 2, "checkpoint_every": 4}
            stage["monitor"] |= {"every": 4}
        if "views" in stage:
            stage["views"] = 1
        if "seed" in stage.get("sweep", {}):
            stage["sweep"]["seed"] = [0, 1]
    opening = file.read_text().splitlines(keepends=True)[0]
    file.write_text(opening + yaml.safe_dump(recipe, sort_keys=False))


def asked(*words, answer="n", ends=1):
    """Run the command on a terminal, answer its question, and return the screen."""
    with Terminal([*CONTINUE, *words], Path.cwd(), environment(STORE)) as terminal:
        terminal.wait_for(r"go on\? \[y/N\]", timeout_s=300)
        if answer == "^C":
            terminal.press_ctrl_c()
        else:
            os.write(terminal._screen, f"{answer}\n".encode())
        assert terminal.end() == ends, terminal.screen()
        return terminal.screen()


def test_without_a_terminal_nothing_is_spent_and_nothing_written():
    drawings("pile", each=12)
    before = sorted(Path().rglob("*"))
    printed = hpt("continue", "pile", store=STORE, code=2)
    assert "2 classes: class 0, class 1" in printed
    assert "it asks before it spends hours" in printed
    assert re.search(r"do: .* continue pile --yes$", printed, re.MULTILINE)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere", "--yes"], "nothing is at nowhere"),
        (["pile.zip", "--yes"], "&& hpt-dist continue pile$"),
        (["pile", "--yes", "--name", "a b"], "--name: 'a b' cannot name a dataset"),
        (["a.tar", "b.tar", "--yes"], "name it with --name NAME"),
        (["pile", "--yes", "--layout", "rows"], "--layout: .*'rows'"),
        (["birds.csv", "--yes"], "--columns"),
    ],
)
def test_what_shard_would_refuse_is_refused_in_the_words_of_this_command(words, says):
    drawings("pile", classes=1, each=4, flat=True)
    Path("pile.zip").touch()
    Path("birds.csv").write_text("file,bird species\npile/0-000.png,a\n")
    printed = hpt("continue", *words, store=STORE, code=2)
    assert re.search(says, printed, re.MULTILINE), printed
    assert "hpt-dist shard" not in printed
    assert not Path(STORE, "datasets").exists()


def test_from_class_folders_to_a_verdict_and_weights_that_load():
    """Declined, edited, launched, asked for again, then with other options and other images."""
    drawings("pile")
    screen = asked("pile")
    for line in (
        "images +pile: train 37, val 8, test 7 images; 2 classes",
        "judged +by ",
        "base +package/eff",
        "plan +[0-9]+ trials",
    ):
        assert re.search(f"^{line}", screen, re.MULTILINE), screen
    assert "nothing was started; the images are sharded" in screen
    recipe = Path("pile.yaml")
    assert not list(Path(STORE).glob("launches/*.json"))
    written = recipe.read_bytes()
    assert "go on" in asked("pile", answer="^C")
    assert recipe.read_bytes() == written

    shrink(recipe)
    printed = hpt("continue", "pile", "--yes", store=STORE)
    assert "pile.yaml is used as edited" in printed
    end = printed.partition("report.html")[2].partition("report.html")[2]
    assert re.search(r"(Helped|Harmed|No evidence of a difference|No verdict)\.", end), printed
    assert re.search(r"^base weights: \S+/weights.safetensors \(base\)$", end, re.MULTILINE)
    done = outcome(Path(STORE))

    again = hpt("continue", "pile", "--yes", "--json", store=STORE)
    found = document(again)
    assert "cached; nothing to run" in again
    assert outcome(Path(STORE)) == done
    assert Path(found["weights"]["adapted"]).is_file()
    scope = {"images": torch.zeros(2, 3, 32, 32)}
    exec("\n".join(found["weights"]["load"]), scope)
    assert scope["features"].shape == (2, scope["backbone"].feature_dim)
    pull = found["weights"]["pull"].split()
    assert "loading.md" in hpt(*pull[pull.index("pull") :], store=STORE)

    printed = hpt("continue", "pile", "--yes", "--hours", "9", store=STORE, code=2)
    assert "it was edited, and was written for no --hours; this command has --hours 9" in printed
    shutil.copy("pile/class 0/0-000.png", "pile/class 0/new.png")
    printed = hpt("continue", "pile", "--yes", store=STORE, code=2)
    assert "a dataset of 52 images (pile) is there, and these 53 images" in printed
    assert "choose another name with --name; or replace it with --replace" in printed
    screen = asked("pile", "--replace")
    assert "was written for other images" in screen
    assert "1 cached" in screen  # the base: nothing is mixed
    assert outcome(Path(STORE)) == done


def test_a_folder_without_labels_is_not_judged_and_goes_on_after_a_trial_was_killed():
    drawings("pile", flat=True)
    Path("pile.yaml").write_text(TINY)
    with subprocess.Popen(
        [*CONTINUE, "pile", "--yes"], env=environment(STORE), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as launch:  # fmt: skip
        wait_for(lambda: any(map(saved_step, Path(STORE).glob("stages/*"))))
        [lease] = Path(STORE).glob("stages/*/lease.json")
        os.kill(json.loads(lease.read_text())["pid"], signal.SIGKILL)
        printed, _ = launch.communicate()
    assert launch.returncode == 1, printed
    assert "1 of 2 trials are not done" in printed
    assert re.search("^where each trial stands: .* status pile-", printed, re.MULTILINE)
    assert "adapted weights" not in printed
    printed = hpt("continue", "pile", "--yes", store=STORE)
    assert "pile.yaml is used as you wrote it" in printed
    assert re.search("^judged +not judged: no labels$", printed, re.MULTILINE)
    assert re.search(r"^hpt +\w+ +(resumes|failed) ", printed, re.MULTILINE)
    end = printed.rpartition("report.html")[2]
    assert "not judged: no labels. The base and the adapted weights are both kept." in end
    assert re.search(
        r"show a gain in accuracy: about \d\d0 for 10 points and about \d+0 for 5", end
    )
    [picture] = re.findall("neighbours before and after: (.*)", end)
    assert Path(picture).is_file()
    # The one that was killed: nothing was begun anew.
    assert len(outcome(Path(STORE))) == len(list(Path(STORE).glob("stages/*"))) == 2


def test_a_recipe_of_other_images_is_not_taken_for_this_one(tmp_path):
    drawings("pile", classes=1, each=40, flat=True)
    Path("other.yaml").write_text(TINY.replace("name: pile", "name: other"))
    hpt("shard", "pile", f"{STORE}/datasets/pile", store=STORE)
    shutil.copytree("pile", "other")
    Path("other/0-000.png").unlink()
    printed = hpt("continue", "other", "--yes", store=STORE, code=2, process=True)
    assert "this recipe reads other datasets than other" in printed
