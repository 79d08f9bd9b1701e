"""The recipes of the evidence plan without torch, and ask what the page says that they ask."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evidence import left, rows
from evidence.matrix import ARMS, EVALUATIONS, GATED, ROOT, TARGETS, Unit
from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.store import open_store

STAND_INS = ROOT / "recipes/stand_ins/evidence.yaml"


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")

    def of(file):
        recipe = recipe_file.load(file, environment={})
        known = lookup.facts(recipe, open_store(str(folder)), STAND_INS)
        return plan.make(recipe, known)

    return of


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_unit_has_every_arm_and_shares_only_what_has_no_seed(trials, target):
    every = trials(target.recipe)
    first, second = (left.of_unit(every, Unit(target, seed)) for seed in (0, 1))
    assert {t.name for t in first} & {t.name for t in second} == {"base"}
    judged = {(t.stage, str(t.axes["init"])) for t in first if t.stage in EVALUATIONS}
    of_pixels = {(e, a) for e, a in rows.planned(target) if a == "pixels"}
    assert judged | of_pixels == set(rows.planned(target))
    assert {arm for _, arm in rows.planned(target)} <= set(ARMS)
    keys = {t.key: t for t in first}
    for trial in first:
        assert all(key in keys for key in trial.needs)  # nothing of another seed
        if trial.stage in GATED:
            assert keys[trial.init].stage == GATED[trial.stage]
            assert (trial.spec.keep == "last") == (trial.stage != "averaged")
            assert trial.spec.monitor.every == trial.spec.steps  # a gate without a choice


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_recipe_opens_with_its_question_and_commands(target):
    comment = target.recipe.read_text().split("\nname:")[0]
    assert "?" in comment.splitlines()[0] + comment.splitlines()[1]
    assert f"hpt-dist launch evidence/{target.name}" in comment
    assert f"--only {target.name}" in comment
    assert "Images: " in comment


def test_variants_of_hpt_differ_from_it_in_one_setting(trials):
    for target in TARGETS:
        specs = {t.stage: t.spec for t in trials(target.recipe) if t.stage in GATED}
        for arm, setting in (("anchored", {"anchor"}), ("averaged", {"averages", "keep"})):
            hpt, other = (specs[name].model_dump() for name in ("hpt", arm))
            assert {name for name in hpt if hpt[name] != other[name]} - {"seed"} == setting


def test_no_test_image_is_trained_on_and_reserved_images_are_not_reported(trials):
    for target in TARGETS:
        for trial in trials(target.recipe):
            if trial.spec.kind in ("pretrain", "bn_refresh"):
                assert not any("/val" in one or "/test" in one for one in trial.spec.data)
        assert target.dataset not in ("openmoji/color", "openmoji/paint")


def test_planning_them_imports_no_torch():
    code = (
        "import sys\n"
        "from evidence import adapted, left, rows\n"
        "from evidence.matrix import ADAPTATIONS, TARGETS\n"
        "for target in TARGETS: rows.planned(target)\n"
        "for target in ADAPTATIONS: adapted.planned(target)\n"
        "sys.exit(', '.join({'torch', 'timm', 'torchvision'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_quickstart_is_a_part_of_it_but_for_one_label_a_class(trials):
    keys = {one.key for one in trials(ROOT / "recipes/evidence/line.yaml")}
    own = {one.name for one in trials(ROOT / "recipes/quickstart.yaml") if one.key not in keys}
    assert own == {f"few/init={i},shots=1,seed={s}" for i in ("base", "hpt") for s in range(3)}
