"""Read a recipe from YAML; report every problem at once with file:line and key path."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_origin

from pydantic import Field

from hpt_dist.errors import Problem, RecipeError, RequestError, nearest
from hpt_dist.recipe import plugins
from hpt_dist.recipe.kinds import KINDS
from hpt_dist.recipe.kinds.stage import StageSpec
from hpt_dist.recipe.plugins import Kind, Plugin
from hpt_dist.recipe.presets import filled
from hpt_dist.recipe.settings import Image, Report, Spec
from hpt_dist.recipe.yaml_document import (
    Document,
    KeyPath,
    apply,
    fields_at,
    fill,
    read,
    validated,
)

Axis = str | int | float | bool | None

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Point:
    """One concrete point of a stage's sweep.

    Args:
        axes: the swept settings by key path, in the recipe's order; empty without a sweep.
        spec: the settings at this point.
    """

    axes: Mapping[str, Axis]
    spec: StageSpec


@dataclass(frozen=True)
class Recipe:
    """A valid recipe: what `plan.make` turns into trials.

    Args:
        name: also the name of the MLflow experiment.
        store: URI of the store.
        datasets: the recipe's short names to dataset names in the store, or full URIs.
        backbone: a torchvision or timm model name, or what an installed package offers.
        image: how images enter the network.
        stages: the points of each stage, parents before children.
        report: the table to end with, if any.
        document: gives `file:line key` of key paths, for problems found later.
        plugins: what other distributions offer of what it names, by kind and name.
    """

    name: str
    store: str
    datasets: Mapping[str, str]
    backbone: str
    image: Image
    stages: Mapping[str, tuple[Point, ...]]
    report: Report | None
    document: Document
    plugins: Mapping[tuple[Kind, str], Plugin] = field(default_factory=dict)

    def where(self, *path: str | int) -> str:
        """Return `file:line key.path` of a key."""
        return self.document.where(path)


class _Head(Spec):
    """The top level of the file; stages are validated one by one, each by its kind."""

    name: str
    store: str = "./hpt-store"
    datasets: dict[str, str] = Field(default_factory=dict)
    backbone: str
    image: Image = Image()
    stages: dict[str, Any] = Field(min_length=1)
    report: Report | None = None


def load(
    path: Path | str,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the YAML file.
        overrides: `key.path=value` strings, applied before validation.
        environment: what `${NAME}` and `${NAME:-default}` refer to; the process's by default.

    Raises:
        RecipeError: with every problem found.
        RequestError: the file cannot be read.
    """
    document = read(Path(path), os.environ if environment is None else environment)
    for override in overrides:
        apply(document, override)
    if document.problems:
        raise RecipeError(document.sorted_problems())
    return validate(document)


def parse(
    text: str, file: str = "recipe.yaml", environment: Mapping[str, str] | None = None
) -> Recipe:
    """Validate a recipe given as text; see `load`."""
    document = Document(file)
    fill(document, text, os.environ if environment is None else environment)
    if document.problems:
        raise RecipeError(document.sorted_problems())
    return validate(document)


def validate(document: Document) -> Recipe:
    """Turn plain data into a recipe, or raise a RecipeError with every problem."""
    head = validated(document, _Head, document.tree, ())
    raw_stages = document.tree.get("stages") if isinstance(document.tree, dict) else None
    points: dict[str, tuple[Point, ...]] = {}
    plugged: dict[tuple[Kind, str], Plugin] = {}
    if isinstance(raw_stages, dict):
        for name, raw in raw_stages.items():
            points[name] = _stage(document, str(name), raw)
    if isinstance(document.tree, dict):
        _check_names(document)
        _check_references(document)
        _check_report(document)
        plugged = _plugged(document)
    if not document.problems and (stage := _cycle(points)):
        document.problem(("stages", stage), f"{stage} starts, in the end, from itself")
    if head is None or document.problems:
        raise RecipeError(document.sorted_problems())
    return Recipe(
        name=head.name,
        store=head.store,
        datasets=head.datasets,
        backbone=head.backbone,
        image=head.image,
        stages={name: points[name] for name in _parents_first(points)},
        report=head.report,
        document=document,
        plugins=plugged,
    )


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors."""
    head = _Head.model_json_schema()
    kinds = []
    for spec in KINDS.values():
        kind = spec.model_json_schema()
        head.setdefault("$defs", {}).update(kind.pop("$defs", {}))
        kind["properties"]["sweep"] = {
            "type": "object",
            "description": "values to try by key path; every combination is one trial",
            "additionalProperties": {"type": "array", "minItems": 1},
        }
        # A swept field stands in `sweep`, not beside it, so only `kind` is required here.
        kind["required"] = ["kind"]
        kinds.append(kind)
    head["properties"]["stages"]["additionalProperties"] = {"oneOf": kinds}
    return head


def _stage(document: Document, name: str, raw: Any) -> tuple[Point, ...]:
    path: KeyPath = ("stages", name)
    if not isinstance(raw, dict):
        document.problem(path, "a stage is a mapping", allowed="kind: ..., and its settings")
        return ()
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        what = f"unknown kind {kind}" if "kind" in raw else "kind is missing"
        document.problem((*path, "kind"), what, ", ".join(KINDS), nearest(str(kind), KINDS))
        return ()
    settings = {key: value for key, value in raw.items() if key != "sweep"}
    sweep = _sweep(document, path, KINDS[kind], raw.get("sweep", {}), settings)
    if sweep is None:
        return ()
    points = []
    noted: set[Problem] = set()
    for values in itertools.product(*sweep.values()):
        axes = dict(zip(sweep, values, strict=True))
        inner = Document(document.file, lines=document.lines)
        spec = validated(inner, KINDS[kind], filled(kind, _substituted(settings, axes)), path)
        # A fault shared by many points is one problem.
        fresh = [p for p in inner.problems if p not in noted]
        noted.update(fresh)
        document.problems += fresh
        if spec is not None:
            points.append(Point(axes, spec))
    return tuple(points)


def _sweep(
    document: Document, path: KeyPath, spec: type[StageSpec], raw: Any, settings: dict[str, Any]
) -> dict[str, list[Axis]] | None:
    """Check a sweep's shape; return None where it has a fault."""
    here = (*path, "sweep")
    if not isinstance(raw, dict):
        document.problem(here, "a sweep is a mapping of settings to lists of values")
        return None
    before = len(document.problems)
    for key, values in raw.items():
        _check_axis(document, (*here, key), spec, key, settings)
        _check_values(document, (*here, key), values)
    for key in settings:
        document.lines.setdefault((*here, key), document.lines.get((*path, key), 1))
    for key in raw:
        # A fault in a swept value is then reported at the sweep's line.
        document.lines.setdefault((*path, *key.split(".")), document.lines.get((*here, key), 1))
    return raw if len(document.problems) == before else None


def _check_axis(
    document: Document, path: KeyPath, spec: type[StageSpec], key: str, settings: dict[str, Any]
) -> None:
    """Check that a sweep's key is a setting, or one inside another, that nothing else sets."""
    outer, dot, _ = key.partition(".")
    known = [name for name in spec.model_fields if name != "kind"]
    if dot and outer in known and (nested := fields_at(spec, [outer])) != list(spec.model_fields):
        known = [f"{outer}.{name}" for name in nested]
    elif dot and outer in known and get_origin(spec.model_fields[outer].annotation) is dict:
        known = [key]  # whatever it is called: a method of somebody else's knows
    if key not in known:
        close = nearest(key, known)
        document.problem(path, f"cannot sweep over {key}", ", ".join(known), close)
    elif key in settings:
        what = f"{key} stands in the stage and in its sweep"
        document.problem(path, what, fix="keep one of them")


def _check_values(document: Document, path: KeyPath, values: Any) -> None:
    if not isinstance(values, list) or not values:
        document.problem(path, "a sweep needs a list of values", allowed="[value, ...]")
    elif any(isinstance(value, list | dict) for value in values):
        document.problem(path, "a sweep's values are single values")
    elif len(set(map(repr, values))) < len(values):
        document.problem(path, "a value stands twice", fix="keep one of them")


def _substituted(settings: dict[str, Any], axes: Mapping[str, Axis]) -> dict[str, Any]:
    tree = cast("dict[str, Any]", json.loads(json.dumps(settings, default=str)))
    for path, value in axes.items():
        *outer, last = path.split(".")
        inner = tree
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                break
        if isinstance(inner, dict):
            inner[last] = value
    return tree


def _check_names(document: Document) -> None:
    allowed = "letters, digits, '.', '_' and '-', starting with a letter or digit"
    names = [(("name",), document.tree.get("name"))]
    for path, name in [*names, *((("stages", s), s) for s in _mapping(document, "stages"))]:
        if isinstance(name, str) and not _NAME.fullmatch(name):
            document.problem(path, f"{name!r} cannot be a name", allowed)


def _check_references(document: Document) -> None:
    """Check what names other stages and datasets, also in stages that have other faults."""
    stages, datasets = _mapping(document, "stages"), _mapping(document, "datasets")
    for stage, raw in stages.items():
        for key, name in _references(raw):
            path = ("stages", stage, key)
            if key == "init":
                _check_init(document, path, name, stages)
            elif (alias := name.split("/")[0]) not in datasets:
                document.problem(
                    path,
                    f"no dataset {alias} in this recipe",
                    ", ".join(datasets) or "(datasets: is empty)",
                    nearest(alias, datasets) or f"add {alias} to datasets:",
                )


def _references(raw: Any) -> list[tuple[str, str]]:
    """Return (setting, name) of each stage or dataset that a stage's plain data names."""
    found: list[tuple[str, str]] = []
    kind = KINDS.get(str(_at(raw, "kind")))
    if kind is None:
        return found
    for path in ("init", *kind.DATA):
        found += [(path.partition(".")[0], name) for name in _written(raw, path)]
    return list(dict.fromkeys(found))


def _plugged(document: Document) -> dict[tuple[Kind, str], Plugin]:
    """Return what other distributions offer of the methods and the backbone that are named."""
    named: list[tuple[Kind, KeyPath, str]] = []
    if isinstance(backbone := document.tree.get("backbone"), str):
        named.append(("backbone", ("backbone",), backbone))
    for stage, raw in _mapping(document, "stages").items():
        kind = KINDS.get(str(_at(raw, "kind")))
        if kind and "method" in kind.model_fields:
            names = _written(raw, "method") or [kind.model_fields["method"].default]
            named += [("method", ("stages", stage, "method"), name) for name in names]
    found = {}
    for what, path, name in dict.fromkeys(named):
        try:
            plugin = plugins.find(what, name)
        except RequestError as error:
            document.problem(path, error.problem.what, error.problem.allowed, error.problem.fix)
        else:
            if plugin:
                found[what, name] = plugin
    return found


def _written(raw: Any, path: str) -> list[str]:
    """Return the words that a stage's plain data has for a setting, in its sweep too."""
    swept = raw.get("sweep") if isinstance(raw.get("sweep"), dict) else {}
    values: list[Any] = []
    for value in (_at(raw, path), swept.get(path)):
        values += value if isinstance(value, list) else [value]
    return [value for value in values if isinstance(value, str)]


def _at(raw: Any, path: str) -> Any:
    """Return the value at a key path of plain data; None where there is none."""
    for key in path.split("."):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def _check_init(document: Document, path: KeyPath, name: str, stages: dict[str, Any]) -> None:
    others = [stage for stage in stages if stage != path[1]]
    if name not in stages:
        document.problem(path, f"no stage {name}", ", ".join(others), nearest(name, others))
    elif (kind := KINDS.get(str(_at(stages[name], "kind")))) and kind.LEAVES != "weights":
        what = f"{name} makes no weights to start from"
        fit = sorted(name for name, kind in KINDS.items() if kind.LEAVES == "weights")
        document.problem(path, what, "a stage of kind " + " or ".join(fit))


def _check_report(document: Document) -> None:
    report, stages = _mapping(document, "report"), _mapping(document, "stages")
    table = report.get("table")
    if not isinstance(table, str):
        return
    if table not in stages:
        close = nearest(table, stages)
        document.problem(("report", "table"), f"no stage {table}", ", ".join(stages), close)
        return
    sweep = stages[table].get("sweep") if isinstance(stages[table], dict) else None
    axes = list(sweep) if isinstance(sweep, dict) else []
    for key in ("rows", "columns"):
        axis = report.get(key)
        if isinstance(axis, str) and axis not in axes:
            what = f"{table} has no sweep over {axis}"
            document.problem(("report", key), what, ", ".join(axes), nearest(axis, axes))


def _mapping(document: Document, key: str) -> dict[str, Any]:
    value = document.tree.get(key) if isinstance(document.tree, dict) else None
    return value if isinstance(value, dict) else {}


def _parents(points: Mapping[str, tuple[Point, ...]], stage: str) -> set[str]:
    return {point.spec.parent for point in points[stage] if point.spec.parent}


def _cycle(points: Mapping[str, tuple[Point, ...]]) -> str | None:
    """Return a stage that is its own ancestor."""
    for stage in points:
        reached, frontier = set[str](), _parents(points, stage)
        while frontier:
            reached |= frontier
            frontier = {p for name in frontier for p in _parents(points, name)} - reached
        if stage in reached:
            return stage
    return None


def _parents_first(points: Mapping[str, tuple[Point, ...]]) -> list[str]:
    ordered: list[str] = []
    while len(ordered) < len(points):
        ready = [s for s in points if s not in ordered and _parents(points, s) <= set(ordered)]
        ordered += ready
    return ordered
