import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import RecipeError, RequestError
from hpt_dist.recipe import KINDS, Mme, Pretrain, result_fields, written
from hpt_dist.recipe import file as recipe_file

GOOD = """\
name: small
store: ${HPT_STORE:-./hpt-store}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: resnet18
image: {size: 64}
stages:
  adapt:
    kind: mme
    source: color/train
    target: line
    sweep: {init: [base, hpt], shots: [1, 3]}
  hpt:
    kind: pretrain
    init: base
    data: [color/train, line/train]
    steps: 100
    optimizer: {name: adamw, lr: 3e-4}
  base: {kind: import, weights: random}
report: {table: adapt, rows: init, columns: shots}
"""


def problems(text, **environment):
    with pytest.raises(RecipeError) as caught:
        recipe_file.parse(text, "r.yaml", environment)
    return [str(problem) for problem in caught.value.problems]


def test_a_good_recipe_is_read_with_parents_before_children():
    recipe = recipe_file.parse(GOOD, environment={})
    assert list(recipe.stages) == ["base", "hpt", "adapt"]
    assert recipe.store == "./hpt-store"
    assert not recipe_file.parse(GOOD.replace("store: ", "# "), environment={}).store
    assert [dict(point.axes) for point in recipe.stages["adapt"]] == [
        {"init": init, "shots": shots} for init in ("base", "hpt") for shots in (1, 3)
    ]
    spec = recipe.stages["hpt"][0].spec
    assert isinstance(spec, Pretrain)
    # YAML 1.1 reads 3e-4 as a string; here it is the number that everybody means.
    assert spec.optimizer.lr == 3e-4


def test_every_problem_comes_at_once_with_its_line_and_the_nearest_name():
    text = (
        GOOD.replace("steps: 100", "stepz: 100")
        .replace("    init: base", "    init: bose")
        .replace("source: color/train", "source: colour/train")
        .replace("columns: shots", "columns: shot")
        .replace("image: {size: 64}", "image: {size: -64}")
    )
    found = problems(text)
    assert [problem.split(" ")[0] for problem in found] == [
        "r.yaml:5",
        "r.yaml:9",
        "r.yaml:14",
        "r.yaml:16",
        "r.yaml:19",
    ]
    for key, printed in [
        ("image.size", "greater than or equal to 16"),
        ("stages.adapt.source", "did you mean color?"),
        ("stages.hpt.init", "did you mean base?"),
        ("stages.hpt.stepz", "did you mean steps?"),
        ("report.columns", "did you mean shots?"),
    ]:
        assert any(key in problem and printed in problem for problem in found), (key, found)


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        (("kind: mme", "kind: mmee"), "did you mean mme?"),
        (("kind: mme", "kind: [mme]"), "unknown kind"),
        (("lr: 3e-4}", "lr: 3e-4}\n    sweep: {steps.x: [1]}"), "cannot sweep over steps.x"),
        (("lr: 3e-4}", "lr: 3e-4}\n    sweep: {moco.queu: [512]}"), "did you mean moco.queue?"),
        (("name: small", "name: 010"), "8 in YAML 1.1 and 10 in YAML 1.2"),
        (("steps: 100", "seed: 99999999999999999999999"), "less than"),
        (("target: line", "target: line\n    crop_area: [0.9, 0.5]"), "low <= high"),
        (("init: [base, hpt]", "init: [base, adapt]"), "adapt makes no weights to start from"),
        (("shots: [1, 3]", "shots: [1, 0]"), "greater than 0"),
        (("shots: [1, 3]", "shots: [1, 1]"), "stands twice"),
        (("shots: [1, 3]", "shots: 3"), "list of values"),
        (("shots: [1, 3]", "shotz: [3]"), "did you mean shots?"),
        (("shots: [1, 3]", "seed: [0]"), "exactly one of shots and labels"),
        (("steps: 100", "steps: 100\n    steps: 200"), "stands twice: lines 16 and 17"),
        (("steps: 100", "steps: ten"), "valid integer"),
        (("steps: 100", "moco: {queue: 1000}"), "no multiple of batch"),
        (("lr: 3e-4", "lr: .nan"), "finite"),
        (("lr: 3e-4", "lr: 0"), "greater than 0"),
        (("name: small", "name: ../up"), "cannot be a name"),
        (("weights: random", "weights: '${NO_SUCH}'"), "NO_SUCH is not set"),
        (("init: base\n", "init: hpt\n"), "from itself"),
        (("stages:", "stages: ["), "not valid YAML"),
        (("name: small\n", ""), "name is missing"),
    ],
)
def test_each_fault_is_named(change, printed):
    found = problems(GOOD.replace(*change))
    assert any(printed in problem for problem in found), found
    assert all(problem.startswith("r.yaml:") for problem in found)


def test_variables_are_filled_and_typed():
    text = GOOD.replace("steps: 100", "resources:\n      gpus: '${N}'\n      time_min: ${N}")
    with pytest.raises(
        RecipeError, match=r"gpus: input should be a valid integer \(given: \${N}\)"
    ):
        recipe_file.parse(text, environment={"N": "7"})
    recipe = recipe_file.parse(
        text.replace("'${N}'", "${GPUS:-2}"), environment={"N": "7", "HPT_STORE": "s3://b"}
    )
    resources = recipe.stages["hpt"][0].spec.resources
    assert (resources.gpus, resources.time_min) == (2, 7)
    assert recipe.store == "s3://b"


def test_overrides_change_settings_and_are_checked_like_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    recipe = recipe_file.load(path, ["stages.hpt.steps=5", "stages.hpt.optimizer.lr=1e-3"])
    spec = recipe.stages["hpt"][0].spec
    assert (spec.steps, spec.optimizer.lr) == (5, 1e-3)
    with pytest.raises(RecipeError, match=r"--set stages\.hpt\.step: .*\n.*\n.*did you mean steps"):
        recipe_file.load(path, ["stages.hpt.step=5"])
    with pytest.raises(RecipeError, match=r"--set image\.size: .*valid integer \(given: 'x'\)"):
        recipe_file.load(path, ["image.size=x"])
    with pytest.raises(RecipeError, match=r"--set stages\.hpt\.optimizr: unknown setting"):
        recipe_file.load(path, ["stages.hpt.optimizr.lr=1"])
    with pytest.raises(RecipeError, match="did you mean hpt"):
        recipe_file.load(path, ["stages.hptt.steps=5"])
    with pytest.raises(RecipeError, match="allowed: key"):
        recipe_file.load(path, ["nonsense"])
    with pytest.raises(RequestError, match="cannot read the recipe"):
        recipe_file.load(tmp_path / "none.yaml")


def test_an_option_changes_one_place_of_a_list(tmp_path):
    path = tmp_path / "r.yaml"
    head = GOOD.partition("report:")[0]
    path.write_text(f"{head}report:\n  - {{table: adapt, rows: init}}\n  - {{cost: adapt}}\n")
    [data] = recipe_file.load(path).stages["hpt"]
    option = f"stages.hpt.data.0={data.spec.data[-1]}"
    recipe = recipe_file.load(path, ["report.1.title=Hours", option, "report.1.rows=shots"])
    assert [figure.title for figure in recipe.report] == [None, "Hours"]
    assert recipe.report[1].rows == "shots"
    assert recipe.where("report", 1, "title") == "--set report.1.title"
    assert recipe.where("report", 1, "cost").startswith(f"{path}:")
    assert recipe.stages["hpt"][0].spec.data[0] == data.spec.data[-1]
    (tmp_path / "again.yaml").write_text(written.text(recipe.document))
    again = recipe_file.load(tmp_path / "again.yaml")
    assert (again.report, again.stages) == (recipe.report, recipe.stages)
    for option, says in (
        (
            "report.2.title=x",
            r"places are numbers\n  allowed: report\.0 to report\.1",
        ),
        ("report.last.title=x", r"--set report\.last\.title: report is a list"),
        ("report.-1.title=x", "report is a list"),
        ("report.0.titel=x", r"--set report\.0\.titel: unknown setting"),
        ("report.0.title.x=1", r"--set report\.0\.title: input should be a valid string"),
        ("name.x=1", r"--set name\.x: name holds no other settings"),
    ):
        with pytest.raises(RecipeError, match=says):
            recipe_file.load(path, [option])


def test_a_recipe_written_in_any_order_is_the_same_recipe():
    recipe = recipe_file.parse(GOOD, environment={})
    head, stages = GOOD.split("stages:\n")
    adapt, hpt = stages.split("  hpt:\n")
    hpt, tail = hpt.split("  base:")
    base, report = tail.split("report:")
    other = f"{head}stages:\n  base:{base}{adapt}  hpt:\n{hpt}report:{report}"
    assert recipe_file.parse(other, environment={}).stages == recipe.stages


@given(st.text(alphabet=string.printable, max_size=200))
def test_no_text_brings_a_traceback(text):
    try:
        recipe_file.parse(text, environment={})
    except RecipeError as error:
        assert error.problems
        assert error.exit_code == 2


@given(st.data())
def test_damaged_recipes_are_refused_in_words(data):
    lines = GOOD.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(st.text(alphabet=string.printable.replace("\n", ""), max_size=30))
    try:
        recipe_file.parse("\n".join(lines), environment={})
    except RecipeError as error:
        assert all(problem.what for problem in error.problems)


def test_fields_that_do_not_change_results_are_not_in_them():
    one, other = (
        Mme(kind="mme", init="a", source="b/c", target="d", shots=1, checkpoint_every=n)
        for n in (1, 2)
    )
    assert result_fields(one) == result_fields(other)
    assert "checkpoint_every" not in result_fields(one)
    assert result_fields(one)["optimizer"]["nesterov"] is True


def test_the_schema_describes_every_kind():
    schema = json.loads(json.dumps(recipe_file.schema()))
    *kinds, extended = schema["properties"]["stages"]["additionalProperties"]["oneOf"]
    assert extended["not"] == {"required": ["kind"]}
    assert [kind["properties"]["kind"]["const"] for kind in kinds] == list(KINDS)


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ("name: 2024", "put it in quotes"),
        ("name: no", "put it in quotes"),
        ("steps: 1e3", "write 1000"),
        ('steps: "100"', "write it without quotes"),
        ("data: line/train", "write a list: [line/train]"),
        ("monitor: none", "null stands for none"),
        ("monitor: false", "null stands for none"),
        ("<<: *size", "write the settings out, or repeat a whole value by its alias"),
        ("store: $HOME/st", "write ${HOME}"),
        ("store: /x/$USER", "write ${USER}"),
    ],
)
def test_what_another_tool_takes_is_refused_with_what_to_write(setting: str, fix: str) -> None:
    key = setting.partition(":")[0]
    is_head = key in ("name", "store")
    head = [setting if is_head else "name: r", "backbone: timm/resnet18", "image: &size {size: 64}"]
    stage = f"stages:\n  hpt: {{kind: pretrain{'' if is_head else ', ' + setting}}}"
    with pytest.raises(RecipeError) as refused:
        recipe_file.parse("\n".join([*head, stage]), environment={"HOME": "/h", "USER": "ada"})
    assert f"do: {fix}" in str(refused.value)
