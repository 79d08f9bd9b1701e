"""Which store a command reads: --store, a recipe's own, HPT_STORE; and printed commands."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from small import REFUSED, TINY, hpt, write_recipe

from hpt_dist.cli.main import main
from hpt_dist.launch import pasted
from hpt_dist.store import FolderStore
from hpt_dist.store.paths import report_folder

# Each with RUN in the place of the run, and whether its output names the launch.
VERBS = {
    "status RUN": True,
    "logs RUN --trial base": False,
    "report RUN": True,
    "pull RUN/base OUT": False,
}


@pytest.fixture
def own(tiny, tmp_path):
    """A recipe that names its store with two launches, in a folder whose name needs quotes."""
    folder = tmp_path / "my project"
    folder.mkdir()
    store = folder / "its store"
    shutil.copytree(tiny[0], store, symlinks=True)
    text = TINY.replace("${HPT_STORE}", str(store))
    return write_recipe(folder, text), store


def words(command, run, tmp_path):
    return [
        word.replace("RUN", str(run)).replace("OUT", str(tmp_path / "out"))
        for word in command.split()
    ]


def test_a_recipes_file_leads_to_its_own_store_and_store_comes_first(own, tiny, tmp_path):
    recipe, store = own
    empty = str(tmp_path / "empty")
    for command, named in VERBS.items():
        printed = hpt(*words(command, recipe, tmp_path), store=empty)
        assert f"store: {store}, of {recipe} (HPT_STORE names {empty})" in printed, command
        assert not named or "tiny-" in printed
        refused = words(command, recipe, tmp_path)
        printed = hpt(*refused, "--store", empty, store=str(store), code=REFUSED)
        assert f"no launch tiny in {empty}" in printed
        printed = hpt(*words(command, "tiny", tmp_path), "--store", str(store), store=empty)
        assert "HPT_STORE" not in printed
    assert "has ended" in hpt("cancel", str(recipe), store=empty, code=REFUSED)
    printed = hpt("cancel", str(recipe), "--store", empty, store=str(store), code=REFUSED)
    assert "no launch tiny" in printed


@pytest.mark.parametrize("given", ["HPT_STORE", "here", "--store"])
def test_a_recipe_without_a_store_means_the_usual_one_for_every_verb(
    given, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = TINY.replace("store: ${HPT_STORE}\n", "")
    recipe = write_recipe(tmp_path, text)
    store = tmp_path / "hpt-store"
    if given == "here":
        store.symlink_to(tiny[0])
    else:
        store = tiny[0]
    variable = {"HPT_STORE": str(store), "here": "", "--store": "none"}[given]
    option = ["--store", str(store)] if given == "--store" else []
    said = {
        "HPT_STORE": f"store: {store} (from HPT_STORE)",
        "here": f"store: {store} (neither the recipe nor HPT_STORE names one)",
        "--store": "",
    }[given]
    verbs = ["plan RUN", "launch RUN", *VERBS, "sync RUN", "cancel RUN"]
    for verb in verbs:
        code = REFUSED if verb.startswith("cancel") else 0  # it has ended
        here = {"process": False} if verb.startswith(("launch", "sync")) else {}
        printed = hpt(*words(verb, recipe, tmp_path), *option, store=variable, code=code, **here)
        assert said in printed, verb
        assert printed.count("store: ") == bool(said), verb
        assert not (tmp_path / "none").exists()
        assert (tmp_path / "hpt-store").exists() is (given == "here"), verb
    assert "store" in hpt("plan", str(recipe), "--set", "store=''", store="", code=REFUSED)


def test_a_recipe_that_is_wrong_elsewhere_still_leads_to_its_store(own, tmp_path):
    recipe, _ = own
    recipe.write_text(recipe.read_text().replace("kind: mme", "kind: none of these"))
    assert hpt("status", str(recipe), store="none").count("cached") == 6
    recipe.write_text(recipe.read_text().replace("store: ", "store: ${NO_SUCH_VARIABLE}/"))
    printed = hpt("status", str(recipe), store="none", code=REFUSED)
    assert "NO_SUCH_VARIABLE is not set" in printed
    assert f"{recipe}:2" in printed
    where = ("--store", str(own[1]))
    assert hpt("status", str(recipe), *where, store="none").count("cached") == 6


def test_a_store_may_be_given_where_the_recipes_variable_is_not(tiny, monkeypatch):
    monkeypatch.delenv("HPT_STORE", raising=False)
    store, recipe = tiny
    for verb in ("plan", "status"):
        assert hpt(verb, str(recipe), "--store", str(store), store="").count("cached") >= 6


def test_a_file_that_is_not_there_is_said(tiny, tmp_path):
    gone = str(tmp_path / "tiny.yaml")
    printed = hpt("status", gone, store=str(tiny[0]))
    assert f"there is no file {gone}; its launches are looked for in {tiny[0]}" in printed
    assert printed.count("cached") == 6


def test_plan_and_launch_take_another_store_and_say_so(own, tiny, tmp_path):
    recipe, store = own
    other = str(tiny[0])
    said = f"store: {other} (--store), not the recipe's own, {store}"
    printed = hpt("plan", str(recipe), "--store", other, store="none")
    assert said in printed
    assert "6 trials: 6 cached" in printed
    refused = ("--set", "store=x", "--store", other)
    assert "the store is given twice" in hpt("plan", str(recipe), *refused, store="", code=REFUSED)
    printed = hpt("launch", str(recipe), "--store", other, store="none", process=False)
    assert said in printed
    assert "all 6 trials are cached" in printed
    assert "6 cached" in hpt("plan", str(recipe), store="none")


def test_stores_that_share_a_work_folder_have_reports_of_their_own(own, tiny, tmp_path):
    """`report` prints where the page is, and brings one that is older up to date."""
    recipe, store = own
    shared = tmp_path / "work"
    shared.mkdir()
    pages = {}
    for one in (store, shutil.copytree(store, tmp_path / "other", symlinks=True)):
        [path] = one.glob("launches/*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"work": str(shared)}))
        where = ("--store", str(one))
        launched = hpt(
            "launch", str(recipe), *where, "--work", str(shared), store="", process=False
        )
        [pages[one]] = re.findall(r"^report: (.*/report\.html)$", launched, re.MULTILINE)
        data = Path(pages[one]).with_name("report.json")
        whole = data.read_bytes()
        printed = hpt("report", "tiny", *where, store="")
        assert f"report: {pages[one]}" in printed
        assert data.read_bytes() == whole
        Path(pages[one]).write_text("of before")
        hpt("report", "tiny", *where, store="")
        assert Path(pages[one]).read_text() == "of before"  # it says the same
        data.write_text('{"missing": ["hpt"]}')
        hpt("report", "tiny", *where, store="")
        assert data.read_bytes() == whole
        assert "<html" in Path(pages[one]).read_text()
        printed = hpt("report", "tiny", *where, "--out", str(tmp_path / "out"), store="")
        assert "report: " not in printed
    assert len({str(Path(page).parent) for page in pages.values()}) == 2
    # The work folder in a store is its own.
    assert report_folder(store / "work", str(store), "tiny") == store / "work/reports/tiny"


def test_a_plan_counts_what_is_run(tiny, tmp_path):
    recipe = str(write_recipe(tmp_path, TINY.replace("steps: 300", "steps: 301")))
    assert "6 trials: 3 cached, 3 runs" in hpt("plan", recipe, store=str(tiny[0]))


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("usual", ["", "the same", "another"])
def test_a_printed_command_names_the_store_where_it_must(here, usual, monkeypatch, tmp_path):
    """Run by a shell, in another folder too, it looks into the store that it is about."""
    monkeypatch.chdir(tmp_path)
    store = FolderStore(tmp_path / ("hpt-store" if here else "a b/it's"))
    names = {"the same": str(store.root), "another": "/elsewhere", "": ""}
    monkeypatch.setenv("HPT_STORE", names[usual])
    printed = pasted.command("logs", "x-1", "-f", store=store)
    said = shlex.split(printed)
    assert said[:4] == ["hpt-dist", "logs", "x-1", "-f"]
    assert said[4:] == ([] if here and usual != "another" else ["--store", str(store.root)])


def test_the_printed_commands_can_be_pasted(own, tiny, tmp_path):
    """At the end of a launch, and of what is refused."""
    recipe, store = own
    printed = hpt("launch", str(recipe), store="none", process=False)
    [ui] = [line for line in printed.splitlines() if line.startswith("to see the runs")]
    words = shlex.split(ui.partition(": ")[2])
    work = str(tiny[0] / "work")  # that of the launch, in the store of which this is a copy
    assert words[-5:] == ["ui", "--work", work, "--store", str(store)]
    refused = hpt("cancel", str(recipe), store="none", code=REFUSED)
    command = refused.partition("do: ")[2].strip()
    variables = {name: x for name, x in os.environ.items() if name != "HPT_STORE"}
    done = subprocess.run(
        ["bash", "-c", command.replace("hpt-dist", f"{sys.executable} -m hpt_dist", 1)],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cached") == 6


def test_json_is_one_document_on_standard_output_for_every_verb(own, tmp_path):
    recipe, store = own
    run, out = str(recipe), str(tmp_path / "out")
    of_launches = [
        ["status", run],
        ["logs", run, "--trial", "hpt"],
        ["pull", f"{run}/hpt", out],
        ["launch", run],
        ["report", run, "--out", out],
    ]
    dataset = ["openmoji/line", "--store", str(store)]
    for words in [
        *of_launches,
        ["plan", run],
        ["data", "show", *dataset],
        ["data", "verify", *dataset],
        ["data", "preview", *dataset, "--out", f"{out}.png", "--images", "1"],
        ["data", "leaks", *dataset, "--exact"],
        ["schema"],
    ]:
        options = [] if words == ["schema"] else ["--json"]
        document = json.loads(stdout_of(*words, *options))
        if words in of_launches:
            assert (document["launch"][:5], document["store"]) == ("tiny-", str(store))
    printed = hpt("logs", run, "--json", "-f", store="none", code=REFUSED)
    assert "--json prints one document" in printed


def test_sync_reads_the_recipes_store_too(own, mlflow_tables, tmp_path):
    recipe, store = own
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    [record] = store.glob("launches/*.json")
    changes = {"work": str(tmp_path / "none"), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))
    document = json.loads(stdout_of("sync", str(recipe), "--json"))
    assert document["store"] == str(store)
    printed = hpt("sync", str(recipe), store="none")
    assert f"left nothing in {tmp_path / 'none'}: they ran on another machine" in printed
    assert document["trials"]["hpt"] == {"status": "no metrics here", "points": 0}


def stdout_of(*words):
    """Run a command in this process; return what it prints on standard output."""
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["hpt-dist", *words]),
        mock.patch.dict(os.environ, {"HPT_STORE": "none"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert not ended.value.code, words
    return out.getvalue()


def test_a_file_that_asks_for_other_trials_than_its_launch_ran_is_said(own, tmp_path):
    """Or the results of before the change would be taken for those of after it."""
    recipe, _ = own
    for command in VERBS:
        assert "other settings" not in hpt(*words(command, recipe, tmp_path), store="none")
    written = recipe.read_text()
    recipe.write_text(written.replace("size: 32", "size: 48"))
    says = f"note: {recipe} asks for other settings now in 6 of 6 trials, such as base ("
    for command in ("status RUN", "report RUN", "pull RUN/base OUT"):
        printed = hpt(*words(command, recipe, tmp_path), store="none")
        assert says in printed, command
        assert "image.size: 32 -> 48" in printed
    # The launch's own name asks for nothing else.
    assert "other settings" not in hpt("status", "tiny", "--store", str(own[1]), store="none")
    recipe.write_text(written + "# A remark.\n")
    assert "other settings" not in hpt("status", str(recipe), store="none")


def test_a_folder_that_holds_another_trial_is_not_mixed_with_this_one(own, tmp_path):
    recipe, _ = own
    for _twice in range(2):
        hpt("pull", f"{recipe}/base", str(tmp_path / "out"), store="none")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    printed = hpt("pull", f"{recipe}/hpt", str(tmp_path / "out"), store="none", code=REFUSED)
    assert "it holds base of key" in printed
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
