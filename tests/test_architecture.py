"""docs/architecture.md against the code: layers, and the specs' entries in the dicts."""

import ast
import re
from pathlib import Path

from hpt_dist import plan, recipe

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpt_dist"


def layers():
    """Return the layer of each module, as the page says."""
    found = {}
    page = (ROOT / "docs/architecture.md").read_text()
    for number, modules in re.findall(r"^\| (\d) \| (.+?) \|", page, re.MULTILINE):
        found |= {name.rstrip("/"): int(number) for name in re.findall(r"`([\w/]+)`", modules)}
    return found


def module_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Yield the modules of this package that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "hpt_dist":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hpt_dist."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("hpt_dist."))


def test_every_module_has_a_layer_and_every_layer_its_modules():
    there = {module_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert there == set(layers())


def test_imports_go_downwards():
    layer = layers()
    wrong = [
        f"{path.relative_to(ROOT)} (layer {layer[module_of(path)]}) imports {name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.parent != PACKAGE
        for name in imports(path)
        if name in layer and layer[name] > layer[module_of(path)]
    ]
    # The trial's process looks up its own runner; nothing else may reach upwards.
    assert wrong == []


def test_outside_systems_have_one_adapter():
    homes = {
        "accelerate": {"train"},
        "submitit": {"slurm", "shard_jobs", "trial_task", "probe"},
        "mlflow": {"mlflow_run"},
        "boto3": {"s3_client"},
        # Processes that run our own code start in one place; a trial's talks through its pipe.
        "multiprocessing": {"children", "worker"},
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
    from hpt_dist.assemble import RUNNERS
    from hpt_dist.evals import EVALS
    from hpt_dist.methods import METHODS

    assert set(recipe.KINDS) == set(RUNNERS) == set(plan.STAGE_VERSIONS)
    assert set(EVALS) <= set(recipe.KINDS)
    methods = recipe.Pretrain.model_fields["method"].annotation.__args__
    assert set(methods) <= set(METHODS)


def test_files_and_functions_stay_small():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 600, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 70, f"{path}:{node.lineno} {node.name} has {length} lines"
