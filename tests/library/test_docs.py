"""docs/library.md does what it shows: its blocks run in order, each complete, as one script."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import labelled, write
from small import environment

import hpt_dist
from hpt_dist.store import open_store

PAGE = (Path(__file__).parents[2] / "docs/library.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
# In a script without `if __name__ == "__main__"`, as people write them: no child runs it once more.
RUN = "exec(compile({source!r}, 'docs/library.md', 'exec'), {{'__name__': '__main__'}})\n"
# Their names and shapes fit, so that only the import can refuse them.
FAILS = """
import sys
import hpt_dist
from safetensors.torch import save_file
state = hpt_dist.load_backbone("timm/test_efficientnet").state_dict()
bad = {n: v * float("nan") if v.is_floating_point() else v for n, v in state.items()}
save_file(bad, "bad.safetensors")
try:
    overrides = ["stages.base.weights=bad.safetensors"]
    hpt_dist.run("small.yaml", store="other-store", overrides=overrides, only=["probe"])
except hpt_dist.HptError as error:
    print(error, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mlflow_tables):
    """A folder with a small real dataset, in which the page was followed."""
    folder = tmp_path_factory.mktemp("library")
    store = open_store(str(folder / "hpt-store"))
    samples = [*labelled(40), *labelled(12, split="val"), *labelled(12, split="test")]
    write(store, "photos", samples)
    (folder / "hpt-store/work").mkdir()
    (folder / "other-store/work").mkdir(parents=True)
    (folder / "other-store/datasets").symlink_to(folder / "hpt-store/datasets")
    script = "".join(RUN.format(source=text) for kind, text in BLOCKS if kind == "python") + FAILS
    (folder / "page.py").write_text(script)
    for store in ("hpt-store", "other-store"):
        (folder / store / "work/mlflow.db").write_bytes(mlflow_tables.read_bytes())
    [recipe] = [text for kind, text in BLOCKS if kind == "yaml"]
    (folder / "small.yaml").write_text(recipe)
    variables = environment("elsewhere", PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder / "shown").write_text(done.stdout)
    (folder / "logged").write_text(done.stderr)
    return folder


def test_the_page_runs(folder):
    shown, logged = (folder / "shown").read_text(), (folder / "logged").read_text()
    assert shown.startswith("{'test': 12, 'train': 40, 'val': 12}\n('a', 'b', 'c')")
    assert "\ntorch.Size([12, 256])\n" in shown
    assert re.search(r"\nhpt [0-9a-f]{64} runs never run\n", shown)
    assert re.search(r"\nprobe/init=hpt \{.*'test/top1': ", shown)
    assert logged.count("started hpt") == logged.count("done hpt") == 1
    # Besides the snippets' own lines there are none.
    printed = sum(text.count("print(") for kind, text in BLOCKS if kind == "python")
    assert len(shown.splitlines()) == printed + 1 + 3 + 3


def test_what_is_done_is_not_run_again(folder, monkeypatch, caplog, capfd):
    caplog.set_level(logging.INFO, "hpt_dist")
    monkeypatch.setenv("HPT_STORE", "elsewhere")
    recipe, store = folder / "small.yaml", str(folder / "hpt-store")
    overrides = ["stages.hpt.steps=12"]
    states = {
        trial.name: trial for trial in hpt_dist.plan(recipe, store=store, overrides=overrides)
    }
    assert {trial.state for trial in states.values()} == {"cached"}
    assert states["hpt"].settings["steps"] == 12
    finished = hpt_dist.run(recipe, store=store, overrides=overrides, cores=1)
    assert [trial.key for trial in finished] == [trial.key for trial in states.values()]
    assert finished == hpt_dist.finished("small", store=store) == hpt_dist.finished(store=store)
    changed = {trial.name: trial.state for trial in hpt_dist.plan(recipe, store=store)}
    assert changed["base"] == "cached"
    assert changed["hpt"] == "runs"
    assert capfd.readouterr() == ("", "")
    assert "started" not in caplog.text


def test_problems_are_raised(folder, tmp_path):
    recipe, store = folder / "small.yaml", str(folder / "hpt-store")
    with pytest.raises(hpt_dist.HptError, match="no dataset photos in"):
        hpt_dist.plan(recipe, store=str(tmp_path))
    with pytest.raises(hpt_dist.HptError, match="there is no recipe smal"):
        hpt_dist.plan("smal", store=store)
    with pytest.raises(hpt_dist.HptError, match="no stage hpd"):
        hpt_dist.run(recipe, store=store, only=["hpd"])
    with pytest.raises(hpt_dist.HptError, match="no launch nothing"):
        hpt_dist.finished("nothing", store=store)
    with pytest.raises(hpt_dist.HptError, match="shared out over 3 ranks"):
        hpt_dist.run(recipe, store=store, ranks=3)


def test_a_trial_that_fails_is_an_error(folder):
    _, error = (folder / "logged").read_text().split("failed base")
    assert "4 of 4 trials are not done" in error
    assert "values that are not finite" in error
    assert "probe/init=base: not run: the trial it starts from failed" in error
