"""Figures of the paper run for real: small twins that extend the shipped recipes."""

import json
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared import made_once
from small import document, fill, hpt

from hpt_dist.recipe.figures import FIGURES
from hpt_dist.recipe.kinds.similarity import MATRICES, always

ALL_OTHERS_NULL = ", ".join(
    f"{name}: null"
    for name in (
        *("bdd", "kids", "chexpert", "coco", "clipart", "infograph", "painting", "quickdraw"),
        *("real", "sketch", "resisc", "viper", "ucm", "pascal", "flowers", "xview"),
    )
)
SMALL = """\
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
"""
FIGURE_2 = (
    f"name: figure_2\nextends: paper/fig2_separability\n{SMALL}"
    + """\
groups: {dataset: [color, line]}
stages:
  base: {weights: random, seed: 1}
  random: null
  target: null
  hpt: {batch: 8, moco: {queue: 16}, sweep: {steps: [2, 4]}}
  hpt_bn: null
  features: {steps: 300, batch: 16, views: 1, sweep: {init: [base, hpt]}}
"""
)
FIGURE_4 = (
    f"name: figure_4\nextends: paper/fig4_sequential\n{SMALL}"
    + """\
groups:
  chain:
    xray: null
    aerial: null
    drawings: {source: color, target: line, source_steps: 4}
    itself: {source: color, target: color, source_steps: 4}
stages:
  base: {weights: random, seed: 1}
  random: null
  t: null
  s: {batch: 8, moco: {queue: 16}}
  b_t: null
  s_t: {batch: 8, moco: {queue: 16}, steps: 2}
  s_t_bn: null
  tuned:
    labels: 60
    batch: 16
    steps: 4
    choose: {schedule: null}
    sweep: {init: [s_t]}
"""
)


FIGURE_3 = (
    f"name: figure_3\nextends: paper/fig3_semi_supervised\n{SMALL}"
    + f"""\
groups: {{dataset: {{{ALL_OTHERS_NULL}, color: {{hpt: 4}}, line: {{hpt: 4}}}}}}
stages:
  base: {{weights: random, seed: 1}}
  random: null
  target: null
  hpt: {{batch: 8, moco: {{queue: 16}}}}
  hpt_bn: null
  tuned:
    labels: 60
    batch: 16
    choose: {{lr: null, schedule: [4 steps, 2 epochs]}}
    sweep: {{init: [base, hpt]}}
report:
  - bars: tuned
    rows: init
    columns: dataset
    claims: [hpt at least base - 100 on 2 of 2, hpt above base + 100 on all]
"""
)
FIGURE_5 = (
    f"name: figure_5\nextends: paper/fig5_augmentation\n{SMALL}"
    + """\
groups:
  dataset: {resisc: null, bdd: null, chexpert: null, color: {hpt: 4}}
  policy: [full, crop_only]
stages:
  base: {weights: random, seed: 1}
  target: {steps: 2, batch: 8, moco: {queue: 16}}
  hpt: {batch: 8, moco: {queue: 16}}
  features: {steps: 300, batch: 16, views: 1}
"""
)
FIGURE_6 = (
    f"name: figure_6\nextends: paper/fig6_data\n{SMALL}"
    + """\
groups:
  dataset: [color]
  share: {1%: null, 10%: null, 25%: {hpt: 4, batch: 8}, 100%: {hpt: 4, batch: 8}}
stages:
  base: {weights: random, seed: 1}
  random: null
  target: null
  hpt: {moco: {queue: 16}}
  hpt_bn: null
  features: {steps: 300, batch: 16, views: 1, sweep: {init: [base, hpt]}}
report:
  - {curve: features, rows: init, columns: share, panels: dataset}
"""
)
TABLE_6 = (
    f"name: table_6\nextends: paper/table6_learning_rates\n{SMALL}"
    + """\
groups: {dataset: [color], lr: [0.03, 0.001]}
stages:
  base: {weights: random, seed: 1}
  hpt: {batch: 8, steps: 4, moco: {queue: 16}}
  features: {steps: 300, batch: 16, views: 1}
report:
  - table: features
    rows: lr
    columns: dataset
    baseline: "0.03"
    paper: {"0.03": {color: 93.7}, "0.001": {color: 91.6}}
    paper_source: HPT (arXiv 2103.12718), table 6
    claims: [0.03 at least 0.001 - 100 on all, 0.03 within 0.1 of paper on all]
"""
)
FIGURE_14 = (
    f"name: figure_14\nextends: paper/fig14_similarity\n{SMALL}"
    + """\
groups:
  basis: {moco: {weights: random, seed: 1}, supervised: {weights: random, seed: 2}}
stages:
  base: {seed: <basis.seed>}
  hpt:
    data: [color/train, color/val]
    batch: 8
    moco: {queue: 16}
    sweep: {steps: [4], seed: [0, 1, 2]}
  features: {data: color, steps: 300, batch: 16, views: 1, sweep: {seed: [0, 1, 2]}}
  alike:
    data: color
    groups:
      - ["*hpt.steps=4,basis=moco", "*hpt.steps=4,basis=supervised"]
      - ["*hpt.steps=4,basis=moco", "*hpt.steps=4,basis=moco"]
report:
  - {table: features, rows: basis, baseline: moco (hpt.steps=4)}
  - matrix: alike
    paper: {outputs/rv2: {moco: {moco: 0.98, supervised: 0.78}}}
    paper_source: HPT (arXiv 2103.12718), appendix C.7
"""
)
FIGURES_15_TO_17 = (
    f"name: figures_15_to_17\nextends: paper/fig15_17_similarity_by_steps\n{SMALL}"
    + """\
groups:
  dataset: [color]
  basis: {moco: {weights: random, seed: 1}, supervised: {weights: random, seed: 2}}
stages:
  base: {seed: <basis.seed>}
  random: {seed: 3}
  target: {batch: 8, moco: {queue: 16}, sweep: {steps: [4]}}
  hpt: {batch: 8, moco: {queue: 16}, sweep: {steps: [2, 4]}}
  features: {steps: 300, batch: 16, views: 1}
"""
)
SELECTION = (
    f"name: selection\nextends: paper/source_selection\n{SMALL}"
    + """\
groups: {source: [color, line], dataset: [line]}
stages:
  base: {weights: random, seed: 1}
  pretrained: {steps: 4, batch: 8, moco: {queue: 16}}
  best: {steps: 300, batch: 16, views: 1}
  hpt: {steps: 4, batch: 8, moco: {queue: 16}}
  features: {steps: 300, batch: 16, views: 1}
"""
)
TWINS = {
    "figure_2": FIGURE_2,
    "figure_4": FIGURE_4,
    "figure_3": FIGURE_3,
    "figure_5": FIGURE_5,
    "figure_6": FIGURE_6,
    "table_6": TABLE_6,
    "figure_14": FIGURE_14,
    "figures_15_to_17": FIGURES_15_TO_17,
    "selection": SELECTION,
}


@pytest.fixture(scope="module")
def launched(drawings, mlflow_tables, tmp_path_factory):
    """A store in which all twins went through; trials of the same key ran once."""

    def make(folder):
        store = str(fill(folder / "store", drawings, mlflow_tables))
        threads = torch.get_num_threads()
        for name, text in TWINS.items():
            recipe = folder / f"{name}.yaml"
            recipe.write_text(text)
            printed = hpt("launch", str(recipe), "--on", "inline", store=store, process=False)
            (folder / f"{name}.txt").write_text(printed)
            hpt("report", str(recipe), "--out", str(folder / name), store=store)
        torch.set_num_threads(threads)

    return made_once(tmp_path_factory, "twins", make)


def done(folder, name):
    """Return what `plan` says of each trial of a twin, by its name."""
    plan = document(
        hpt("plan", str(folder / f"{name}.yaml"), "--json", store=str(folder / "store"))
    )
    assert {trial["state"] for trial in plan} == {"cached"}
    return {trial["trial"]: trial for trial in plan}


def read(folder, key, name):
    """Return a trial's record from the store."""
    return json.loads((folder / f"store/stages/{key}/{name}.json").read_text())


def spec_of(folder, trial):
    return read(folder, trial["key"], "spec")


def report_of(folder, name):
    return json.loads((folder / name / "report.json").read_text())


def values_of(panel):
    """Return the means of a panel by row and column, each of which is there."""
    cells = {(cell["row"], cell["column"]): cell["mean"] for cell in panel["table"]["cells"]}
    assert None not in cells.values()
    return cells


def states_of(report, figure):
    return [claim["state"] for claim in report["claims"][figure]]


def test_figure_2_pretrains_and_judges_each_dataset_by_itself(launched):
    trials = done(launched, "figure_2")
    assert len(trials) == 1 + 2 * 2 + 2 * (1 + 2)
    for dataset in ("color", "line"):
        hpt_4 = trials[f"hpt/dataset={dataset},steps=4"]
        features = spec_of(launched, trials[f"features/dataset={dataset},init=hpt,hpt.steps=4"])
        assert features["init"] == hpt_4["key"]
        assert list(features["datasets"]) == [dataset]
        assert spec_of(launched, hpt_4)["spec"]["data"] == [f"{dataset}/train", f"{dataset}/val"]
    printed = (launched / "figure_2.txt").read_text()
    assert "features: test/top1 by init and dataset" in printed
    assert "color" in printed
    assert "line" in printed


def test_figure_4_goes_from_the_source_to_the_target_and_val_chooses_the_rate(launched):
    trials = done(launched, "figure_4")
    source, target = trials["s/chain=drawings"], trials["s_t/chain=drawings"]
    assert spec_of(launched, source)["spec"]["data"] == ["color/train", "color/val"]
    assert spec_of(launched, target)["init"] == source["key"]
    assert spec_of(launched, target)["spec"]["data"] == ["line/train", "line/val"]
    tuned = trials["tuned/chain=drawings,init=s_t"]
    assert 0 <= read(launched, tuned["key"], "result")["metrics"]["test/top1"] <= 1
    candidates = spec_of(launched, tuned)["candidates"]
    rates = {read(launched, key, "spec")["spec"]["optimizer"]["lr"] for key in candidates}
    assert rates == {0.01, 0.001}
    # Both chains have the same source, which figure 2 has pretrained: it ran once.
    assert source["key"] == done(launched, "figure_2")["hpt/dataset=color,steps=4"]["key"]
    assert trials["s/chain=itself"]["key"] == source["key"]
    assert spec_of(launched, trials["s_t/chain=itself"])["init"] == source["key"]
    assert "tuned: test/top1 by init and chain" in (launched / "figure_4.txt").read_text()


def test_figure_3_finetunes_on_few_labels_as_val_chooses_and_checks_its_claims(launched):
    trials, report = done(launched, "figure_3"), report_of(launched, "figure_3")
    [figure] = report["figures"]
    [panel] = figure["panels"]
    assert figure["kind"] == "bars"
    assert set(values_of(panel)) == {(i, d) for i in ("base", "hpt") for d in ("color", "line")}
    assert states_of(report, 0) == ["held", "not held"]
    assert len(report["choices"]) == 4
    for name, choice in report["choices"].items():
        tuned, val = trials[name], choice["values"]
        assert set(val) == {"schedule=4 steps", "schedule=2 epochs"}
        assert val[choice["chosen"]] == max(val.values())
        chosen = spec_of(launched, tuned)["candidates"][choice["index"]]
        chosen_val = read(launched, chosen, "result")["metrics"]["val/top1"]
        assert chosen_val == val[choice["chosen"]]
        assert read(launched, tuned["key"], "result")["metrics"]["val/top1"] == chosen_val
        assert spec_of(launched, {"key": chosen})["spec"]["labels"] == 60


def test_figure_5_draws_each_policy_against_the_full_one(launched):
    trials, report = done(launched, "figure_5"), report_of(launched, "figure_5")
    delta, table = report["figures"]
    [panel] = delta["panels"]
    assert (delta["kind"], panel["name"]) == ("delta", "color")
    assert panel["table"]["baseline"] == "full"
    values = values_of(panel)
    assert set(values) == {(p, i) for p in ("full", "crop_only") for i in ("target", "hpt")}
    for one in panel["differences"][:2]:
        assert one["row"] == "crop_only"
        expected = values["crop_only", one["column"]] - values["full", one["column"]]
        assert one["comparison"]["mean"] == pytest.approx(expected)
    assert len(values_of(table["panels"][0])) == 4
    policies = [
        spec_of(launched, trials[f"hpt/dataset=color,policy={policy}"])["spec"]["augment"]
        for policy in ("full", "crop_only")
    ]
    assert policies[0] != policies[1]


def test_figure_6_has_a_line_over_the_shares_of_unlabelled_images(launched):
    trials, report = done(launched, "figure_6"), report_of(launched, "figure_6")
    [figure] = report["figures"]
    [panel] = figure["panels"]
    assert (figure["kind"], panel["name"]) == ("curve", "color")
    assert panel["table"]["columns"] == ["25%", "100%"]
    assert panel["constant"] == ["base"]
    values = values_of(panel)
    assert set(values) == {(i, s) for i in ("base", "hpt") for s in ("25%", "100%")}
    assert values["base", "25%"] == values["base", "100%"]
    pools = [
        read(launched, trials[f"hpt/dataset=color,share={share}"]["key"], "result")["details"][
            "pool_images"
        ]
        for share in ("25%", "100%")
    ]
    assert pools == [127 + 39, 509 + 155]


def test_table_6_stands_beside_the_papers_values(launched):
    trials, report = done(launched, "table_6"), report_of(launched, "table_6")
    [figure] = report["figures"]
    [panel] = figure["panels"]
    assert figure["kind"] == "table"
    assert set(values_of(panel)) == {("0.03", "color"), ("0.001", "color")}
    assert [(one["row"], one["value"]) for one in panel["paper"]] == [
        ("0.03", 93.7),
        ("0.001", 91.6),
    ]
    assert states_of(report, 0) == ["held", "not held"]
    # The paper's rate is the default: figure 2 has trained and judged it.
    before = done(launched, "figure_2")
    assert trials["hpt/dataset=color,lr=0.03"]["key"] == before["hpt/dataset=color,steps=4"]["key"]
    judged = before["features/dataset=color,init=hpt,hpt.steps=4"]["key"]
    assert trials["features/dataset=color,lr=0.03"]["key"] == judged


def test_figure_14_has_pairs_of_networks_by_their_base_and_welchs_test(launched):
    done(launched, "figure_14")
    report = report_of(launched, "figure_14")
    [alike] = report["similarities"].values()
    assert len(alike["trials"]) == 6
    kinds = [figure["kind"] for figure in report["figures"]]
    assert kinds == ["table", "matrix"]
    panels = {panel["name"]: panel for panel in report["figures"][1]["panels"]}
    assert list(panels) == [one for one in MATRICES if always(one)]
    bases = ["moco" in name for name in alike["trials"]]
    for name, matrix in alike["matrices"].items():
        assert np.shape(matrix) == (6, 6)
        means = values_of(panels[name])
        pairs = list(combinations(range(6), 2))
        apart = fmean(matrix[i][j] for i, j in pairs if bases[i] != bases[j])
        within = fmean(matrix[i][j] for i, j in pairs if bases[i] and bases[j])
        assert means["moco", "supervised"] == means["supervised", "moco"] == pytest.approx(apart)
        assert means["moco", "moco"] == pytest.approx(within)
        assert alike["welch"][name]["pairs"] == [9, 3]
        assert alike["welch"][name]["means"] == pytest.approx([apart, within])
        assert 0 <= alike["welch"][name]["p"] <= 1
    assert len(list((launched / "figure_14").glob("figure-2-*.svg"))) == len(panels)
    beside = {(one["column"], one["value"]) for one in panels["outputs/rv2"]["paper"]}
    assert beside == {("moco", 0.98), ("supervised", 0.78)}


def test_figures_15_to_17_have_lines_of_likeness_to_the_best_on_validation(launched):
    trials, report = done(launched, "figures_15_to_17"), report_of(launched, "figures_15_to_17")
    [alike] = report["similarities"].values()
    names = alike["trials"]
    assert len(names) == 1 + 2 * 2
    results = [read(launched, trials[name]["key"], "result") for name in names]
    on_val = [result["metrics"]["val/top1"] for result in results]
    best = on_val.index(max(on_val))
    features, *figures = report["figures"]
    assert features["kind"] == "curve"
    for figure, metric in zip(figures, ("outputs/rv2", "features/rv2", "errors/iou"), strict=True):
        [panel] = figure["panels"]
        assert (figure["kind"], panel["name"], panel["table"]["metric"]) == (
            "curve",
            "color",
            metric,
        )
        assert "the best on validation" in panel["reference"]
        to_best = alike["matrices"][metric][best]
        drawn = [value for cell in panel["table"]["cells"] for value in cell["values"]]
        others = [value for at, value in enumerate(to_best) if at != best]
        assert sorted(drawn) == pytest.approx(sorted(others))
        cells = {(one["row"], one["column"]): one["mean"] for one in panel["table"]["cells"]}
        for name, value in zip(names, to_best, strict=True):
            basis = next((f" (basis={one})" for one in ("moco", "supervised") if one in name), "")
            place = (f"{'hpt' if basis else 'target'}{basis}", name.partition("steps=")[2][:1])
            # The best itself has no place, or an empty one beside other steps of its base.
            expected = None if value == to_best[best] else pytest.approx(value)
            assert cells.get(place) == expected


def test_every_kind_of_figure_has_been_drawn_of_trials_that_ran(launched):
    drawn = set()
    for name in TWINS:
        figures = report_of(launched, name)["figures"]
        for number, figure in enumerate(figures, 1):
            values = [c["mean"] for p in figure["panels"] for c in p["table"]["cells"]]
            if list((launched / name).glob(f"figure-{number}*.svg")) and any(values):
                drawn.add(figure["kind"])
            if figure["kind"] == "cost":
                assert all(panel["spent"] for panel in figure["panels"])
    assert drawn == FIGURES.keys()


def test_the_source_that_validation_chooses_is_what_hpt_goes_on_from(launched):
    trials, report = done(launched, "selection"), report_of(launched, "selection")
    best, hpt_trial = trials["best/dataset=line"], trials["hpt/dataset=line"]
    choice = report["choices"]["best/dataset=line"]
    starts = {
        "init=base": "base",
        "init=pretrained,source=color": "pretrained/source=color",
        "init=pretrained,source=line": "pretrained/source=line",
    }
    assert choice["values"].keys() == starts.keys()
    assert choice["values"][choice["chosen"]] == max(choice["values"].values())
    assert spec_of(launched, hpt_trial)["init"] == best["key"]
    chosen, kept, after = (
        load_file(launched / f"store/stages/{one['key']}/weights.safetensors")
        for one in (trials[starts[choice["chosen"]]], best, hpt_trial)
    )
    assert all(torch.equal(chosen[name], kept[name]) for name in chosen.keys() | kept.keys())
    assert any(not torch.equal(after[name], kept[name]) for name in kept)
    [figure] = report["figures"]
    assert set(values_of(figure["panels"][0])) == {(i, "line") for i in ("base", "best", "hpt")}
