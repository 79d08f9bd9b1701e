"""`extends:` gives the recipe that is written out, and each key its own file and line."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import extending, plan
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import written as written_out
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.yaml_document import Document, fill

BASE = """\
store: ${HPT_STORE:-./a}
datasets: {real: domainnet/real, sketch: domainnet/sketch}
backbone: timm/resnet18
image: {size: 64}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [real/train]
    batch: 16
    moco: {queue: 64, dim: 32}
    optimizer: {lr: 0.1}
    sweep: {steps: [5, 6]}
  near: {kind: knn, data: sketch, sweep: {init: [base, hpt]}}
report: {table: near, rows: init}
"""
CHILD = """\
name: child
extends: base.yaml
datasets: {real: null, paint: domainnet/paint}
image: {size: 32}
stages:
  hpt:
    data: [paint/train]
    steps: 7
    moco: {queue: 32}
    sweep: {optimizer.lr: [0.3, 0.03], seed: [0, 1]}
  near: {sweep: {init: [hpt]}}
  line: {kind: linear, data: sketch, init: base}
report: null
"""
WRITTEN_OUT = """\
name: other
datasets: {paint: domainnet/paint, sketch: domainnet/sketch}
backbone: timm/resnet18
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [paint/train]
    batch: 16
    steps: 7
    moco: {queue: 32, dim: 32}
    sweep: {optimizer.lr: [0.3, 0.03], seed: [0, 1]}
  near: {kind: knn, data: sketch, sweep: {init: [hpt]}}
  line: {kind: linear, data: sketch, init: base}
"""


@pytest.fixture
def written(tmp_path):
    def write(base=BASE, child=CHILD, **more):
        texts = {"base": base, "child": child, **more}
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / "child.yaml"

    return write


def facts():
    counts = {"train": 100, "val": 20, "test": 40}
    per_class = {split: [n // 4] * 4 for split, n in counts.items()}
    names = ("real", "sketch", "paint")
    datasets = {one: DatasetFacts(one, "", one, 4, counts, per_class) for one in names}
    return Facts(datasets, {"random": "random"})


def problems(path, overrides=()):
    with pytest.raises(RecipeError) as caught:
        recipe_file.load(path, overrides, {})
    return [str(problem) for problem in caught.value.problems]


def test_keys_are_those_of_the_recipe_written_out(written):
    found = plan.make(recipe_file.load(written(), environment={}), facts())
    wanted = plan.make(recipe_file.parse(WRITTEN_OUT, environment={}), facts())
    assert {t.name: t.key for t in found} == {t.name: t.key for t in wanted}
    assert len(found) == 1 + 4 + 4 + 1


def test_each_key_has_the_file_and_line_where_it_was_written(written):
    child = written()
    base = child.parent / "base.yaml"
    recipe = recipe_file.load(child, ["stages.hpt.batch=32"], {"HPT_STORE": "./b"})
    assert recipe.store == "./b"
    for path, where in [
        (("stages", "hpt", "kind"), f"{base}:8 stages.hpt.kind"),
        (("stages", "hpt", "steps"), f"{child}:8 stages.hpt.steps"),
        (("stages", "hpt", "moco", "queue"), f"{child}:9 stages.hpt.moco.queue"),
        (("stages", "hpt", "moco", "dim"), f"{base}:12 stages.hpt.moco.dim"),
        (("stages", "hpt", "batch"), "--set stages.hpt.batch"),
        (("stages", "line", "data"), f"{child}:12 stages.line.data"),
        (("backbone",), f"{base}:3 backbone"),
        (("name",), f"{child}:1 name"),
    ]:
        assert recipe.where(*path) == where


def test_faults_of_both_files_come_at_once_at_their_lines(written):
    child = written(
        BASE.replace("kind: knn", "kind: knm").replace("dim: 32", "dimm: 32"),
        CHILD.replace("steps: 7", "stepz: 7").replace("[paint/train]", "[pain/train]"),
    )
    base = child.parent / "base.yaml"
    found = problems(child)
    places = [problem.split(" ")[0] for problem in found]
    assert places == [f"{child}:7", f"{child}:8", f"{base}:12", f"{base}:15"], found
    assert "did you mean paint?" in found[0]
    assert "did you mean dim?" in found[2]


def test_set_applies_last(written):
    recipe = recipe_file.load(written(), ["stages.hpt.moco.queue=48"], {})
    assert recipe.stages["hpt"][0].spec.moco.queue == 48
    [problem] = problems(written(), ["extends=base.yaml"])
    assert problem.startswith("--set extends: what a recipe extends is written in its file")


def test_a_sweep_takes_the_place_of_a_plain_setting_and_the_other_way_round(written):
    child = "name: c\nextends: base.yaml\nstages: {hpt: {steps: 9, sweep: {batch: [8, 16]}}}\n"
    points = recipe_file.load(written(child=child), environment={}).stages["hpt"]
    assert [(dict(p.axes), p.spec.steps, p.spec.batch) for p in points] == [
        ({"batch": 8}, 9, 8),
        ({"batch": 16}, 9, 16),
    ]
    child = "name: c\nextends: base.yaml\nstages: {hpt: {sweep: {steps: null}}}\n"
    [point] = recipe_file.load(written(child=child), environment={}).stages["hpt"]
    assert point.spec.steps == 5000


def test_a_figure_of_ones_own_replaces_that_of_the_base_and_settings_of_it_merge(written):
    for own, kind, rows in (
        ("{curve: near, columns: init, rows: hpt.steps}", "curve", "hpt.steps"),
        ("[{bars: near, rows: init}]", "bars", "init"),
        ("{rows: hpt.steps}", "table", "hpt.steps"),
    ):
        child = f"name: c\nextends: base.yaml\nreport: {own}\n"
        [figure] = recipe_file.load(written(child=child), environment={}).report
        assert (figure.kind, figure.rows) == (kind, rows)


def test_a_chain_of_files_goes_from_folder_to_folder(tmp_path):
    (tmp_path / "x/common").mkdir(parents=True)
    (tmp_path / "x/common/far.yaml").write_text(BASE)
    (tmp_path / "x/near.yaml").write_text("extends: common/far.yaml\nimage: {size: 48}\n")
    child = tmp_path / "child.yaml"
    child.write_text("name: c\nextends: x/near.yaml\nimage: {normalize: half}\n")
    image = recipe_file.load(child, environment={}).image
    assert (image.size, image.normalize) == (48, "half")


def test_a_shipped_recipe_is_extended_by_its_name(tmp_path):
    child = tmp_path / "mine.yaml"
    child.write_text("name: mine\nextends: one_domain\nstages: {hpt: {steps: 99}}\n")
    assert recipe_file.load(child, environment={}).stages["hpt"][0].spec.steps == 99
    child.write_text("name: mine\nextends: one_domian\n")
    assert "did you mean one_domain?" in problems(child)[0]


@pytest.mark.parametrize(
    ("child", "where", "printed"),
    [
        ("extends: gone.yaml", 1, "cannot read the recipe: "),
        ("extends: ..yaml", 1, "cannot read the recipe"),
        ("extends: child.yaml", 1, "child.yaml extends, in the end, itself"),
        ("extends: circle.yaml", 1, "circle.yaml:1 extends: "),
        ("extends: list.yaml", 1, "list.yaml is no recipe"),
        ("extends: broken.yaml", 1, "broken.yaml:2: not valid YAML"),
        ("extends: [base.yaml]", 1, "extends names one other recipe"),
        ("extends: ''", 1, "extends names one other recipe"),
        ("extends: ${HOME}/base.yaml", 1, "no variable says what a recipe extends"),
        ("extends: f1.yaml", 1, "more than 5 files extend each other"),
        ("extends: pipe.yaml", 1, "it is a folder, a pipe or a device"),
        ("extends: large.yaml", 1, "larger than 1,000,000 bytes"),
        ("extends: base.yaml", 1, "name is missing"),
        ("extends: base.yaml\nstages: {near: {kind: linear}}", 2, "near is of kind knn in "),
        (
            "extends: base.yaml\nstages: {hpd: null}",
            2,
            "there is no hpd\n  allowed: base, hpt, near",
        ),
        ("extends: base.yaml\nstages: {hpt: null}", 2, "no stage hpt"),
        ("extends: base.yaml\ndatasets: {photos: null}", 2, "there is no photos"),
        ("extends: base.yaml\nstages: {hpt: {sweep: {seed: null}}}", 2, "there is no seed"),
        ("extends: base.yaml\nbackbone: ${NET}", 2, "NET is not set"),
    ],
)
def test_each_fault_is_named(written, child, where, printed):
    chain = {f"f{n}": f"extends: f{n + 1}.yaml" for n in range(1, 6)}
    path = written(
        child=child,
        circle="extends: child.yaml",
        list="[1, 2]",
        broken="a: 1\nb: [",
        large="# x\n" * 260_000,
        **chain,
    )
    os.mkfifo(path.parent / "pipe.yaml")
    with pytest.raises(RecipeError) as caught:
        recipe_file.load(path, [], {"HOME": "/h"})
    assert any(printed in str(problem) for problem in caught.value.problems), caught.value
    known = (f"{path.parent}/", "--set")
    assert all(problem.where.startswith(known) for problem in caught.value.problems)
    if "name is missing" in printed:
        assert any(f"{path}:{where}" in str(problem) for problem in caught.value.problems)


def test_values_count_over_all_files(written):
    many = f"report: {{x: [{', '.join(['1'] * 30_000)}]}}\n"
    found = problems(
        written(BASE.partition("report")[0] + many, f"name: c\n{many}extends: base.yaml")
    )
    assert any("base.yaml:" in one and "more than 50,000 values" in one for one in found), found


KEYS = st.sampled_from(["a", "b", "c"])
TREES = st.recursive(
    st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=2)),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)


def merged(under, over):
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {
        key: merged(under[key], over[key])
        if key in under and key in over
        else {**under, **over}[key]
        for key in {**under, **over}
    }


def paths(tree, path=()):
    yield path
    for key, value in (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree if isinstance(tree, list) else ())
    ):
        yield from paths(value, (*path, key))


@given(st.lists(MAPPINGS, min_size=1, max_size=4))
def test_merged_trees_are_those_of_the_definition_and_every_key_has_a_place(
    tmp_path_factory, trees
):
    folder = tmp_path_factory.getbasetemp()
    wanted = {}
    for n, tree in enumerate(trees):
        extends = {"extends": f"t{n - 1}.yaml"} if n else {}
        text = yaml.safe_dump({**extends, **tree})
        (folder / f"t{n}.yaml").write_text(text)
        wanted = merged(wanted, tree)
    document = extending.read(folder / f"t{len(trees) - 1}.yaml", {})
    assert document.tree == wanted
    assert set(paths(wanted)) <= set(document.places)
    # At each place the key is written.
    for path, place in document.places.items():
        if path and isinstance(path[-1], str) and path != ("extends",):
            file, _, line = place.rpartition(":")
            assert f"{path[-1]}:" in Path(file).read_text().splitlines()[int(line) - 1]


def test_a_recipe_as_written_stands_alone_and_keeps_its_variables(written):
    options = ["stages.hpt.batch=32", "stages.hpt.schedule=constant"]
    secret = {"HPT_STORE": "s3://ada:hunter2@x/y"}
    path = written(child=f"# Does it help?\n#   launch\n{CHILD}")
    recipe = recipe_file.load(path, options, secret)
    text = written_out.text(recipe.document)
    assert text.startswith("# Does it help?\n#   launch\n# ")
    assert "store: ${HPT_STORE:-./a}" in text
    assert "hunter2" not in text
    assert f"# extends {path.parent / 'base.yaml'}\n" in text
    assert "# --set stages.hpt.batch\n# --set stages.hpt.schedule\n" in text
    again = recipe_file.parse(text, environment=secret)
    assert again.store == recipe.store
    keys = [{t.name: t.key for t in plan.make(one, facts())} for one in (recipe, again)]
    assert keys[0] == keys[1]
    alone = recipe_file.parse(WRITTEN_OUT, environment={})
    assert written_out.text(alone.document) == WRITTEN_OUT


WORDS = st.sampled_from(
    ["1e-4", "0o17", "010", "12:30", "yes", "=", "~", "2024-01-01", "#", "é", " a "]
)
SCALARS = st.one_of(
    st.integers(-9, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.booleans(),
    st.none(),
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, ANY, min_size=1, max_size=3))
def test_what_is_written_reads_as_what_it_was(tree):
    document = Document("r.yaml")
    fill(document, written_out.text(Document("x.yaml", tree, bases=("y.yaml",))), {})
    assert document.problems == []
    assert document.tree == tree
    assert repr(document.tree) == repr(tree)
