"""What the names in a recipe stand for: stages, datasets, axes, methods and the backbone.

Plain data is checked, so that a fault here is reported beside those of single settings.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from hpt_dist.errors import RequestError
from hpt_dist.recipe import catalogue, plugins
from hpt_dist.recipe.groups import Groups
from hpt_dist.recipe.kinds import KINDS
from hpt_dist.recipe.plugins import Kind, Plugin
from hpt_dist.recipe.settings import LEAST_SIZE, MOST_SIZE, Image
from hpt_dist.recipe.sweeps import ZIP
from hpt_dist.recipe.yaml_document import Document, KeyPath
from hpt_dist.recipe.yaml_values import listed, shown

_STARTS = ("init", "candidates")  # the settings that name other stages


def check(document: Document, groups: Groups) -> None:
    """Check what names other stages and datasets, also in stages that have other faults."""
    stages, datasets = mapping(document, "stages"), mapping(document, "datasets")
    for stage, raw in stages.items():
        for key, name in _references(raw, groups):
            path = ("stages", stage, key)
            if key in _STARTS:
                _check_init(document, path, name, stages)
            elif key == "of":
                _check_compared(document, path, name, stages)
            elif (alias := name.split("/")[0]) not in datasets:
                document.problem(
                    path,
                    f"no dataset {shown(alias)} in this recipe",
                    listed(datasets) or "(datasets: is empty)",
                    document.nearest(alias, datasets) or f"add {shown(alias)} to datasets:",
                )


def _references(raw: Any, groups: Groups) -> list[tuple[str, str]]:
    """Return (setting, name) of each stage or dataset that a stage's plain data names."""
    found: list[tuple[str, str]] = []
    kind = KINDS.get(str(_at(raw, "kind")))
    if kind is None:
        return found
    compares = ("of",) if "of" in kind.model_fields else ()
    for path in (*_STARTS, *compares, *kind.DATA):
        found += [(path.partition(".")[0], name) for name in _written(raw, path, groups)]
    return list(dict.fromkeys(found))


def _check_init(document: Document, path: KeyPath, name: str, stages: dict[str, Any]) -> None:
    if name not in stages:
        others = [stage for stage in stages if stage != path[1]]
        hint = document.nearest(name, others)
        document.problem(path, f"no stage {shown(name)}", listed(others), hint)
    elif (kind := KINDS.get(str(_at(stages[name], "kind")))) and kind.LEAVES != "weights":
        what = f"{name} makes no weights to start from"
        fit = sorted(name for name, kind in KINDS.items() if kind.LEAVES == "weights")
        document.problem(path, what, "a stage of kind " + " or ".join(fit))


def _check_compared(document: Document, path: KeyPath, name: str, stages: dict[str, Any]) -> None:
    fit = [one for one, raw in stages.items() if _at(raw, "kind") == "linear"]
    if name not in fit:
        what = f"{shown(name)} is no linear evaluation, whose trials are compared"
        document.problem(path, what, listed(fit), document.nearest(name, fit))


def plugged(document: Document, groups: Groups) -> dict[tuple[Kind, str], Plugin]:
    """Return what other distributions offer of the methods and the backbone that are named."""
    named: list[tuple[Kind, KeyPath, str]] = []
    if isinstance(backbone := document.tree.get("backbone"), str):
        named.append(("backbone", ("backbone",), backbone))
    for stage, raw in mapping(document, "stages").items():
        kind = KINDS.get(str(_at(raw, "kind")))
        if kind and "method" in kind.model_fields:
            names = _written(raw, "method", groups) or [kind.model_fields["method"].default]
            named += [("method", ("stages", stage, "method"), name) for name in names]
    found = {}
    find = functools.cache(plugins.find)  # it reads the metadata of all distributions
    for what, path, name in dict.fromkeys(named):
        try:
            plugin = find(what, name)
        except RequestError as error:
            document.problem(path, error.problem.what, error.problem.allowed, error.problem.fix)
        else:
            if plugin:
                found[what, name] = plugin
    return found


def check_backbone(document: Document, offered: Mapping[tuple[Kind, str], Plugin]) -> None:
    """Check the backbone's name, and that it reads images of the recipe's size.

    Args:
        document: notes the problem.
        offered: what other distributions offer, see `plugged`.
    """
    name = document.tree.get("backbone")
    if (
        not isinstance(name, str)
        or ("backbone", name) in offered
        or name.startswith(f"{plugins.LIBRARY}/")
    ):
        return
    path: KeyPath = ("backbone",)
    if any(problem.where == document.where(path) for problem in document.problems):
        return
    try:
        network = catalogue.resolve(name)
        size = _at(document.tree, "image.size") or Image.model_fields["size"].default
        kinds = (KINDS.get(str(_at(raw, "kind"))) for raw in mapping(document, "stages").values())
        reads = any(kind and kind.DATA for kind in kinds)
        if network and reads and isinstance(size, int) and LEAST_SIZE <= size <= MOST_SIZE:
            path = ("image", "size")
            catalogue.check_size(network, size)
    except RequestError as error:
        problem = error.problem
        document.problem(path, problem.what, problem.allowed, problem.fix)


def _written(raw: Any, path: str, groups: Groups) -> list[str]:
    """Return the words that a stage's plain data has for a setting, in its sweep too."""
    values: list[Any] = []
    tried = [_at(raw, place) for place in ("sweep", "choose", f"sweep.{ZIP}", f"choose.{ZIP}")]
    for value in (_at(raw, path), *(one.get(path) for one in tried if isinstance(one, dict))):
        values += value if isinstance(value, list) else [value]
    return [word for value in values if isinstance(value, str) for word in groups.readings(value)]


def _at(raw: Any, path: str) -> Any:
    """Return the value at a key path of plain data; None where there is none."""
    for key in path.split("."):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def mapping(document: Document, key: str) -> dict[str, Any]:
    """Return the plain data of a mapping at the top level; empty where there is none."""
    value = document.tree.get(key) if isinstance(document.tree, dict) else None
    return value if isinstance(value, dict) else {}
