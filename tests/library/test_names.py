"""The names of the package: loaded when they are used, and the same for type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hpt_dist

HEAVY = ("torch", "boto3", "mlflow", "pydantic", "numpy", "hpt_dist.")


def test_importing_the_package_loads_nothing():
    code = "import sys, hpt_dist; dir(hpt_dist); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if name.startswith(HEAVY)] == []


def test_planning_loads_no_torch_boto3_or_mlflow():
    code = "import sys, hpt_dist; hpt_dist.plan, hpt_dist.open_dataset; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "boto3", "mlflow"} & set(done.stdout.split())


def test_every_name_is_there_and_listed():
    assert set(hpt_dist.__all__) <= set(dir(hpt_dist))
    assert list(hpt_dist.__all__) == sorted(hpt_dist.__all__)
    for name in hpt_dist.__all__:
        value = getattr(hpt_dist, name)
        assert value.__name__ == name
        assert value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'trane_loader'"):
        hpt_dist.trane_loader  # noqa: B018


def test_type_checkers_see_what_is_loaded():
    tree = ast.parse(Path(hpt_dist.__file__).read_text())
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        node.module.removeprefix("hpt_dist."): tuple(alias.name for alias in node.names)
        for node in typed.body
    }
    assert seen == hpt_dist._HOMES
    assert sorted(name for names in seen.values() for name in names) == hpt_dist.__all__
