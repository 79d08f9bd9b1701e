"""A curve of how alike compared trials are to a reference among them, along their own axes."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from reports import finished, launched

from hpt_dist.recipe.figures import BEST, Curve
from hpt_dist.report.foreseen import doubts
from hpt_dist.report.report import Report, build
from hpt_dist.trial.records import Launch

METRIC = "outputs/rv2"
NAMES = [
    f"features/data={data},seed={seed},{more}"
    for data in ("birds", "cars")
    for more in (
        "init=target,target.steps=50",
        "init=target,target.steps=500",
        "basis=moco,init=hpt,hpt.steps=5",
        "basis=moco,init=hpt,hpt.steps=50",
        "basis=sup,init=hpt,hpt.steps=5",
        "basis=sup,init=hpt,hpt.steps=50",
        "basis=sup,init=base",
    )
    for seed in (0, 1)
]
OF = {data: [name for name in NAMES if f"data={data}" in name] for data in ("birds", "cars")}
# On validation: of birds it is moco at 50 steps, of cars what is trained without a base. The best
# single trial of birds is another one.
ON_VAL = {
    name: 0.5
    + 0.2 * ("data=birds" in name and "basis=moco" in name and "hpt.steps=50" in name)
    + 0.3 * ("data=cars" in name and "target.steps=500" in name)
    + 0.35 * (name == "features/data=birds,seed=1,init=target,target.steps=50")
    for name in NAMES
}


def matrix_of(data: str) -> list[list[float]]:
    upper = np.random.default_rng(len(data)).uniform(0, 1, (len(OF[data]),) * 2)
    return np.where(np.eye(len(upper), dtype=bool), 1.0, (upper + upper.T) / 2).tolist()


def launch_of(**figure: object) -> Launch:
    stages = [f"alike/data={data}" for data in OF]
    launch = launched([*NAMES, *stages])
    settings = {
        f"alike/data={data}": {"compared": {name: launch.trials[name] for name in names}}
        for data, names in OF.items()
    }
    asked = {"curve": "alike", "metric": METRIC, "rows": "init", "columns": "steps"}
    report = asked | {"panels": "data", "reference": BEST} | figure
    return dataclasses.replace(launch, report=report, settings=settings)


def made(*, done: bool = True, **figure: object) -> Report:
    trials = [
        finished(name, {"val/top1": value, "test/top1": 1 - value}, kind="linear")
        for name, value in ON_VAL.items()
    ]
    for data, names in OF.items():
        details = {"trials": names, "n_test": 9, "matrices": {METRIC: matrix_of(data)}}
        one = finished(f"alike/data={data}", {}, kind="similarity", details=details, images=0)
        trials += [one] if done else []
    return build(launch_of(**figure), trials)


def cells(report: Report, at: int = 0) -> dict[tuple[str, str], tuple[float, ...]]:
    return {(c.row, c.column): c.values for c in report.figures[0].panels[at].table.cells}


def expected(data: str, fits: str, reference: str) -> list[float]:
    """The likeness of each pair of a trial and one of the reference, by hand."""
    names, matrix = OF[data], matrix_of(data)
    theirs = [at for at, name in enumerate(names) if name.endswith(reference)]
    pairs = {
        frozenset((at, other)): matrix[at][other]
        for at, name in enumerate(names)
        if name.endswith(fits)
        for other in theirs
        if other != at
    }
    return list(pairs.values())


def test_each_panel_has_its_own_best_on_validation() -> None:
    report = made()
    birds, cars = report.figures[0].panels
    assert birds.heading == (
        "birds: likeness to basis=moco, init=hpt, hpt.steps=50, the best on validation"
    )
    assert cars.heading.startswith("cars: likeness to init=target, target.steps=500, the best")
    moco = "basis=moco,init=hpt,hpt.steps=50"
    found = cells(report)
    sup = "basis=sup,init=hpt,hpt.steps=5"
    assert found["hpt (basis=sup)", "5"] == pytest.approx(expected("birds", sup, moco))
    assert found["target", "500"] == pytest.approx(expected("birds", "target.steps=500", moco))
    # The reference itself: its two trials make one pair.
    assert len(found["hpt (basis=moco)", "50"]) == 1
    assert found["hpt (basis=moco)", "50"] == pytest.approx(expected("birds", moco, moco))
    assert cells(report, 1)["target", "500"] == pytest.approx(
        expected("cars", "target.steps=500", "target.steps=500")
    )


def test_it_is_drawn_along_steps_without_verdicts() -> None:
    report = made()
    [figure] = report.figures
    assert figure.panels[0].table.columns == ("5", "50", "500")
    assert figure.panels[0].constant == ("base (basis=sup)",)
    assert not any(panel.differences or panel.trials for panel in figure.panels)
    assert not any("alike" in note for note in report.notes)
    drawing = ET.fromstring(report.drawings()["figure-1-1.svg"])
    texts = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert {"5", "50", "500", "steps", METRIC} <= set(texts)
    assert "likeness to basis=moco, init=hpt, hpt.steps=50" in report.markdown()


def test_a_reference_of_one_trial_has_no_mark() -> None:
    one = "features/data=birds,seed=0,init=target,target.steps=50"
    report = made(reference=one)
    found = cells(report)
    assert found["target", "50"] == pytest.approx(
        [matrix_of("birds")[OF["birds"].index(one)][OF["birds"].index(one) + 1]]
    )
    assert found["target", "500"] == pytest.approx(expected("birds", "target.steps=500", one))
    assert "no trial that is compared fits" in report.figures[0].panels[1].heading


def test_what_is_not_done_has_its_places_and_no_values() -> None:
    report = made(done=False)
    found = report.figures[0].panels[0].table.cells
    # Twelve trials with two of the reference, these two with each other, base in each column.
    assert sum(cell.planned for cell in found) == 12 * 2 + 1 + 2 * (2 * 2)
    assert all(cell.mean is None for cell in found)
    assert "nothing is done yet" in str(report.drawings()["figure-1-1.svg"])


def test_what_tells_comparisons_apart_is_never_averaged_over() -> None:
    names = ["a/seed=0,init=x", "a/seed=0,init=y", "b/seed=0,init=x", "b/seed=0,init=y"]
    alike = [f"alike/flattened={part}" for part in ("layer3", "layer4")]
    launch = launched([*names, *alike])
    report = {"curve": "alike", "metric": METRIC, "rows": "init", "columns": "seed"}
    settings = {one: {"compared": dict.fromkeys(names, "")} for one in alike}
    launch = dataclasses.replace(
        launch, report=report | {"reference": "a/*init=x"}, settings=settings
    )
    matrix = np.arange(16.0).reshape(4, 4).tolist()
    details = {"trials": names, "matrices": {METRIC: matrix}}
    done = [finished(one, {}, kind="similarity", details=details) for one in alike]
    [panel] = build(launch, done).figures[0].panels
    assert set(panel.table.rows) == {
        f"{init} (alike.flattened={part}, alike.of={stage})"
        for part in ("layer3", "layer4")
        for init, stage in (("y", "a"), ("x", "b"), ("y", "b"))
    }


def test_errors_of_two_that_make_none_have_no_place() -> None:
    names = ["a/init=x,n=1", "a/init=y,n=1", "a/init=y,n=2"]
    launch = launched([*names, "alike"])
    report = {"curve": "alike", "metric": "errors/iou", "rows": "init", "columns": "n"}
    settings = {"alike": {"compared": dict.fromkeys(names, "")}}
    report |= {"reference": "a/init=x*"}
    launch = dataclasses.replace(launch, report=report, settings=settings)
    matrix = [[1.0, None, 0.5], [None, None, None], [0.5, None, 1.0]]
    details = {"trials": names, "matrices": {"errors/iou": matrix}}
    [panel] = (
        build(launch, [finished("alike", {}, kind="similarity", details=details)]).figures[0].panels
    )
    assert [(cell.column, cell.values) for cell in panel.table.cells] == [("2", (0.5,))]


def test_without_validation_of_all_none_is_best() -> None:
    launch = launch_of()
    trials = [finished(name, {"test/top1": 0.5}, kind="linear") for name in NAMES]
    panel = build(launch, trials).figures[0].panels[0]
    assert panel.heading.endswith("of all that are compared, so none is best")
    assert all(cell.mean is None for cell in panel.table.cells)


def test_a_plan_names_a_reference_that_will_not_be_there() -> None:
    launch = launch_of()
    settings = {"curve": "alike", "metric": METRIC, "rows": "init", "columns": "steps"}

    def doubted(**more: object) -> list[tuple[str, str]]:
        figure = Curve(**settings, **more)
        return doubts(figure, launch.trials, (), launch.settings)

    assert doubted(panels="data", reference=BEST) == []
    assert doubted(reference="*target.steps=50") == []
    assert doubted(reference="*target.steps=50*") == [
        ("reference", "the trials that fit *target.steps=50* differ in more than their seeds")
    ]
    assert doubted(reference="*steps=7") == [
        ("reference", "no trial that is compared fits *steps=7")
    ]
    [(setting, what)] = doubted(panels="data", reference=BEST, claims=("hpt above target",))
    assert setting == "claims"
    assert "the rows will be target, hpt (basis=moco), hpt (basis=sup), base (basis=sup)" in what
