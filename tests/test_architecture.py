"""The packages' rows, their adapters, and the specs' entries in the dicts."""

import ast
from pathlib import Path
from typing import Literal

from hpt_dist import recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpt_dist"


# Each package imports from the rows above its own.
ROWS = """
errors page
processes store
tracking
recipe
images
sources
datasets
reading networks
weights methods
train
evals trial
stages slurm report
launch
doctor
cli
"""
ROW = {name: row for row, names in enumerate(ROWS.split("\n")) for name in names.split()}


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}


def imported(path):
    """Yield the modules of this package that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Either a name inside a module, or a module inside a package.
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [x if x.removeprefix("hpt_dist.") in MODULES else node.module for x in inside]
        else:
            continue
        yield from (x.removeprefix("hpt_dist.") for x in names if x.startswith("hpt_dist."))


def test_packages_import_from_the_rows_above():
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in imported(path)
        if (home := module.split(".")[0]) != (there := other.split(".")[0])
        if there in ROW and ROW[there] >= ROW[home]
    ]
    assert wrong == []


def test_modules_import_in_no_circle():
    left = {module: set(imported(path)) & set(MODULES) for module, path in MODULES.items()}
    while free := [module for module, others in left.items() if not others & set(left)]:
        for module in free:
            del left[module]
    assert left == {}


def test_outside_systems_have_one_adapter():
    homes = {
        "accelerate": {"train.loop"},
        "submitit": {"slurm.commands", "launch.slurm_process", "doctor.node"},
        "mlflow": {"tracking.mlflow_run"},
        "boto3": {"store.s3_client"},
        # Processes that run our own code start in one place; a trial's talks through its pipe.
        "multiprocessing": {"processes.children", "processes.workers", "launch.process"},
    }
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                home = homes.get(name.split(".")[0])
                assert home is None or module_of(path) in home, f"{path} imports {name}"


def test_every_kind_has_its_code():
    from hpt_dist.methods import METHODS
    from hpt_dist.stages.runners import RUNNERS

    assert set(recipe.KINDS) == set(RUNNERS)
    for name, spec in recipe.KINDS.items():
        assert spec.model_fields["kind"].annotation == Literal[name]
        file = spec.__module__.rpartition(".")[2]
        assert RUNNERS[name].__module__ == f"hpt_dist.stages.{file}"
        assert RUNNERS[name].__annotations__["spec"] == spec.__name__
    assert set(recipe.METHOD_SETTINGS) <= set(METHODS)
    assert recipe.Pretrain.model_fields["method"].default in METHODS


def test_files_and_functions_stay_small():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 600, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 70, f"{path}:{node.lineno} {node.name} has {length} lines"
