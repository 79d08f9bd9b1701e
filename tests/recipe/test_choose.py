"""What `choose` makes of a recipe: candidates, those that decide, and their keys."""

from __future__ import annotations

import pytest

from hpt_dist.errors import DataError, DivergedError, RecipeError
from hpt_dist.evals import choice
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import DatasetFacts, Facts

COUNTS = {"train": 100, "val": 20, "test": 40}
CLASSES = {split: [images // 4] * 4 for split, images in COUNTS.items()}
LINE = DatasetFacts("line", "", "l", 4, {**COUNTS, "test@50%": 20}, CLASSES)
FACTS = Facts({"line": LINE, "color": LINE}, {"random": "random", "other": "other"})
HEAD = """\
name: choosing
datasets: {line: line}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  other: {kind: import, weights: other}
"""


def made(*stages, head=HEAD):
    text = head + "".join(f"  {stage}\n" for stage in stages)
    return {one.name: one for one in plan.make(recipe_file.parse(text), FACTS)}


def linear(more, init="init: base, "):
    return f"probe: {{kind: linear, {init}data: line{more}}}"


def test_each_point_of_the_sweep_waits_for_its_own_candidates():
    trials = made(
        linear(
            ", choose: {weight_decay: [0.5, 0], steps: [9, 8]},"
            " sweep: {init: [base, other], seed: [1, 2]}",
            init="",
        )
    )
    assert len(trials) == 2 + 4 * (1 + 4)
    order = list(trials)
    for name in order:
        if not name.startswith("probe/"):
            continue
        deciding = trials[name]
        assert deciding.choices == (
            *("weight_decay=0.5,steps=9", "weight_decay=0.5,steps=8"),
            *("weight_decay=0,steps=9", "weight_decay=0,steps=8"),
        )
        assert deciding.needs == (deciding.init, *(one.key for one in deciding.candidates))
        assert all(order.index(one.name) < order.index(name) for one in deciding.candidates)
        for one in deciding.candidates:
            assert one.name.startswith("probe.candidates/")
            assert (one.axes["seed"], one.init) == (deciding.axes["seed"], deciding.init)


def test_a_key_depends_on_every_candidate_and_a_recipe_without_choose_keeps_its_own():
    before = made(linear(", weight_decay: 0.5"))
    ours = made(linear(", choose: {weight_decay: [0.5, 0]}"))
    more = made(linear(", choose: {weight_decay: [0.5, 0, 1]}"))
    tried = "probe.candidates/weight_decay=0.5"
    assert ours[tried].key == more[tried].key != before["probe"].key  # that one reads test
    assert len({before["probe"].key, ours["probe"].key, more["probe"].key}) == 3
    assert "role" not in before["probe"].document
    assert "weight_decay" not in ours["probe"].document["spec"]


@pytest.mark.parametrize(
    ("stage", "printed"),
    [
        (linear(", choose: {seed: [0, 1]}"), "seed is not for validation to choose"),
        (linear(", choose: {init: [base, other]}", ""), "init is not for validation to choose"),
        (linear(", choose: {stepz: [1]}"), "cannot choose over stepz"),
        (linear(", choose: {steps: 5}"), "a list of values"),
        (linear(", choose: [steps]"), "choose is a mapping"),
        (linear(", steps: 3, choose: {steps: [5]}"), "stands in the stage and in its choose"),
        (linear(", sweep: {steps: [3]}, choose: {steps: [5]}"), "and in its choose"),
        (linear(", choose: {steps: [0]}"), "greater than 0"),
        (linear(", choose: {preset: [paper, paper]}"), "a value stands twice"),
        (
            "hpt: {kind: pretrain, init: base, data: [line/train], choose: {batch: [8, 16]}}",
            "no result on val for choose to go by",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_words(stage, printed):
    with pytest.raises(RecipeError) as caught:
        made(stage)
    [problem] = caught.value.problems
    assert printed in problem.what
    assert problem.where.startswith("recipe.yaml:7 stages.")


def test_a_stage_cannot_have_the_name_of_candidates():
    with pytest.raises(RecipeError, match="what probe chooses from"):
        made(linear(", choose: {steps: [1, 2]}"), linear("").replace("probe", "probe.candidates"))


def test_stages_share_the_candidates_that_both_have():
    other = linear(", choose: {weight_decay: [0, 1]}").replace("probe", "again")
    trials = made(linear(", choose: {weight_decay: [0.5, 0]}"), other)
    tried = [name for name in trials if ".candidates/" in name]
    values = ("probe.candidates/weight_decay=0.5", "probe.candidates/weight_decay=0")
    assert tried == [*values, "again.candidates/weight_decay=1"]
    assert trials["again"].needs[1] == trials[values[1]].key
    assert trials["again"].choices == ("weight_decay=0", "weight_decay=1")


@pytest.mark.parametrize(
    ("source", "is_fine"), [("color/test", True), ("line/test", False), ("line/test@50%", False)]
)
def test_a_candidate_is_not_told_to_learn_from_its_test(source, is_fine):
    stage = f"adapt: {{kind: mme, init: base, source: {source}, target: line, shots: 1, "
    stage += "choose: {optimizer.lr: [0.1, 0.01]}}"
    head = HEAD.replace("{line: line}", "{line: line, color: line}")
    if is_fine:
        assert made(stage, head=head)["adapt"].spec.kept_back() == {"line/test"}
        return
    with pytest.raises(RecipeError, match=f"{source} is what the chosen is judged by"):
        made(stage, head=head)


def test_candidates_count_among_a_recipes_trials():
    many = f"[{', '.join(str(n) for n in range(1, 4000))}]"
    swept = linear(f", choose: {{steps: {many}}}, sweep: {{seed: [1, 2, 3]}}")
    with pytest.raises(RecipeError, match="11,999"):
        made(swept)


def result(value, **more):
    return {"metrics": {"val/top1": value, **more}, "details": {"n_val": 100}}


def test_the_best_on_val_is_chosen_and_of_equals_the_first():
    found = choice.choose("abc", [result(0.5), result(0.7), result(0.7)])
    assert (found.chosen, found.index) == ("b", 1)
    assert found.margin.startswith("no evidence")
    assert choice.choose("a", [result(0.5)]).margin == ""
    losses = [{"metrics": {"val/loss": value}, "details": {}} for value in (2.0, 1.0)]
    assert choice.choose("ab", losses).chosen == "b"


def test_one_that_diverged_is_out():
    out = {"metrics": {}, "details": {"out": "the loss is not finite at step 2"}}
    found = choice.choose("abc", [out, result(0.1), result(0.2)])
    assert (found.chosen, found.index) == ("c", 2)
    assert found.diverged == {"a": "the loss is not finite at step 2"}
    with pytest.raises(DivergedError, match="every candidate diverged"):
        choice.choose("ab", [out, out])


def test_a_candidate_that_has_read_test_is_refused():
    with pytest.raises(DataError, match="b has read test: test/top1"):
        choice.choose("ab", [result(0.5), result(0.4, **{"test/top1": 0.9})])


SELECT = "search: {kind: select, data: line, candidates: [base, hpt]"
HPT = "hpt: {kind: pretrain, init: base, data: [line/train], batch: 10, moco: {queue: 50}"


def test_a_search_tries_every_trial_of_its_candidates_and_its_winner_is_started_from():
    swept = HPT + ", sweep: {seed: [0, 1]}}"
    trials = made(swept, SELECT + "}", linear("", init="init: search, "))
    search = trials["search"]
    assert search.choices == ("init=base", "init=hpt,hpt.seed=0", "init=hpt,hpt.seed=1")
    assert search.needs == tuple(one.key for one in search.candidates)
    starts = [one.init for one in search.candidates]
    assert starts == [trials[name].key for name in ("base", "hpt/seed=0", "hpt/seed=1")]
    assert all(one.spec.kind == "linear" and one.is_candidate for one in search.candidates)
    assert trials["probe"].init == search.key
    paired = made(swept, SELECT + ", sweep: {seed: [1]}}")["search/seed=1"]
    assert paired.choices == ("init=base", "init=hpt,hpt.seed=1") or len(paired.choices) == 2


def test_the_key_of_a_search_depends_on_its_candidates_and_on_no_name():
    key = made(HPT + "}", SELECT + "}")["search"].key
    renamed = made(HPT.replace("hpt:", "longer:") + "}", SELECT.replace("hpt]", "longer]") + "}")
    assert renamed["search"].key == key
    assert made(HPT + ", steps: 7}", SELECT + "}")["search"].key != key
    assert made(HPT + "}", SELECT + ", steps: 7}")["search"].key != key


@pytest.mark.parametrize(
    ("stage", "printed"),
    [
        (SELECT.replace("hpt", "hpd") + "}", "no stage hpd"),
        (SELECT.replace("hpt", "search") + "}", "starts, in the end, from itself"),
        (SELECT.replace("base, hpt", "") + "}", "at least 1"),
        (SELECT.replace("hpt", "base") + "}", "are the same trial"),
        (SELECT + ", choose: {steps: [1]}}", "no result on val"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_in_words(stage, printed):
    with pytest.raises(RecipeError, match=printed):
        made(HPT + "}", stage)
