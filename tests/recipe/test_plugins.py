"""Methods and backbones of other distributions: found by metadata, and part of a key."""

import subprocess
import sys

import pytest
from plugin import install
from small import hpt, write_recipe

from hpt_dist.errors import HptError, RecipeError, RequestError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan, plugins
from hpt_dist.recipe.differences import difference
from hpt_dist.recipe.facts import DatasetFacts, Facts

OURS = """\
name: planned
store: ${HPT_STORE}
datasets: {line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [line/train]
    batch: 8
    moco: {queue: 16}
"""
THEIRS = OURS.replace("moco: {queue: 16}", "method: cool\n    method_settings: {heat: 0.5}")
METHODS = {"cool": "explosive:Cool"}
BACKBONES = {"tiny": "explosive:tiny"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, with one whose import fails."""
    folder = tmp_path / "site"
    install(folder, "cool-methods", "1.2.3", methods=METHODS, backbones=BACKBONES)
    (folder / "explosive.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("HPT_STORE", "./none")
    return folder


def planned(text):
    counts = {"train": [30] * 3, "val": [10] * 3, "test": [10] * 3}
    images = {split: sum(count) for split, count in counts.items()}
    facts = Facts({"line": DatasetFacts("line", "", "d", 3, images, counts)}, {"random": "random"})
    trials = plan.make(recipe_file.parse(text, "r.yaml"), facts)
    return {trial.name: trial for trial in trials}


def problem(text):
    with pytest.raises(RecipeError) as refused:
        recipe_file.parse(text, "r.yaml")
    (found,) = refused.value.problems
    return str(found)


def test_a_plan_imports_nothing_and_names_the_origin_in_the_document(site):
    document = planned(THEIRS)["hpt"].document
    assert document["plugins"] == {"method": {"distribution": "cool-methods", "version": "1.2.3"}}
    assert document["spec"]["method_settings"] == {"heat": 0.5}
    assert "plugins" not in planned(THEIRS)["base"].document
    both = planned(THEIRS.replace("timm/test_efficientnet", "tiny"))
    assert set(both["hpt"].document["plugins"]) == {"method", "backbone"}
    assert set(both["base"].document["plugins"]) == {"backbone"}
    assert "explosive" not in sys.modules


def test_another_version_is_another_trial(site):
    before = planned(THEIRS)
    install(site, "cool-methods", "1.2.4", methods=METHODS, backbones=BACKBONES)
    after = planned(THEIRS)
    assert before["hpt"].key != after["hpt"].key
    assert before["base"].key == after["base"].key
    assert difference(before["hpt"].document, after["hpt"].document) == [
        "plugins.method.version: 1.2.3 -> 1.2.4"
    ]


def test_a_recipe_that_uses_none_has_the_document_that_it_had(site):
    trial = planned(OURS)["hpt"]
    assert "plugins" not in trial.document
    assert "method_settings" not in trial.document["spec"]


def test_settings_are_swept_over_and_count(site):
    text = THEIRS.replace("method_settings: {heat: 0.5}", "sweep: {method_settings.heat: [1, 2]}")
    hot, hotter = (
        planned(text)[f"hpt/method_settings.heat={heat}"].document["spec"] for heat in (1, 2)
    )
    assert hot["method_settings"] == {"heat": 1}
    assert hotter["method_settings"] == {"heat": 2}
    both = THEIRS.replace("method: cool", "sweep: {method: [cool, moco_v2]}").replace(
        "method_settings: {heat: 0.5}", "moco: {queue: 65536}"
    )
    origins = {name: trial.document.get("plugins") for name, trial in planned(both).items()}
    assert origins["hpt/method=cool"]
    assert origins["hpt/method=moco_v2"] is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("method: cool", "method: cold"),
            [
                "r.yaml:13 stages.hpt.method: there is no method cold",
                "moco_v2, byol, simclr, cool",
                "did you mean cool?",
            ],
        ),
        (("method: cool", "sweep: {method: [cool, zzz]}"), ["r.yaml:13", "no method zzz"]),
        (("method: cool", "method: 5"), ["r.yaml:13", "valid string"]),
        (("method: cool", "method: byol"), ["method_settings is not of byol", "are byol"]),
        (("method: cool", "moco: {queue: 16}\n    method: cool"), ["moco is of method moco_v2"]),
        (("heat: 0.5", "seed: 1"), ["seed is a setting of the stage"]),
        (("heat: 0.5", "heat: .nan"), [".heat: ", ".nan is no finite number"]),
        (("timm/test_efficientnet", "plugin/tinny"), ["r.yaml:4 backbone", "did you mean tiny?"]),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(site, change, says):
    found = problem(THEIRS.replace(*change))
    assert all(words in found for words in says), found


def test_names_that_several_offer_are_refused_with_all_of_them(site):
    install(site, "other-methods", "2.0", methods={"cool": "other:Cool", "byol": "other:Byol"})
    found = problem(THEIRS)
    assert "r.yaml:13 stages.hpt.method: the method cool is offered by" in found
    assert "cool-methods 1.2.3" in found
    assert "other-methods 2.0" in found
    ours = problem(OURS.replace("moco: {queue: 16}", "method: byol"))
    assert "offered by hpt-dist and by other-methods 2.0" in ours
    install(site, "other-methods", "2.1", backbones={"tiny": "other:tiny"})
    assert "r.yaml:4 backbone: " in problem(OURS.replace("timm/test_efficientnet", "tiny"))
    planned(OURS)  # which names neither


def test_a_library_keeps_what_is_named_as_its_own(site):
    install(site, "other", "1", backbones={"test_efficientnet": "x:x", "timm/resnet18": "x:x"})
    assert "plugins" not in planned(OURS)["hpt"].document
    assert plugins.find("backbone", "timm/resnet18") is None


def test_a_process_that_has_anything_else_refuses(site):
    text = THEIRS.replace("timm/test_efficientnet", "tiny")
    document = planned(text)["hpt"].document
    plugins.check(document)
    without = planned(OURS.replace("timm/test_efficientnet", "resnet18"))["hpt"].document
    plugins.check(without)
    install(site, "cool-methods", "1.3", methods=METHODS, backbones={"resnet18": "explosive:tiny"})
    with pytest.raises(
        HptError, match=r"cool was planned with cool-methods 1\.2\.3, and here cool"
    ):
        plugins.check(document)
    with pytest.raises(HptError, match=r"no other package, and here cool-methods 1\.3 offers it"):
        plugins.check(without)
    install(site, "cool-methods", "1.2.3", methods=METHODS)
    with pytest.raises(HptError, match=r"tiny was planned .* and here no installed package"):
        plugins.check(document)


def test_an_import_that_fails_says_whose_it_is(site):
    with pytest.raises(HptError) as failed:
        plugins.make("method", "cool")
    first, *rest = str(failed.value).splitlines()
    assert first == (
        "explosive:Cool: the method cool of cool-methods 1.2.3 failed: RuntimeError: imported"
    )
    assert any("explosive.py" in line for line in rest)
    with pytest.raises(RequestError, match="no installed package offers the backbone resnet18"):
        plugins.make("backbone", "resnet18")


def test_plan_says_where_they_come_from(site, drawings, tmp_path):
    path = write_recipe(tmp_path, THEIRS.replace("timm/test_efficientnet", "tiny"))
    printed = hpt("plan", str(path), store=str(drawings))
    assert "method cool: from cool-methods 1.2.3" in printed
    assert printed.count("backbone tiny: from cool-methods 1.2.3") == 1
    assert '"distribution": "cool-methods"' in hpt("plan", str(path), "--json", store=str(drawings))


def test_planning_loads_no_torch(site, tmp_path):
    path = write_recipe(tmp_path, THEIRS)
    code = (
        "import sys; from hpt_dist.recipe import file; "
        f"sys.path.insert(0, {str(site)!r}); file.load({str(path)!r}); "
        "assert not {'torch', 'explosive'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
