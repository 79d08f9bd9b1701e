"""What `choose` makes of a recipe: candidates, those that decide, and their keys."""

from __future__ import annotations

import pytest

from hpt_dist.errors import DataError, DivergedError, RecipeError
from hpt_dist.evals import choice
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import DatasetFacts, Facts

COUNTS = {"train": 100, "val": 20, "test": 40}
LINE = DatasetFacts("line", "", "l", 4, COUNTS, {s: [n // 4] * 4 for s, n in COUNTS.items()})
FACTS = Facts({"line": LINE}, {"random": "random", "other": "other"})
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
    with pytest.raises(DataError, match="b has read more than validation: test/top1"):
        choice.choose("ab", [result(0.5), result(0.4, **{"test/top1": 0.9})])
