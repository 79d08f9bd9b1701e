"""A YAML file as plain data that knows the line of each of its keys.

PyYAML's safe loader does the parsing; what is added is positions, refusal of repeated keys,
environment variables, `--set` overrides, and validation against pydantic's models.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from hpt_dist.errors import Problem, RequestError, nearest

KeyPath = tuple[str | int, ...]

S = TypeVar("S", bound=BaseModel)

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass
class Document:
    """A YAML file as plain data, with the line of every key; messages call it a `kind`."""

    file: str
    tree: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    kind: str = "recipe"

    def sorted_problems(self) -> list[Problem]:
        """Return the problems in the order of the file's lines."""
        return sorted(self.problems, key=lambda problem: _line(problem.where))

    def where(self, path: KeyPath) -> str:
        """Return `file:line key.path`; a missing key has the line of the nearest one above it."""
        at = next(
            (self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), 1
        )
        return f"{self.file}:{at} {'.'.join(map(str, path))}".rstrip()

    def problem(self, path: KeyPath, what: str, allowed: str = "", fix: str = "") -> None:
        """Note one more problem."""
        self.problems.append(Problem(what, self.where(path), allowed, fix))


def _line(where: str) -> int:
    found = re.search(r":(\d+)", where)
    return int(found[1]) if found else 0


class _Loader(yaml.SafeLoader):
    """YAML 1.1's safe loader, reading 1e-4 as the number it is in YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(path: Path, environment: Mapping[str, str], kind: str = "recipe") -> Document:
    """Read a file; RequestError when it cannot be read, problems noted when it is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"cannot read the {kind}: {error}", where=str(path), fix="name a YAML file"
        ) from error
    document = Document(str(path), kind=kind)
    fill(document, text, environment)
    return document


def fill(document: Document, text: str, environment: Mapping[str, str]) -> None:
    """Parse a text into the document, noting every problem in it."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            fix = "start with name: and stages:" if document.kind == "recipe" else ""
            document.problem((), f"the {document.kind} is empty", fix=fix)
        else:
            document.tree = _plain(document, loader, node, (), environment)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = f"not valid YAML: {error.problem or error.context}"
        document.problems.append(Problem(what, f"{document.file}:{line}"))
    except (yaml.YAMLError, RecursionError) as error:
        document.problems.append(Problem(f"not valid YAML: {error}", document.file))
    finally:
        if loader:
            loader.dispose()


def _plain(
    document: Document, loader: _Loader, node: yaml.Node, path: KeyPath, env: Mapping[str, str]
) -> Any:
    """Turn a YAML node into plain data, noting lines, repeated keys and unset variables."""
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            here = (*path, key)
            if key in tree:
                first = document.lines[here]
                document.problem(
                    path,
                    f"the key {key} stands twice: lines {first} and {key_node.start_mark.line + 1}",
                    fix="keep one of them",
                )
            document.lines.setdefault(here, key_node.start_mark.line + 1)
            tree[key] = _plain(document, loader, value_node, here, env)
        return tree
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(document, loader, item, (*path, n), env) for n, item in enumerate(node.value)
        ]
    if "${" in node.value:
        # A variable's text is read as YAML reads it, so ${STEPS} can be a number.
        filled = _interpolate(document, path, node.value, env)
        return filled if getattr(node, "style", None) in ("'", '"') else _scalar(filled)
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError) as error:  # such as the date 2024-99-99
        document.problem(path, f"{node.value[:40]!r} cannot be read: {error}")
        return None


def _scalar(text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, KeyError):
        return text
    return value if isinstance(value, int | float | bool) else text


def _interpolate(document: Document, path: KeyPath, text: str, env: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = env.get(name) or default
        if found is None:
            document.problem(
                path,
                f"the environment variable {name} is not set",
                fix=f"export {name}=..., or write ${{{name}:-default}}",
            )
            return ""
        return found

    return _VARIABLE.sub(value, text)


def apply(document: Document, override: str) -> None:
    """Put one `key.path=value` into the tree."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        document.problems.append(
            Problem(f"--set {override}", allowed="key.path=value, such as stages.hpt.steps=100")
        )
        return
    inner = Document(f"--set {override}")
    fill(inner, text or "''", os.environ)
    document.problems += inner.problems
    tree = document.tree
    for depth, key in enumerate(keys[:-1]):
        if not isinstance(tree, dict):
            break
        if depth == 1 and keys[0] == "stages" and key not in tree:
            document.problems.append(
                Problem(f"no stage {key}", f"--set {override}", ", ".join(tree), nearest(key, tree))
            )
            return
        tree = tree.setdefault(key, {})
    if not isinstance(tree, dict):
        document.problems.append(Problem("a part of the path is no mapping", f"--set {override}"))
        return
    tree[keys[-1]] = inner.tree


def validated(document: Document, spec: type[S], raw: Any, path: KeyPath) -> S | None:
    """Validate plain data against a spec; note every fault and return None if there is one."""
    try:
        # JSON's rules make 224 no string and "224" no number, and still a list a tuple.
        return spec.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            _note(document, spec, (*path, *fault["loc"]), cast("dict[str, Any]", fault))
        return None


def _note(document: Document, spec: type[BaseModel], path: KeyPath, fault: dict[str, Any]) -> None:
    key = str(path[-1]) if path else ""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        known = fields_at(spec, fault["loc"][:-1])
        document.problem(path, f"unknown setting {key}", ", ".join(known), nearest(key, known))
    elif kind == "missing":
        document.problem(path, f"{key} is missing", fix=f"add {key}")
    elif kind == "literal_error":
        allowed = str(context["expected"]).replace("'", "")
        choices = re.split(", | or ", allowed)
        document.problem(
            path, f"{fault['input']!r} is not known", allowed, nearest(str(fault["input"]), choices)
        )
    else:
        what = fault["msg"].removeprefix("Value error, ")
        given = fault["input"]
        shown = f" (given: {given!r})" if isinstance(given, str | int | float) else ""
        document.problem(path, what[0].lower() + what[1:] + shown)


def fields_at(spec: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Return the field names of the spec that stands at a path inside another."""
    for key in path:
        annotation = spec.model_fields[str(key)].annotation if key in spec.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        spec = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), spec)
    return list(spec.model_fields)
