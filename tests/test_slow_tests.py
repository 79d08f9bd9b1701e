"""The list of slow tests, and what becomes of a run with a slow test that is not on it."""

import ast
from pathlib import Path

import pytest
import slow_tests

pytest_plugins = ["pytester"]

TESTS = """
import time
import pytest

@pytest.mark.parametrize("mail", ["a@b", "c"])
def test_slow(mail):
    time.sleep(0.2)

def test_fast():
    pass
"""


@pytest.mark.parametrize(
    ("ci", "listed", "deep", "named", "status"),
    [
        ("true", "test_x.py::test_slow[a@b]  a reason", "", "c", 1),
        ("true", "test_x.py::test_slow[a@b]  one\ntest_x.py::test_slow[c]  another", "", "", 0),
        ("true", "test_x.py::test_slow[a@b]  a reason", "--deep", "c", 0),
        ("", "# a comment\ntest_x.py::test_slow[c]  a reason", "", "a@b", 0),
    ],
)
def test_a_slow_test_that_is_not_listed_is_named_and_fails_ci(
    pytester, monkeypatch, ci, listed, deep, named, status
):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(slow_tests, "LIMIT_S", 0.1)
    monkeypatch.setattr(slow_tests, "LIST", pytester.makefile(".txt", listed))
    pytester.makepyfile(test_x=TESTS)
    option = 'parser.addoption("--deep", action="store_true")'
    pytester.makeconftest(f"def pytest_addoption(parser): {option}")
    result = pytester.runpytest_inprocess("-p", "slow_tests", *deep.split())
    assert result.ret == status
    result.assert_outcomes(passed=3)
    reported = [line.split(" took ")[0] for line in result.outlines if "list it in" in line]
    assert reported == ([f"test_x.py::test_slow[{named}]"] if named else [])


def test_a_name_is_the_same_on_every_worker():
    assert slow_tests.name_of("t.py::test_x[a@b]@group") == "t.py::test_x[a@b]"
    assert slow_tests.name_of("t.py::test_x@group") == "t.py::test_x"
    assert slow_tests.name_of("t.py::test_x[a@b]") == "t.py::test_x[a@b]"


def test_the_list_names_tests_that_exist_each_with_a_reason():
    for name, reason in slow_tests.listed().items():
        file, _, test = name.partition("::")
        tree = ast.parse(Path(__file__).parent.parent.joinpath(file).read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert test.partition("[")[0] in names, name
        assert reason
