"""The section `report` of a recipe against its stages: the figures, and what they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpt_dist.recipe.figures import BEST, FIGURES, MOST_FIGURES, Figure, kind_of
from hpt_dist.recipe.kinds import KINDS
from hpt_dist.recipe.kinds.similarity import MATRICES, always
from hpt_dist.recipe.sweeps import ZIP
from hpt_dist.recipe.validation import validated
from hpt_dist.recipe.yaml_document import Document, KeyPath
from hpt_dist.recipe.yaml_values import listed, shown


def checked(document: Document, stages: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Return the figures that a recipe asks for; every fault of them is noted.

    Args:
        document: the recipe.
        stages: the plain data of its stages.
    """
    raw = document.tree.get("report") if isinstance(document.tree, dict) else None
    if raw is None:
        return ()
    if isinstance(raw, list):
        if not 0 < len(raw) <= MOST_FIGURES:
            document.problem(("report",), f"a report has 1 to {MOST_FIGURES} figures")
            return ()
        found = [_figure(document, one, ("report", at), stages) for at, one in enumerate(raw)]
        return tuple(filter(None, found))
    figure = _figure(document, raw, ("report",), stages)
    return (figure,) if figure else ()


def _figure(
    document: Document, raw: Any, path: KeyPath, stages: Mapping[str, Any]
) -> Figure | None:
    kinds = ": STAGE, ".join(FIGURES) + ": STAGE"
    if not isinstance(raw, dict):
        document.problem(path, "a figure is a mapping of settings", f"one of {kinds}, and rows")
        return None
    kind = kind_of(raw)
    if not kind:
        named = [one for one in FIGURES if one in raw]
        what = f"it is {' and '.join(named)} at once" if named else "it names no kind of figure"
        close = next(filter(None, (document.nearest(str(key), FIGURES) for key in raw)), "")
        document.problem(path, what, f"one of {kinds}", close)
        return None
    figure = validated(document, FIGURES[kind], raw, path)
    written = raw[kind] if isinstance(raw[kind], list) else [raw[kind]]
    for number, stage in enumerate(written):
        place = (*path, kind, number) if isinstance(raw[kind], list) else (*path, kind)
        if isinstance(stage, str):
            _check_stage(document, raw, stage, path, place, stages)
    return figure


def _check_stage(
    document: Document,
    raw: Mapping[str, Any],
    stage: str,
    path: KeyPath,
    place: KeyPath,
    stages: Mapping[str, Any],
) -> None:
    """Check a stage that a figure names, and that its trials have the axes and the metric."""
    if stage not in stages:
        close = document.nearest(stage, stages)
        document.problem(place, f"no stage {shown(stage)}", listed(stages), close)
        return
    body = stages[stage] if isinstance(stages[stage], dict) else {}
    kind, metric = KINDS.get(str(body.get("kind"))), raw.get("metric")
    if kind_of(raw) == "matrix" and "rows" not in raw and "columns" not in raw:
        fix = "name rows and columns; a stage of kind similarity alone has its own"
        if _compares(document, body, (*path, "rows"), "rows is missing", fix):
            _check_matrix(document, body, raw, path)
        return
    is_given = raw.get("reference") is not None or (*path, "reference") in document.unread
    if kind_of(raw) == "curve" and is_given:
        what = f"{shown(stage)} compares no trials"
        fix = "leave reference out, or name a stage of kind similarity"
        if _compares(document, body, (*path, "reference"), what, fix):
            _check_matrix(document, body, raw, path)
            _check_axes(document, [stage, *_names(body.get("of"))], raw, path, stages)
        return
    if kind and kind.METRICS and isinstance(metric, str) and metric not in kind.METRICS:
        what = f"{stage} has no metric {shown(metric)}"
        close = document.nearest(metric, kind.METRICS)
        document.problem((*path, "metric"), what, ", ".join(kind.METRICS), close)
    _check_axes(document, [stage], raw, path, stages)


def _check_axes(
    document: Document,
    sources: Sequence[str],
    raw: Mapping[str, Any],
    path: KeyPath,
    stages: Mapping[str, Any],
) -> None:
    """Check that the trials of some stages have the axes that a figure names."""
    axes = [axes_of(source, stages) for source in sources]
    own = dict.fromkeys(axis for ours, _ in axes for axis in ours)
    inherited = dict.fromkeys(axis for _, theirs in axes for axis in theirs)
    known = {*own, *inherited, *(one.partition(".")[2] for one in inherited)}
    body = stages.get(sources[0])
    is_similarity = isinstance(body, dict) and body.get("kind") == "similarity"
    for key in ("rows", "columns", "panels"):
        axis = raw.get(key)
        if isinstance(axis, str) and axis not in known:
            what = f"{' and '.join(sources)} have" if len(sources) > 1 else f"{sources[0]} has"
            close = document.nearest(axis, known)
            if is_similarity and kind_of(raw) == "curve" and "reference" not in raw:
                close = f"give a reference, such as {BEST}, to draw what it compares"
            what += f" no sweep over {shown(axis)}"
            document.problem((*path, key), what, listed([*own, *inherited]), close)


def _compares(
    document: Document, body: Mapping[str, Any], place: KeyPath, what: str, fix: str
) -> bool:
    """Return whether a stage compares trials, as a figure takes it to; note it if not."""
    if body.get("kind") == "similarity":
        return True
    document.problem(place, what, fix=fix)
    return False


def _check_matrix(
    document: Document, body: Mapping[str, Any], raw: Mapping[str, Any], path: KeyPath
) -> None:
    """Check that a similarity stage has the matrix that a figure names."""
    known = [one for one in MATRICES if always(one) or body.get("flattened")]
    metric = raw.get("metric")
    if isinstance(metric, str) and metric not in known:
        what = f"there is no matrix {shown(metric)}"
        close = document.nearest(metric, known)
        document.problem((*path, "metric"), what, ", ".join(known), close)


def _names(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def axes_of(stage: str, stages: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return what a stage sweeps over, and what the stages that it starts from sweep over.

    Args:
        stage: its name.
        stages: the plain data of all stages, which may have faults.

    Returns:
        Its own axes, and the inherited ones as `stage.axis`.
    """
    own, inherited = _swept(stages.get(stage)), dict[str, None]()
    seen, left = {stage}, _parents(stages.get(stage))
    while left:
        parent = left.pop()
        if parent in seen or parent not in stages:
            continue
        seen.add(parent)
        inherited |= dict.fromkeys(f"{parent}.{axis}" for axis in _swept(stages[parent]))
        left += _parents(stages[parent])
    return list(own), list(inherited)


def _swept(raw: Any) -> dict[str, Any]:
    sweep = raw.get("sweep") if isinstance(raw, dict) else None
    together = sweep.get(ZIP) if isinstance(sweep, dict) else None
    if not isinstance(sweep, dict) or not isinstance(together, dict):
        return sweep if isinstance(sweep, dict) else {}
    return {key: values for key, values in sweep.items() if key != ZIP} | together


def _parents(raw: Any) -> list[str]:
    """Return the names of the stages that a stage starts from."""
    init = raw.get("init") if isinstance(raw, dict) else None
    swept = _swept(raw).get("init")
    return [
        one for one in (init, *(swept if isinstance(swept, list) else ())) if isinstance(one, str)
    ]
