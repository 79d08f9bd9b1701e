"""What a report will not be able to answer is printed with the plan."""

import pytest

from hpt_dist.recipe.figures import Table
from hpt_dist.report.foreseen import doubts


def trials(inits=("base", "hpt"), seeds=(0, 1, 2), more=""):
    names = ["base", "hpt", *(f"t/init={i},seed={s}{more}" for i in inits for s in seeds)]
    return {name: f"{number:064}" for number, name in enumerate(names)}


def doubted(names, judges=False, **report):
    return doubts(Table(**{"table": "t", "rows": "init", **report}), names, {"t"} if judges else ())


def test_a_sound_report_is_not_doubted():
    assert doubted(trials()) == []
    assert doubted(trials(), columns="seed") == []
    assert doubted(trials(seeds=(0,)), judges=True) == []  # judged by images
    assert doubted(trials(more=",hpt.seed=1"), judges=True) == []


@pytest.mark.parametrize(
    ("names", "report", "setting", "says"),
    [
        (trials(), {"columns": "init"}, "columns", "leave columns out"),
        (trials(("imagenet", "hpt")), {}, "baseline", "the rows will be imagenet, hpt"),
        (trials(), {"baseline": "bass"}, "baseline", "no row bass to compare with"),
        (trials(), {"rows": "seed"}, "baseline", "no row base to compare with"),
        (trials(("base",)), {}, "rows", "base will be the only row"),
        (trials(seeds=(0,)), {}, "table", "one seed of base, hpt, so there will be no verdict"),
    ],
)
def test_a_table_without_a_verdict_is_foreseen(names, report, setting, says):
    [(found, what)] = doubted(names, **report)
    assert found == setting
    assert says in what


@pytest.mark.parametrize(
    ("settings", "setting", "says"),
    [
        ({"claims": ("hpt2 helped",)}, "claims", "names the row hpt2, and the rows will be base"),
        ({"claims": ("hpt helped on 2 of 3",)}, "claims", "of 3 places, and there will be 1"),
        ({"claims": ("hpt within 1 of paper",)}, "claims", "add paper or compare"),
        ({"paper": {"hpt2": 5.0}}, "paper", "values of the row hpt2"),
    ],
)
def test_claims_and_papers_of_what_will_not_be_there_are_foreseen(settings, setting, says):
    [(found, what)] = doubted(trials(), **settings)
    assert found == setting
    assert says in what


def test_an_inherited_axis_and_panels_are_foreseen_as_they_will_be():
    names = dict.fromkeys(("base", "hpt/steps=5", "hpt/steps=9"), "0" * 64)
    for data in "ab":
        names[f"t/init=base,data={data}"] = "0" * 64
        for steps in (5, 9):
            names[f"t/init=hpt,data={data},hpt.steps={steps}"] = "0" * 64
    settings = {"columns": "steps", "panels": "data", "claims": ("hpt above base on 4 of 4",)}
    assert doubted(names, judges=True, **settings) == []
    settings["claims"] = ("hpt above base on 4 of 5",)
    [(_, what)] = doubted(names, judges=True, **settings)
    assert "there will be 4" in what
