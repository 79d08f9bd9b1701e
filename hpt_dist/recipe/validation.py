"""Plain data against pydantic's models, with every fault in words at its place in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from hpt_dist.recipe import variables
from hpt_dist.recipe.yaml_document import MOST_PROBLEMS, Document, KeyPath
from hpt_dist.recipe.yaml_values import shown

S = TypeVar("S", bound=BaseModel)

# JSON's and Python's words, and ours.
_WORDS = {
    "a valid array": "a list",
    "an object": "a mapping of settings",
    "Dictionary": "this",
    "Tuple": "the list",
    " after validation": "",
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LARGEST_EXACT = 2**53  # of a float's whole numbers


def validated(document: Document, spec: type[S], raw: Any, path: KeyPath) -> S | None:
    """Validate plain data against a spec; note every fault and return None if there is one."""
    try:
        # JSON's rules make 224 no string and "224" no number, and still a list a tuple.
        return spec.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            _note(document, spec, (*path, *fault["loc"]), cast("dict[str, Any]", fault))
        return None


def _note(document: Document, spec: type[BaseModel], path: KeyPath, fault: dict[str, Any]) -> None:
    if len(document.problems) >= MOST_PROBLEMS:
        document.left_out += 1
        return
    key = shown(str(path[-1])) if path else ""
    kind, context = fault["type"], fault.get("ctx", {})
    used = _used(document, path)
    # What was written, not what its variables hold.
    given = shown(used.written if used else repr(fault["input"]))
    if kind == "extra_forbidden":
        owner = _spec_at(spec, fault["loc"][:-1])
        known = _names(owner)
        if instead := getattr(owner, "INSTEAD", {}).get(key):
            document.problem(path, f"hpt-dist sets {key} itself", fix=instead)
        else:
            document.problem(
                path, f"unknown setting {key}", ", ".join(known), document.nearest(key, known)
            )
    elif kind == "misfit":
        place = (*path, *context["setting"].split("."))
        document.problem(place, context["what"], context["allowed"], context["fix"])
    elif kind == "missing":
        document.problem(path, f"{key} is missing", fix=f"add {key}")
    elif kind == "literal_error":
        allowed = str(context["expected"]).replace("'", "")
        choices = re.split(", | or ", allowed)
        hint = "" if used else document.nearest(str(fault["input"]), choices)
        document.problem(path, f"{given} is not known", allowed, hint)
    else:
        what = fault["msg"].removeprefix("Value error, ")
        is_single = isinstance(fault["input"], str | int | float)
        more = f" (given: {given})" if is_single else ""
        for theirs, ours in _WORDS.items():
            what = what.replace(theirs, ours)
        fix = "" if used else _fix(kind, fault["input"])
        document.problem(path, shown(what[0].lower() + what[1:], 500) + more, fix=fix)


def _fix(kind: str, given: Any) -> str:
    """Return how a value of another type is to be written; empty where nobody can know."""
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "put it in quotes, so that it is a text"
    if kind in ("tuple_type", "list_type") and isinstance(given, str):
        return f"write a list: [{shown(given)}]"
    if kind in ("int_type", "int_from_float") and isinstance(given, float) and given.is_integer():
        return f"write {int(given)}" if abs(given) < _LARGEST_EXACT else ""
    if kind in ("int_type", "float_type") and isinstance(given, str) and _NUMBER.fullmatch(given):
        return "write it without quotes"
    is_none = isinstance(given, str) and given.lower() in ("none", "null")
    if is_none or (given is False and kind not in ("int_type", "float_type")):
        return "null stands for none, where a setting may have none"
    return ""


def _used(document: Document, path: KeyPath) -> variables.Used | None:
    """Return the variables that a value, or one that it stands inside of, was filled from."""
    heads = (path[:length] for length in range(len(path), -1, -1))
    return next((document.used[head] for head in heads if head in document.used), None)


def fields_at(spec: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return the field names of the spec that stands at a path inside another."""
    return _names(_spec_at(spec, path))


def _names(spec: type[BaseModel]) -> list[str]:
    return [one.alias or name for name, one in spec.model_fields.items()]


def _spec_at(spec: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """Return the spec that stands at a path inside another."""
    for key in path:
        annotation = spec.model_fields[str(key)].annotation if key in spec.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        spec = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), spec)
    return spec
