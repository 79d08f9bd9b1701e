"""Every verb of the command line alike: help, examples, plain words for values, --json, --store."""

import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from hpt_dist.cli.main import app

GROUP = typer.main.get_command(app)


def verbs(group=GROUP, words=()):
    """Yield (words, command) of each verb, those in groups too."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from verbs(command, (*words, name))
        else:
            yield (*words, name), command


VERBS = dict(verbs())
ALL = pytest.mark.parametrize("words", VERBS, ids=" ".join)
# A server that runs until it is ended, and what prints JSON anyway.
WITHOUT_JSON = {("ui",), ("schema",)}
# A destination, or no store at all.
WITHOUT_STORE = {("shard",), ("schema",)}


def help_of(*words):
    done = CliRunner().invoke(app, [*words, "-h"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0, done.output
    return done.output


def options(words):
    return {option for one in VERBS[words].params for option in one.opts}


@ALL
def test_h_is_help_with_an_example_and_plain_values(words):
    printed = help_of(*words)
    assert printed == CliRunner().invoke(app, [*words, "--help"]).output
    assert re.search(rf"Examples?:\n +hpt-dist {' '.join(words)}\b", printed), printed
    usage = printed.partition("\n\n")[0]
    assert not re.search(r"[<{]|\[\[|\.\.\.\]?\.\.\.", usage), usage
    names = re.findall(r"^  (-.*?|[A-Z]\S*)(?:  |$)", printed, re.MULTILINE)
    assert names
    assert not [name for name in names if re.search(r"[<>{}|\[\]]|PATH$|TEXT", name)], names


@ALL
def test_what_shows_something_has_json_and_what_reads_a_store_has_store(words):
    assert ("--json" in options(words)) == (words not in WITHOUT_JSON)
    assert ("--store" in options(words)) == (words not in WITHOUT_STORE)


@pytest.mark.parametrize("words", [(), ("data",)], ids=["all", "data"])
def test_the_list_of_verbs_is_whole_and_says_what_their_own_help_says(words):
    printed = re.sub(r"\s+", " ", help_of(*words).partition("Commands:")[2])
    listed = [verb for verb in VERBS if verb[:-1] == words]
    assert listed
    for verb in listed:
        first = re.split(r"(?<=\.)\s", VERBS[verb].help, maxsplit=1)[0]
        assert f" {verb[-1]} {first}" in printed
    assert not re.search(r"\.\.\.", printed)


def completed(words, **variables):
    """Return what bash would offer for the last word, and the modules that this has imported."""
    code = (
        "import sys; sys.argv[0] = 'hpt-dist'\n"
        "from hpt_dist.cli.main import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    settings = {
        "_HPT_DIST_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split(), set(done.stderr.split())


def test_completion_offers_verbs_options_runs_and_recipes_without_torch(tiny, tmp_path):
    store, _ = tiny
    (tmp_path / "mine.yaml").touch()
    where = {"HPT_STORE": str(store)}
    offered, imported = completed(["hpt-dist", "l"])
    assert offered == ["launch", "logs"]
    assert not imported & {"torch", "numpy", "hpt_dist.launch.survey"}
    assert "--json" in completed(["hpt-dist", "status", "--j"])[0]
    offered, imported = completed(["hpt-dist", "status", "t"], **where)
    assert offered[0] == "tiny"
    assert re.fullmatch(r"tiny-\d{8}-\d{6}-\w{4}", offered[1])
    assert not imported & {"torch", "mlflow", "boto3"}
    assert completed(["hpt-dist", "plan", "quick"])[0] == ["quickstart"]
    assert completed(["hpt-dist", "plan", f"{tmp_path}/m"])[0] == [f"{tmp_path}/mine.yaml"]


def test_completion_can_be_installed(tmp_path):
    env = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            [sys.executable, "-m", "hpt_dist", option, "bash"],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert list(tmp_path.rglob("*.sh"))
