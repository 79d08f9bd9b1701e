"""YAML from anywhere, by each reader: it has one meaning, or is refused with its place, soon."""

import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch.lookup import facts
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.yaml_document import Document, fill
from hpt_dist.slurm import profile
from hpt_dist.store import open_store

RECIPE = """\
name: small
backbone: timm/resnet18
stages:
  base: {kind: import, weights: random}
"""


def stand_ins(path, _environment):
    return facts(recipe_file.parse(RECIPE), open_store("/nowhere"), path)


READERS = [lambda path, env: recipe_file.load(path, [], env), profile.load, stand_ins]


def read_value(text):
    """Return what stands behind `a:`, and the problems."""
    document = Document("r.yaml")
    fill(document, f"a: {text}", {})
    tree = document.tree
    return tree["a"] if isinstance(tree, dict) else None, list(map(str, document.problems))


def bomb(first):
    """Return ten lines that stand for a milliard of values, below given lines."""
    lines = [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join([*first, "x:", "  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", *lines, ""])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("2024-99-99", "2024-99-99"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("1:30", "1:30"),
        ("1" + ":00" * 200 + ".0", "1" + ":00" * 200 + ".0"),
        ("0o17", "0o17"),
        ("0b11", 3),
        ("0x10", 16),
        ("1_000", 1000),
        ("00", 0),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("-1.5E+3", -1500.0),
        ("yes", True),
        ("~", None),
        ("=", "="),
        ("<<", "<<"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_each_value_has_one_meaning(text, value):
    assert read_value(text) == (value, [])
    assert type(read_value(text)[0]) is type(value)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("!!int ''", "is no whole number"),
        ("!!float ''", "is no number"),
        ("!!float 1:30", "is no number"),
        ("!!bool x", "not of the type !!bool"),
        ("!!null x", "not of the type !!null"),
        ("!!timestamp x", "the tag !!timestamp"),
        ("!!binary aGk=", "the tag !!binary"),
        ("!!set {x}", "the tag !!set"),
        ("!!omap [x: 1]", "the tag !!omap"),
        ("!!python/object/apply:os.system [ls]", "the tag !!python/object"),
        ("!own x", "the tag !own"),
        ("!!map [x]", "the tag !!map"),
        ("010", "8 in YAML 1.1 and 10 in YAML 1.2"),
        (".nan", "finite"),
        ("-.INF", "finite"),
        ("1e400", "finite"),
        ("0x" + "f" * 4000, "less than 2**64"),
        ("9" * 5000, "less than 2**64"),
        ('"\\UFFFFFFFF"', "not valid YAML"),
        ('"\\ud800"', "lone surrogate"),
        ('"\\0"', "control character U+0000"),
        ('"\\x1b[31m"', "control character U+001B"),
        ("{<<: {b: 1}}", "not merged"),
        ("{? [b] : 1}", "single value"),
        ("{'': 1}", "can be no key"),
        ('{"\\x1b[31m": 1}', "can be no key"),
        ("{!!binary aGk=: 1}", "the tag !!binary"),
        ("{b: 1, b: 2}", "stands twice"),
        ("&b [*b]", "contains itself"),
        ("&b {c: [1, *b]}", "contains itself"),
        ("*b", "undefined alias"),
        ("[" * 1000, "inside each other"),
        ("x" * 20_000, "longer than 10,000"),
        ("${A:-${B}}", "begins no variable"),
        ("${A:-" * 1900, "begins no variable"),
        ("${A:-0x}0x" + "f" * 40 + "}", None),
        ("b\n---\nc", "expected a single document"),
        ("\tb", "not valid YAML"),
        ("b\x07", "U+0007"),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_line(text, printed):
    document = Document("r.yaml")
    fill(document, f"\n# nothing\r\na: {text}\n", {})
    if printed is None:
        assert document.problems == []
        return
    [problem] = document.problems
    assert printed in problem.what
    line = 4 if "---" in text else 3
    assert problem.where.startswith(f"r.yaml:{line}"), problem


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("data", "where"),
    [
        (RECIPE.encode("utf-16"), "1: cannot read"),
        (b"a: 1\nb: caf\xe9\n", "2: cannot read"),
        (b"%YAML 99.1\n---\na: 1\n", "1: not valid YAML"),
        (b"%YAML 1." + b"9" * 5000 + b"\n---\na: 1\n", "1: not valid YAML"),
        (b"a: 1\rb: \x1b[31m\r", "2: not valid YAML"),
        (b"a: [1,\n", "2: not valid YAML"),
        (b"a: 1\n---\na: 2\n", "2: not valid YAML"),
        (bomb(["a: 1", "b: 2"]).encode(), "4: more than 50,000 values"),
        (b"a: 1\nb: " + b"[" * 200 + b"\n", "2: more than 50 lists"),
        (b"# x\n" * 260_000, " larger than 1,000,000 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_each_reader_names_the_line(tmp_path, read, data, where):
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    began_s = time.process_time()
    with pytest.raises(RequestError) as caught:
        read(path, {})
    assert time.process_time() - began_s < 4
    text = str(caught.value)
    assert f"{path}:{where}" in text or (where[0] == " " and where in text), text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    nowhere = [tmp_path / name for name in ("pipe", "socket", "missing", "x" * 3000)]
    for path in (*nowhere, tmp_path, "/dev/zero"):
        with pytest.raises(RequestError, match="cannot read the"):
            read(tmp_path / path, {})


@pytest.mark.parametrize("text", [RECIPE.replace("\n", "\r"), "\ufeff" + RECIPE])
def test_other_editors_files_are_the_same_recipe(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode())
    assert recipe_file.load(path).stages == recipe_file.parse(RECIPE).stages


def test_an_option_is_read_like_a_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    bombs = "{a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]" + "".join(
        f", {name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for value, printed in [
        (f"{bombs}}}", "more than 50,000 values"),
        ("[" * 500, "inside each other"),
        ("!!int ''", "is no whole number"),
        ("a\udcff", "U+DCFF"),
        ("# nothing", "no value"),
    ]:
        with pytest.raises(RequestError) as caught:
            recipe_file.load(path, [f"image.size={value}"])
        assert "\n--set image.size: " in str(caught.value)
        assert printed in str(caught.value)
    for override in ("a\udcff=1", ".".join("a" * 500) + "=1", "=1", "a..b=1"):
        with pytest.raises(RequestError, match=r"allowed: key\.path=value"):
            recipe_file.load(path, [override])


def test_a_home_that_nobody_has_is_named_at_its_line():
    text = RECIPE.replace("random", "~no-such-user/x.pt")
    with pytest.raises(RequestError, match=r"r\.yaml:4 stages\.base\.weights: ~ stands for no"):
        facts(recipe_file.parse(text, "r.yaml"), open_store("/nowhere"))


def test_many_problems_are_listed_to_a_limit_and_counted():
    text = RECIPE + "".join(f"setting{n}: 1\n" for n in range(5000))
    began_s = time.process_time()
    with pytest.raises(RequestError) as caught:
        recipe_file.parse(text)
    assert time.process_time() - began_s < 3
    assert len(caught.value.problems) == 101
    assert "and 4,900 more problems" in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "images"), [("1000000000", "{train: 5}"), ("5", "{train: -1}"), ("x", "{}")]
)
def test_stand_ins_are_checked_setting_by_setting(tmp_path, classes, images):
    path = tmp_path / "s.yaml"
    path.write_text(f"\nphotos: {{classes: {classes}, images: {images}}}\n")
    with pytest.raises(RequestError, match=r"s\.yaml:2 photos\."):
        stand_ins(path, {})


# What a mutated file is made of: other fuzz suites can draw from it too.
SCALARS = st.one_of(
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["!!int ''", "!x y", "*a", "&a b", "${A}", "${A:-", "2024-01-01", "<<", "? x"]),
).map(str)
FLOWS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(inner, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)
PATHS = ["name", "stages", "stages.base", "stages.base.weights", "stages.base.sweep", "image.size"]


@given(st.sampled_from(PATHS), FLOWS)
def test_no_value_brings_a_traceback(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "given.yaml"
    path.write_text(RECIPE)
    try:
        recipe_file.load(path, [f"{key}={value}"], {"A": "secret-value"})
    except HptError as error:
        assert error.exit_code == 2
        assert "secret-value" not in str(error)
        assert all(problem.where for problem in error.problems)
