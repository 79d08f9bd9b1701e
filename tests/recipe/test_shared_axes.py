"""Groups and zipped settings: the trials of the recipe written out, counted before made."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan, sweeps
from hpt_dist.recipe.facts import DatasetFacts, Facts

NAMES = ("birds", "cars", "toys", "kids")
HEAD = """\
name: many
datasets: {birds: a/birds, cars: a/cars, toys: toys, kids: kids}
backbone: timm/resnet18
stages:
  base: {kind: import, weights: random}
"""
GROUPED = (
    HEAD
    + """\
  hpt: {kind: pretrain, init: base, data: [<dataset>/train, <dataset>/val], batch: 8, <Q>}
  probe: {kind: knn, data: <dataset>, sweep: {init: [base, hpt]}}
groups: {dataset: [birds, cars]}
report: {table: probe, rows: init, columns: dataset}
"""
).replace("<Q>", "moco: {queue: 64}")
CHAINS = (
    HEAD
    + """\
  source:
    kind: pretrain
    init: base
    data: [<chain.from>/train]
    steps: <chain.steps>
    batch: 8
    moco: {queue: 64}
  target: {kind: pretrain, init: source, data: [<chain.to>/train@<share>], batch: 8, <Q>}
  probe: {kind: knn, data: <chain.to>, sweep: {init: [base, source, target]}}
groups:
  chain:
    flying: {from: birds, to: kids, steps: 10}
    rolling: {from: cars, to: toys, steps: 20}
  share: [10%, 50%]
report: {table: probe, rows: init, columns: chain}
"""
).replace("<Q>", "moco: {queue: 64}")


def facts():
    counts = {"train": 100, "val": 20, "test": 40, "train@10%": 10, "train@50%": 50}
    per_class = {split: [n // 4] * 4 for split, n in counts.items()}
    datasets = {one: DatasetFacts(one, "", one, 4, counts, per_class) for one in NAMES}
    return Facts(datasets, {"random": "random"})


def made(text):
    return {t.name: t for t in plan.make(recipe_file.parse(text, environment={}), facts())}


def problems(text):
    with pytest.raises(RecipeError) as caught:
        recipe_file.parse(text, "r.yaml", {})
    return [str(problem) for problem in caught.value.problems]


def test_a_stage_that_names_a_group_runs_for_each_member_from_the_parent_of_that_member():
    trials = made(GROUPED)
    assert set(trials) == {
        "base",
        "hpt/dataset=birds",
        "hpt/dataset=cars",
        *(
            f"probe/dataset={one},init={init}"
            for one in ("birds", "cars")
            for init in ("base", "hpt")
        ),
    }
    for one in ("birds", "cars"):
        hpt = trials[f"hpt/dataset={one}"]
        probe = trials[f"probe/dataset={one},init=hpt"]
        assert hpt.spec.data == (f"{one}/train", f"{one}/val")
        assert probe.init == hpt.key
        assert probe.spec.data == one
        assert trials[f"probe/dataset={one},init=base"].init == trials["base"].key


def test_keys_are_those_of_the_recipes_written_out():
    grouped = {trial.key for trial in made(GROUPED).values()}
    single = set()
    for one in ("birds", "cars"):
        text = GROUPED.partition("groups:")[0].replace("<dataset>", one)
        single |= {trial.key for trial in made(text).values()}
    assert grouped == single


def test_settings_of_members_and_an_axis_that_is_inherited_keep_together():
    trials = made(CHAINS)
    assert len(trials) == 1 + 2 + 4 + (2 + 2 + 4)
    for chain, start, end, steps in (
        ("flying", "birds", "kids", 10),
        ("rolling", "cars", "toys", 20),
    ):
        source = trials[f"source/chain={chain}"]
        assert (source.spec.data, source.spec.steps) == ((f"{start}/train",), steps)
        for share in ("10%", "50%"):
            target = trials[f"target/chain={chain},share={share}"]
            assert target.init == source.key
            assert target.spec.data == (f"{end}/train@{share}",)
            probe = trials[f"probe/chain={chain},init=target,share={share}"]
            assert (probe.init, probe.spec.data) == (target.key, end)


def test_swept_values_may_name_a_group_and_are_shown_without_its_brackets():
    text = GROUPED.replace(
        "probe: {kind: knn, data: <dataset>, sweep: {init: [base, hpt]}}",
        "probe: {kind: knn, init: hpt, sweep: {data: [<dataset>, <dataset>/train@10%]}}",
    ).replace("rows: init", "rows: data")
    names = [name for name in made(text) if name.startswith("probe")]
    assert names == [
        f"probe/dataset={one},data=dataset{share}"
        for one in ("birds", "cars")
        for share in ("", "/train@10%")
    ]


def test_numbers_may_be_members():
    text = GROUPED.replace("batch: 8,", "batch: 8, optimizer: {lr: <lr>},", 1).replace(
        "groups: {", "groups: {lr: [0.1, 3e-2], "
    )
    rates = {
        trial.axes["lr"]: trial.spec.optimizer.lr
        for trial in made(text).values()
        if trial.stage == "hpt"
    }
    assert rates == {"0.1": 0.1, "0.03": 0.03}
    assert "report" in text
    made(text.replace("columns: dataset", "columns: lr"))


@pytest.mark.parametrize(
    ("change", "where", "printed"),
    [
        (("knn, data: <dataset>", "knn, data: <datasets>"), 7, "did you mean dataset?"),
        (("knn, data: <dataset>", "knn, data: <dataset.val>"), 7, "members of dataset have no val"),
        (("init: [base, hpt]", "init: [<dataset>, hpt]"), 7, "cannot say which init"),
        (("[birds, cars]", "[birds, bards]"), 6, "no dataset bards"),
        (("[birds, cars]", "[]"), 8, "1 to 1000 members"),
        (("[birds, cars]", "birds"), 8, "1 to 1000 members"),
        (("[birds, cars]", "[birds, birds]"), 8, "stands twice"),
        (("[birds, cars]", "[birds, [cars]]"), 8, "one value"),
        (("[birds, cars]", "{birds: {a: 1}, cars: {}}"), 8, "other settings than the first"),
        (("[birds, cars]", "{birds: {a: {b: 1}}}"), 8, "one value, or a list"),
        (("[birds, cars]", "{birds: 1}"), 8, "birds has no settings"),
        (("[birds, cars]", "['a b']"), 8, "cannot name a member"),
        (("{dataset: [birds", "{seed: [1], dataset: [birds"), 8, "cannot name a group"),
        (("groups: {dataset", "groups: {data: [birds], dataset"), 9, None),
        (("<dataset>, sweep", "<data>, sweep"), 7, "there is no group data"),
        (
            ("init: [base, hpt]", "init: [base, hpt], dataset: [birds]"),
            7,
            "is a group of this recipe",
        ),
        (("columns: dataset", "columns: datasets"), 9, "did you mean dataset?"),
    ],
)
def test_each_fault_is_named_at_its_line(change, where, printed):
    text = GROUPED.replace(*change)
    assert text != GROUPED
    if printed is None:  # a group that nothing names changes nothing
        assert len(made(text)) == len(made(GROUPED))
        return
    found = problems(text)
    assert any(one.startswith(f"r.yaml:{where} ") and printed in one for one in found), found


def test_a_group_with_the_name_of_a_setting_is_refused():
    text = (
        GROUPED.replace("dataset:", "k:")
        .replace("<dataset>", "<k>")
        .replace("columns: dataset", "columns: k")
    )
    assert any("k is a setting of knn, too" in one for one in problems(text))


def test_zipped_settings_change_together():
    text = HEAD + (
        "  hpt:\n    kind: pretrain\n    init: base\n    data: [birds/train]\n"
        "    moco: {queue: 64}\n    sweep:\n      seed: [0, 1]\n"
        "      zip: {batch: [8, 16, 32], optimizer.lr: [0.1, 0.1, 0.3]}\n"
    )
    points = {
        (t.axes["seed"], t.spec.batch, t.spec.optimizer.lr) for t in made(text).values() if t.init
    }
    pairs = [(8, 0.1), (16, 0.1), (32, 0.3)]
    assert points == {(seed, *pair) for seed in (0, 1) for pair in pairs}
    assert "hpt/seed=0,batch=8,optimizer.lr=0.1" in made(text)
    for change, printed in [
        (("[8, 16, 32]", "[8, 16]"), "as many values: 2 of batch, 3 of optimizer.lr"),
        (("0.1, 0.1, 0.3", "0.1, 0.2, 0.3"), None),
        (("[8, 16, 32]", "[8, 8, 32]"), "the same values stand twice"),
        (("seed: [0, 1]", "batch: [8]"), "batch stands in zip and beside it"),
        (("batch:", "batsch:"), "did you mean batch?"),
        (("{batch: [8, 16, 32], optimizer.lr", "{optimizer.lr"), "two settings or more"),
        (("[8, 16, 32]", "[8, 16, -1]"), "greater than or equal to 2"),
    ]:
        changed = text.replace(*change)
        assert changed != text
        if printed is None:
            made(changed)
        else:
            assert any(
                printed in one and one.startswith("r.yaml:1") for one in problems(changed)
            ), printed


def test_too_many_members_are_refused_before_they_are_made():
    many = f"[{', '.join(f'm{n}' for n in range(1000))}]"
    stage = "  hpt: {kind: pretrain, init: base, data: [<a>/train], seed: <b>, steps: <c>}\n"
    text = f"{HEAD}{stage}groups: {{a: {many}, b: {many}, c: {many}}}\n"
    began_s = time.process_time()
    found = problems(text)
    assert time.process_time() - began_s < 6
    assert any("1,000,000,001 trials" in one for one in found), found[:3]


SWEEPS = st.sampled_from(["", "seed: [1, 2, 3]", "steps: [5, 6]", "seed: [1, 2], steps: [5, 6]"])
SEEN = st.sampled_from(["birds/train", "<a>/train", "<b>/train@50%", "<a>/train@<c>"])


@given(st.lists(st.tuples(st.integers(0, 4), SWEEPS, SEEN), max_size=4))
def test_the_count_is_that_of_the_plan(drawn):
    names = ["base", *(f"s{n}" for n in range(len(drawn)))]
    text = HEAD + "".join(
        f"  {names[n + 1]}: {{kind: pretrain, init: {names[parent % (n + 1)]}, data: [{data}], "
        f"batch: {2 ** (n % 3 + 1)}, warmup_steps: {n // 3}, moco: {{queue: 64}}, "
        f"sweep: {{{sweep}}}}}\n"
        for n, (parent, sweep, data) in enumerate(drawn)
    )
    text += "groups: {a: [birds, cars], b: [toys, kids, cars], c: [10%, 50%]}\n"
    recipe = recipe_file.parse(text)
    try:
        count = len(plan.make(recipe, facts()))
    except RecipeError as error:  # seeds that a parent does not have
        assert "no trial with seed" in str(error)
        return
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "_fit", lambda _, __, counts: found.append(counts) or True)
        recipe_file.parse(text)
    assert sum(found[-1].values()) == count


def test_documents_hold_no_word_of_groups():
    for trial in made(CHAINS).values():
        assert "<" not in json.dumps(trial.document)
        assert "chain" not in json.dumps(trial.document)


def test_a_source_of_two_targets_is_one_trial_under_two_names():
    text = CHAINS.replace("{from: cars, to: toys, steps: 20}", "{from: birds, to: toys, steps: 10}")
    trials = made(text)
    one, other = (trials[f"source/chain={chain}"] for chain in ("flying", "rolling"))
    assert one.key == other.key
    assert trials["target/chain=rolling,share=10%"].init == one.key
    assert len(plan.unique(trials.values())) == len(trials) - 1
