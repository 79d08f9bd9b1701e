"""Read a recipe from YAML; report every problem at once with file:line and key path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import Field

from hpt_dist.errors import Problem
from hpt_dist.recipe import named, reported, sweeps
from hpt_dist.recipe.figures import FIGURES, MOST_FIGURES, Figure
from hpt_dist.recipe.kinds import KINDS
from hpt_dist.recipe.kinds.stage import CANDIDATES, StageSpec
from hpt_dist.recipe.plugins import Kind, Plugin
from hpt_dist.recipe.presets import filled
from hpt_dist.recipe.settings import OPERATIONAL, Image, Mlflow, Spec
from hpt_dist.recipe.sweeps import Axis
from hpt_dist.recipe.validation import validated
from hpt_dist.recipe.yaml_document import (
    Document,
    KeyPath,
    apply,
    fill,
    read,
    refuse_variables,
)
from hpt_dist.recipe.yaml_values import shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MOST_GENERATIONS = 100  # of stages that start from each other: a trial names all that it inherits


@dataclass(frozen=True)
class Point:
    """One concrete point of a stage's sweep.

    Args:
        axes: the swept settings by key path, in the recipe's order; empty without a sweep.
        spec: the settings at this point; those of the first candidate where validation chooses.
        candidates: what validation chooses from here, by the chosen settings; empty without.
    """

    axes: Mapping[str, Axis]
    spec: StageSpec
    candidates: tuple[Point, ...] = ()

    @property
    def tried(self) -> tuple[StageSpec, ...]:
        """The settings that run and read here: those of its candidates, or its own."""
        return tuple(one.spec for one in self.candidates) or (self.spec,)


@dataclass(frozen=True)
class Recipe:
    """A valid recipe: what `plan.make` turns into trials.

    Args:
        name: also the name of the MLflow experiment, unless `mlflow` names another.
        store: URI of the store; empty for the usual one, see `store.paths.usual_store`.
        datasets: the recipe's short names to dataset names in the store, or full URIs.
        backbone: a torchvision or timm model name, or what an installed package offers.
        image: how images enter the network.
        stages: the points of each stage, parents before children.
        report: the figures to end with, if any.
        document: gives `file:line key` of key paths, for problems found later.
        plugins: what other distributions offer of what it names, by kind and name.
        mlflow: where MLflow shows its runs.
    """

    name: str
    store: str
    datasets: Mapping[str, str]
    backbone: str
    image: Image
    stages: Mapping[str, tuple[Point, ...]]
    report: tuple[Figure, ...]
    document: Document
    plugins: Mapping[tuple[Kind, str], Plugin] = field(default_factory=dict)
    mlflow: Mlflow = field(default_factory=Mlflow)

    def where(self, *path: str | int) -> str:
        """Return `file:line key.path` of a key."""
        return self.document.where(path)

    def report_path(self, figure: int) -> KeyPath:
        """Return the key path of a figure: where there is one, it may be no list."""
        is_list = isinstance(self.document.tree["report"], list)
        return ("report", figure) if is_list else ("report",)


class _Home(Spec):
    """What leads to the launches of a recipe."""

    name: str
    store: str = Field(
        "",
        min_length=1,
        description="folder or s3://BUCKET/PREFIX; without it that of --store, of HPT_STORE, or "
        "./hpt-store",
    )


class _Head(_Home):
    """The top level of the file; stages are validated one by one, each by its kind."""

    datasets: dict[str, str] = Field(default_factory=dict)
    backbone: str
    image: Image = Image()
    stages: dict[str, Any] = Field(min_length=1)
    report: Any = Field(None, description="the figure to end with, or a list of them")
    mlflow: Mlflow = Mlflow()


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
    known = os.environ if environment is None else environment
    document = read(Path(path), known)
    for override in overrides:
        apply(document, override, known)
    return validate(document)


def home(path: Path | str, store: str = "") -> tuple[str, str]:
    """Return the name and the store's URI of a recipe, whatever else is wrong with it.

    The URI is empty where it names none.

    Args:
        path: the YAML file.
        store: takes the place of its own.

    Raises:
        RecipeError: one of them is missing or wrong.
        RequestError: the file cannot be read.
    """
    document = read(Path(path), os.environ)
    tree = document.tree if isinstance(document.tree, dict) else {}
    raw = {key: tree[key] for key in _Home.model_fields if key in tree}
    found = validated(document, _Home, raw | ({"store": store} if store else {}), ())
    if found is None or (not store and ("store",) in document.unread):
        raise document.refusal()
    return found.name, found.store


def parse(
    text: str, file: str = "recipe.yaml", environment: Mapping[str, str] | None = None
) -> Recipe:
    """Validate a recipe given as text; see `load`."""
    document = Document(file)
    fill(document, text, os.environ if environment is None else environment)
    return validate(document)


def validate(document: Document) -> Recipe:
    """Turn plain data into a recipe.

    Raises:
        RecipeError: with every problem.
    """
    if document.tree is None and document.problems:
        raise document.refusal()
    refuse_variables(document, _is_local, "store, datasets, mlflow, and a stage's resources")
    head = validated(document, _Head, document.tree, ())
    points: dict[str, tuple[Point, ...]] = {}
    plugged: dict[tuple[Kind, str], Plugin] = {}
    figures: tuple[Figure, ...] = ()
    stages = named.mapping(document, "stages")
    if sweeps.fit(document, stages):
        points = {name: _stage(document, name, raw) for name, raw in stages.items()}
    if isinstance(document.tree, dict):
        _check_names(document)
        named.check(document)
        figures = reported.checked(document, stages)
        plugged = named.plugged(document)
        named.check_backbone(document, plugged)
    if head is None or document.problems:
        raise document.refusal()
    ordered = _parents_first(document, points)
    if not document.problems:
        starts = {s: [(p.axes.get("seed"), p.spec.parent) for p in points[s]] for s in ordered}
        tried = {s: [c.spec.parent for c in points[s][0].candidates] for s in ordered}
        sweeps.check_trials(document, stages, starts, tried)
    if document.problems:
        raise document.refusal()
    return Recipe(
        name=head.name,
        store=head.store,
        datasets=head.datasets,
        backbone=head.backbone,
        image=head.image,
        stages={name: points[name] for name in ordered},
        report=figures,
        document=document,
        plugins=plugged,
        mlflow=head.mlflow,
    )


def _is_local(path: KeyPath) -> bool:
    """Return whether a key says where things are, or what a machine gives: it is in no trial's key.

    Names and the report are written to records, which are the same wherever they are read.
    """
    if path[:1] != ("stages",) or len(path) < 3:
        return path[:1] in (("store",), ("datasets",), ("mlflow",))
    fields = [kind.model_fields.get(str(path[2])) for kind in KINDS.values()]
    # A preset is in no key itself, and what it fills in is.
    return path[2] != "preset" and any(f and f.json_schema_extra == OPERATIONAL for f in fields)


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
        if spec.CHOOSES:
            kind["properties"]["choose"] = {
                **kind["properties"]["sweep"],
                "description": "values to try by key path; the best combination on val is the "
                "result, and it alone reads test",
            }
        # A swept field stands in `sweep`, not beside it, so only `kind` is required here.
        kind["required"] = ["kind"]
        kinds.append(kind)
    head["properties"]["stages"]["additionalProperties"] = {"oneOf": kinds}
    figures = []
    for figure in FIGURES.values():
        one = figure.model_json_schema()
        head["$defs"].update(one.pop("$defs", {}))
        figures.append(one)
    several = {"type": "array", "items": {"oneOf": figures}, "maxItems": MOST_FIGURES}
    head["properties"]["report"] |= {"oneOf": [*figures, several, {"type": "null"}]}
    return head


def _stage(document: Document, name: str, raw: Any) -> tuple[Point, ...]:
    path: KeyPath = ("stages", name)
    if not isinstance(raw, dict):
        document.problem(path, "a stage is a mapping", allowed="kind: ..., and its settings")
        return ()
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        what = f"unknown kind {shown(str(kind))}" if "kind" in raw else "kind is missing"
        hint = document.nearest(str(kind), KINDS)
        document.problem((*path, "kind"), what, ", ".join(KINDS), hint)
        return ()
    settings = {key: value for key, value in raw.items() if key not in ("sweep", "choose")}
    spec, written = KINDS[kind], raw.get("choose", {})
    sweep = sweeps.checked(document, path, spec, raw.get("sweep", {}), settings)
    beside = {**settings, **(sweep or {})}
    choose = sweeps.checked(document, path, spec, written, beside, "choose")
    if sweep is None or choose is None:
        return ()
    points = []
    noted: set[Problem] = set()
    for axes in sweeps.combinations(sweep):
        tried = []
        for chosen in sweeps.combinations(choose):
            found = _point(document, path, kind, settings, axes | chosen, noted)
            tried += [Point(chosen, found)] if found else []
        if tried:
            own = tuple(Point({"init": one.parent}, one) for one in tried[0].spec.tries())
            points.append(Point(axes, tried[0].spec, tuple(tried) if choose else own))
    return tuple(points)


def _point(
    document: Document,
    path: KeyPath,
    kind: str,
    settings: dict[str, Any],
    axes: Mapping[str, Axis],
    noted: set[Problem],
) -> StageSpec | None:
    """Return a stage's settings at one point; a fault that many points share is noted once."""
    inner = replace(document, problems=[], left_out=0)
    raw = sweeps.substituted(KINDS[kind], settings, axes)
    spec = validated(inner, KINDS[kind], filled(kind, raw), path)
    fresh = [problem for problem in inner.problems if problem not in noted]
    noted.update(fresh)
    for problem in fresh:
        document.note(problem)
    return spec


def _check_names(document: Document) -> None:
    allowed = "up to 100 letters, digits, '.', '_' and '-', starting with a letter or digit"
    names = [(("name",), document.tree.get("name"))]
    for path, name in [*names, *((("stages", s), s) for s in named.mapping(document, "stages"))]:
        if isinstance(name, str) and not _NAME.fullmatch(name):
            document.problem(path, f"{shown(name)!r} cannot be a name", allowed)
    stages = named.mapping(document, "stages")
    for stage, raw in stages.items():
        name = f"{stage}{CANDIDATES}"
        if isinstance(raw, dict) and raw.get("choose") and name in stages:
            what = f"{shown(name)} is the name of what {shown(stage)} chooses from"
            document.problem(("stages", name), what, fix="give this stage another name")


def _parents_first(document: Document, points: Mapping[str, tuple[Point, ...]]) -> list[str]:
    """Return the stages by generations; note a stage that starts, in the end, from itself."""
    place = {stage: n for n, stage in enumerate(points)}
    sorter = TopologicalSorter(
        {
            stage: {
                name
                for p in its
                for one in (p, *p.candidates)
                for name in (one.spec.parent, *one.spec.compared)
                if name
            }
            for stage, its in points.items()
        }
    )
    try:
        sorter.prepare()
    except CycleError as error:
        stage = min(error.args[1], key=place.__getitem__)
        document.problem(("stages", stage), f"{stage} starts, in the end, from itself")
        return list(points)
    ordered: list[str] = []
    generations = 0
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place.__getitem__)
        ordered += ready
        sorter.done(*ready)
        generations += 1
        if generations > _MOST_GENERATIONS:
            what = f"more than {_MOST_GENERATIONS} stages start from each other, up to {ready[0]}"
            document.problem(("stages", ready[0]), what)
            break
    return ordered
