"""Sweeps are counted before they are multiplied, and counted as the plan makes them."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan, sweeps
from hpt_dist.recipe.facts import DatasetFacts, Facts

HEAD = """\
name: many
datasets: {a: a}
backbone: timm/resnet18
stages:
  base: {kind: import, weights: random}
"""
FACTS = Facts({"a": DatasetFacts("a", "", "0", 0, {"train": 9000}, {})}, {"random": "random"})


def stage(name, parent, sweep="", batch=256):
    start = f"init: {parent}, " if parent else ""
    swept = f", sweep: {{{sweep}}}" if sweep else ""
    return f"  {name}: {{kind: pretrain, {start}data: [a/train], batch: {batch}{swept}}}\n"


def values(count):
    return f"[{', '.join(map(str, range(1, count + 1)))}]"


def chain(length, sweep):
    return HEAD + "".join(
        stage(f"s{n}", f"s{n - 1}" if n else "base", sweep) for n in range(length)
    )


@pytest.mark.parametrize(
    ("text", "line", "printed"),
    [
        (
            HEAD + stage("h", "base", f"steps: {values(1000)}, bn_group: {values(1000)}"),
            6,
            "1,000,001",
        ),
        (HEAD + stage("h", "base", ", ".join(f"k{n}: [1, 2]" for n in range(99))), 6, "10**12"),
        (chain(7, f"steps: {values(10)}"), 9, "11,111"),
        (chain(40, f"steps: {values(2)}"), 18, "16,383"),
        (chain(1000, ""), 105, "more than 100 stages start from each other"),
        (HEAD + "".join(stage(f"s{n}", f"s{(n + 1) % 1000}") for n in range(1000)), 6, "itself"),
        (
            HEAD
            + stage("h", "base", f"seed: {values(5000)}").replace(
                "data: [", f"data: [{'a/train, ' * 2000}"
            ),
            6,
            "repeated for 5,000 trials",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_too_many_trials_are_refused_before_they_are_made(text, line, printed):
    began_s = time.process_time()
    with pytest.raises(RecipeError) as caught:
        recipe_file.parse(text, "r.yaml")
    refused_s = time.process_time()
    yaml.compose(text, yaml.SafeLoader)
    # As long as it takes to read the text: it is long in some, and coverage slows ours alone.
    assert refused_s - began_s < 0.5 + 8 * (time.process_time() - refused_s)
    [problem] = caught.value.problems
    assert problem.where.startswith(f"r.yaml:{line} stages."), problem
    assert printed in problem.what


def test_stages_that_share_their_seeds_do_not_multiply():
    recipe = recipe_file.parse(chain(6, f"seed: {values(20)}"))
    assert len(plan.make(recipe, FACTS)) == 1 + 6 * 20


SWEEPS = st.sampled_from(["", "seed: [1, 2, 3]", "steps: [5, 6]", "seed: [1, 2], steps: [5, 6]"])


@given(st.lists(st.tuples(st.integers(0, 4), SWEEPS), max_size=4))
def test_the_count_is_that_of_the_plan(drawn):
    names = ["base", *(f"s{n}" for n in range(len(drawn)))]
    text = HEAD + "".join(
        stage(names[n + 1], names[parent % (n + 1)], sweep, batch=2 ** (n + 1))
        for n, (parent, sweep) in enumerate(drawn)
    )
    recipe = recipe_file.parse(text)
    try:
        made = len(plan.make(recipe, FACTS))
    except RecipeError as error:  # seeds that a parent does not have
        assert "no trial with seed" in str(error)
        return
    starts = {
        name: [((point.axes.get("seed"),), point.spec.parent) for point in points]
        for name, points in recipe.stages.items()
    }
    for most, is_fine in ((made, True), (made - 1, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweeps, "MOST_TRIALS", most)
            sweeps.check_trials(recipe.document, recipe.document.tree["stages"], starts)
        assert (recipe.document.problems == []) == is_fine
