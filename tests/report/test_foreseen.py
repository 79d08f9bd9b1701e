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
