import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.differences import difference
from hpt_dist.recipe.facts import DatasetFacts, Facts

ROOT = Path(__file__).parents[2]

RECIPE = """\
name: small
datasets: {color: openmoji/color, line: openmoji/line}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [color/train]
    batch: 16
    moco: {queue: 64}
  adapt:
    kind: mme
    source: color/train
    target: line
    sweep: {init: [base, hpt], shots: [1, 3], seed: [0, 1]}
"""


def dataset(name, digest="d", images=100, classes=4):
    counts = {"train": images, "val": 20, "test": 40}
    per_class = {s: [n // classes] * classes for s, n in counts.items()}
    return DatasetFacts(name, "", digest, classes, counts, per_class)


def facts(**changed):
    return Facts(
        {"color": dataset("openmoji/color", "c"), "line": dataset("openmoji/line", "l")} | changed,
        {"random": "random"},
    )


def make(text=RECIPE, known=None):
    return plan.make(recipe_file.parse(text, environment={}), known or facts())


def by_name(trials):
    return {trial.name: trial for trial in trials}


def test_every_point_is_a_trial_after_its_parent():
    trials = make()
    assert len(trials) == 2 + 8
    done = set()
    for trial in trials:
        assert not trial.init or trial.init in done
        done.add(trial.key)
    assert len(done) == len(trials)
    named = by_name(trials)
    assert named["adapt/init=hpt,shots=3,seed=1"].init == named["hpt"].key
    assert named["adapt/init=base,shots=3,seed=1"].init == named["base"].key


def test_planning_twice_is_planning_once():
    assert [t.key for t in make()] == [t.key for t in make()]


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        (("batch: 16", "batch: 32"), {"hpt", "adapt/init=hpt"}),
        (("queue: 64", "queue: 64, temperature: 0.1"), {"hpt", "adapt/init=hpt"}),
        (("weights: random", "weights: random, seed: 1"), {"base", "hpt", "adapt"}),
        (("target: line", "target: line\n    steps: 7"), {"adapt"}),
        (("backbone: resnet18", "backbone: resnet34"), {"base", "hpt", "adapt"}),
        (("name: small", "name: other"), set()),
        (("batch: 16", "batch: 16\n    checkpoint_every: 3"), set()),
        (("batch: 16", "batch: 16\n    max_bad: 0"), set()),
        (("batch: 16", "batch: 16\n    max_bad: 2"), {"hpt", "adapt/init=hpt"}),
    ],
)
def test_a_change_gives_new_keys_to_what_depends_on_it_and_to_nothing_else(change, affected):
    before, after = by_name(make()), by_name(make(RECIPE.replace(*change)))
    for name in before:
        touched = any(name.startswith(prefix) for prefix in affected)
        assert (before[name].key != after[name].key) == touched, name


def test_a_changed_dataset_or_file_of_weights_gives_new_keys():
    before = by_name(make())
    after = by_name(make(known=facts(line=dataset("openmoji/line", "changed"))))
    assert {n for n in before if before[n].key != after[n].key} == {
        n for n in before if n.startswith("adapt")
    }
    moved = Facts(facts().datasets, {"random": "other bytes"})
    assert all(before[n].key != t.key for n, t in by_name(make(known=moved)).items())


def test_keys_do_not_depend_on_the_order_of_settings():
    swapped = RECIPE.replace(
        "    batch: 16\n    moco: {queue: 64}\n", "    moco: {queue: 64}\n    batch: 16\n"
    )
    assert swapped != RECIPE
    assert {t.key for t in make()} == {t.key for t in make(swapped)}


def test_two_names_for_one_trial_are_refused():
    with pytest.raises(RecipeError, match="are the same trial"):
        make(RECIPE.replace("batch: 16", "batch: 16\n    sweep: {checkpoint_every: [1, 2]}"))


def test_an_axis_of_the_parent_becomes_one_of_the_child():
    text = RECIPE.replace(
        "    moco: {queue: 64}", "    moco: {queue: 64}\n    sweep: {steps: [5, 6]}"
    )
    names = [t.name for t in make(text) if t.stage == "adapt"]
    assert "adapt/init=hpt,shots=1,seed=0,hpt.steps=5" in names
    assert "adapt/init=base,shots=1,seed=0" in names
    assert len(names) == 4 + 8


def test_equal_seeds_pair_parents_with_children():
    text = RECIPE.replace(
        "    moco: {queue: 64}", "    moco: {queue: 64}\n    sweep: {seed: [0, 1]}"
    )
    named = by_name(make(text))
    assert named["adapt/init=hpt,shots=1,seed=1"].init == named["hpt/seed=1"].key
    assert len(named) == 3 + 8
    with pytest.raises(RecipeError, match="hpt has no trial with seed 1"):
        make(text.replace("sweep: {seed: [0, 1]}", "sweep: {seed: [0]}"))


@pytest.mark.parametrize(
    ("known", "printed"),
    [
        (facts(line=dataset("openmoji/line", images=8)), "1 to 2"),
        (facts(line=dataset("openmoji/line", images=12)), "none is left unlabelled"),
        (facts(line=dataset("openmoji/line", classes=5)), "share their classes"),
        (facts(color=dataset("openmoji/color", images=9)), "a batch of 16 from 9 images"),
        (
            facts(line=DatasetFacts("line", "", "d", 4, {"train": 100, "val": 9}, {})),
            "no split test",
        ),
        (
            facts(line=DatasetFacts("l", "", "d", 0, {"train": 9, "val": 9, "test": 9}, {})),
            "images without a label",
        ),
        (
            facts(line=replace(dataset("openmoji/line"), label="multi")),
            "openmoji/line has several labels an image; mme needs one",
        ),
        (
            Facts(
                {
                    name: replace(dataset(name), class_names=tuple(name[:4]))
                    for name in ("color", "line")
                },
                {"random": "random"},
            ),
            "share their classes",
        ),
    ],
)
def test_what_cannot_be_fed_is_refused(known, printed):
    with pytest.raises(RecipeError) as caught:
        make(known=known)
    assert printed in str(caught.value)
    assert "recipe.yaml:" in str(caught.value)


def test_a_difference_names_what_changed():
    before, after = (
        by_name(make())["hpt"],
        by_name(make(RECIPE.replace("batch: 16", "batch: 32")))["hpt"],
    )
    assert difference(before.document, after.document) == ["spec.batch: 16 -> 32"]
    assert difference(before.document, before.document) == []


def test_planning_imports_neither_torch_nor_mlflow_nor_boto3():
    code = (
        "import sys, hpt_dist.cli.main, hpt_dist.launch.survey\n"
        "heavy = {'torch', 'torchvision', 'timm', 'mlflow', 'boto3', 'submitit', 'matplotlib',"
        " 'accelerate', 'webdataset'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["sketch", "clip"])
def test_the_papers_recipes_plan_at_full_scale_on_stand_ins(target, tmp_path):
    from hpt_dist.launch import lookup
    from hpt_dist.store import open_store

    recipe = recipe_file.load(ROOT / f"recipes/real_to_{target}.yaml", environment={})
    known = lookup.facts(
        recipe, open_store(str(tmp_path)), ROOT / "recipes/stand_ins/domainnet.yaml"
    )
    trials = plan.make(recipe, known)
    adapt = [trial for trial in trials if trial.stage == "adapt"]
    assert {trial.axes["labels"] for trial in adapt} == {345, 3795, 5470, 7883, 11362, 16376, 23603}
    assert len(adapt) == 2 * 7 * 3
    assert known.datasets["real"].classes == 345
    assert all(dataset.stand_in for dataset in known.datasets.values())


def test_a_dataset_may_lie_in_another_store(tmp_path):
    from hpt_dist.errors import RequestError
    from hpt_dist.launch.lookup import dataset_store

    assert dataset_store("openmoji/line") == ("", "openmoji/line")
    assert dataset_store("s3://b/x/datasets/a/b") == ("s3://b/x", "a/b")
    assert dataset_store(f"{tmp_path}/datasets/a") == (str(tmp_path), "a")
    with pytest.raises(RequestError, match="is no dataset"):
        dataset_store("s3://b/x/a")
