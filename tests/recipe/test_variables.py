"""Variables say where things are; they change no key, and no message shows what they hold."""

import pytest
from small import hpt

from hpt_dist.errors import HptError, RequestError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.variables import filled
from hpt_dist.slurm import profile

SECRET = "s3cr3t-value"
RECIPE = """\
name: small
store: ${HPT_STORE}
datasets: {a: a}
backbone: timm/resnet18
stages:
  base: {kind: import, weights: random}
  hpt: {kind: pretrain, init: base, data: [a/train], monitor: {data: a}}
  probe: {kind: knn, data: a, sweep: {init: [base, hpt]}}
report: {table: probe, rows: init, columns: init}
"""
KEYED = """\
name backbone image.size image.normalize stages.base.weights stages.base.kind stages.base.force
stages.hpt.init stages.hpt.data stages.hpt.steps stages.hpt.preset stages.hpt.monitor.data
stages.hpt.method stages.hpt.optimizer.lr stages.hpt.method_settings.x stages.hpt.seed
stages.probe.sweep.init stages.probe.k report.table report.compare report.metric
"""
LOCAL = """\
store datasets.a stages.hpt.resources.gpus stages.hpt.resources.memory_gb
stages.hpt.checkpoint_every
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


FORMS = ["${VAR}", "a-${VAR}", "'${VAR}'", "[a, '${VAR}']", "{a: '${VAR}'}"]


@pytest.mark.parametrize("key", KEYED.split())
def test_a_variable_sets_nothing_that_is_in_a_key_or_a_record(recipe, key):
    for form in FORMS:
        with pytest.raises(RequestError) as caught:
            recipe_file.load(recipe, [f"{key}={form}"], {"HPT_STORE": "./s", "VAR": SECRET})
        text = str(caught.value)
        assert f"--set {key}" in text
        assert "${VAR} cannot set this" in text
        assert SECRET not in text


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "MyApiKey"])
@pytest.mark.parametrize("key", ["image.size", "stages.probe.sweep.init", *LOCAL.split()])
def test_a_secret_is_put_nowhere(recipe, key, name):
    with pytest.raises(RequestError) as caught:
        recipe_file.load(recipe, [f"{key}=${{{name}}}"], {"HPT_STORE": "./s", name: SECRET})
    assert f"{name}}} is a secret by its name" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_variable_whose_key_stands_twice_is_refused_too():
    text = RECIPE + "image: {size: '${VAR}'}\nimage: 5\n"
    with pytest.raises(RequestError, match=r"stands twice[^$]*\n.* \${VAR} cannot set this"):
        recipe_file.parse(text.replace("${HPT_STORE}", "s"), "r.yaml", {"VAR": SECRET})


@pytest.mark.parametrize("key", LOCAL.split())
def test_where_a_variable_may_be_its_value_is_in_no_message(recipe, tmp_path, key):
    printed = hpt(
        "plan", str(recipe), "--set", f"{key}=${{VAR}}", store=str(tmp_path), code=2, VAR=SECRET
    )
    assert "problem" in printed
    assert SECRET not in printed


@pytest.mark.parametrize("value", ["s3://no.such.bucket!/x", "file://no-host/x", "~no-such-user/x"])
def test_a_store_from_a_variable_that_cannot_be_opened_is_named_by_it(recipe, tmp_path, value):
    command = ("plan", str(recipe), "--set", "store=${PLACE}")
    printed = hpt(*command, store=str(tmp_path), code=2, PLACE=value)
    assert "${PLACE}" in printed
    assert value not in printed
    assert "--set store: " in printed or "r.yaml:3 datasets.a: " in printed


@pytest.mark.parametrize(
    "line",
    [
        "partition: ${VAR} x",
        "nodes: ${VAR}",
        "python: ${VAR}",
        "container: {runtime: '${VAR}', image: /x}",
        "env: ['${VAR}!']",
        "precision: ${VAR}",
        "gpus_per_node: ${VAR}",
        "partition: ${MY_TOKEN}",
    ],
)
def test_a_profile_shows_no_values(tmp_path, line):
    path = tmp_path / "p.yaml"
    path.write_text(line)
    with pytest.raises(RequestError) as caught:
        profile.load(path, {"VAR": SECRET, "MY_TOKEN": SECRET})
    assert SECRET not in str(caught.value)
    assert "${" in str(caught.value)


def test_shell_keeps_its_own_forms(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("setup: ['export A=${A:+x}:${HOME}', 'echo ${B%%.*}']\npartition: ${P:-cpu}\n")
    loaded = profile.load(path, {"HOME": "/home/me"})
    assert loaded.setup == ("export A=${A:+x}:/home/me", "echo ${B%%.*}")
    assert loaded.partition == "cpu"


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${A:-${B}}", "${A:+b}", "${1}", "${ A }"])
def test_what_begins_no_variable_is_not_passed_on(text):
    with pytest.raises(HptError):
        filled(text, {"A": "a", "B": "b"})
