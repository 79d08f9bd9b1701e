"""The packages' rows, their adapters, the kinds' entries in the dicts, and the page about them."""

import ast
import functools
import re
from pathlib import Path
from typing import Literal

from hpt_dist import recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpt_dist"
PAGE = (ROOT / "docs/architecture.md").read_text()


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
advice doctor
cli
"""
ROW = {name: row for row, names in enumerate(ROWS.split("\n")) for name in names.split()}
# What plans, starts, looks and prints: importing it imports no torch.
LIGHT = "cli doctor launch report slurm trial datasets sources recipe tracking store"


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}


@functools.cache
def nodes_of(path):
    """Return all nodes of a file, its module first."""
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path, everywhere=True):
    """Yield the modules of this package that a file imports, at its top or in functions too."""
    nodes = nodes_of(path)
    for node in nodes if everywhere else nodes[0].body:
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
        for node in nodes_of(path):
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
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 70, f"{path}:{node.lineno} {node.name} has {length} lines"


def top_level_names(path):
    """Return the names that a module defines, those inside its classes as `Class.name`."""
    names = set()
    for node in nodes_of(path)[0].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = [one for one in node.body if isinstance(one, ast.FunctionDef)]
            names |= {f"{node.name}.{one.name}" for one in inside}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_light_packages_import_no_torch():
    left = [module for module in MODULES if module.split(".")[0] in LIGHT.split()]
    seen = set()
    while left:
        module = left.pop()
        seen.add(module)
        for node in nodes_of(MODULES[module])[0].body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                tops = {name.split(".")[0] for name in [*named, getattr(node, "module", "")]}
                assert not tops & {"torch", "torchvision", "timm", "mlflow"}, module
        left += {m for m in imported(MODULES[module], everywhere=False) if m in MODULES} - seen


def test_the_page_shows_the_rows_and_the_imports():
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {(name, int(row)) for row, name in listed} == set(ROW.items())
    assert [int(row) for row, _ in listed] == sorted(ROW.values())
    arrows = re.findall(r"^ +(\w+) --> ([\w &]+)$", PAGE, re.MULTILINE)
    reached = {}
    for name, to in sorted(arrows, key=lambda arrow: ROW[arrow[0]]):
        found = to.split(" & ")
        reached[name] = {*found, *(far for near in found for far in reached.get(near, ()))}
    there = {
        (module.split(".")[0], other.split(".")[0])
        for module, path in MODULES.items()
        for other in imported(path)
    }
    drawn = {(name, one) for name, to in arrows for one in to.split(" & ")}
    assert drawn <= there
    left_out = {"errors", "page"}
    assert {
        (name, one)
        for name, one in there
        if one not in {name, *left_out} and one not in reached.get(name, ())
    } == set()


def test_the_page_names_what_there_is():
    pages = PAGE + (ROOT / "docs/adding.md").read_text()
    for name in re.findall(r"`([a-z_0-9]+(?:\.\w+)+)`", pages):
        if name.split(".")[0] not in ROW:
            continue
        parts = name.split(".")
        heads = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        module = next(head for head in heads if head in MODULES)
        rest = name.removeprefix(module).removeprefix(".")
        assert not rest or rest in top_level_names(MODULES[module]), name
