"""A YAML file as plain data that knows where each of its keys stands.

What is added to the values is positions, refusal of repeated keys, environment variables, and
`--set` overrides.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from hpt_dist.errors import Problem, RecipeError, RequestError, nearest
from hpt_dist.errors.secrets import is_secret
from hpt_dist.recipe import variables, yaml_values
from hpt_dist.recipe.yaml_values import Unreadable, listed, shown

KeyPath = tuple[str | int, ...]

MOST_PROBLEMS = 100  # that a message lists
_HINTS = 20  # problems that get a "did you mean": it takes milliseconds
_OPTION = "--set"
_NO_MERGE = "write the settings out, or repeat a whole value by its alias: optimizer: *name"
_DEEPEST_OVERRIDE = 10  # keys in a path


@dataclass
class Document:
    """A YAML file as plain data, with the place of every key; messages call it a `kind`.

    Args:
        file: its path, or `--set` of what an option gives.
        tree: the plain data.
        places: `file:line` or `--set` by key path.
        problems: at most `MOST_PROBLEMS`.
        kind: what messages call it.
        shell_keys: top-level keys whose texts are shell, which has forms of `${` of its own.
        used: the variables that its values were filled from, by key path.
        unread: the key paths of values that have a problem already: what follows from it is none.
        left_out: how many problems are not in `problems`.
        text: the file as it was read.
        options: what `--set` changed, in its order.
        bases: the files that it extends, nearest first; see `extending`.
        values: how many values were read into it, those of its bases too.
    """

    file: str
    tree: Any = None
    places: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    kind: str = "recipe"
    shell_keys: frozenset[str] = frozenset()
    used: dict[KeyPath, variables.Used] = field(default_factory=dict)
    unread: set[KeyPath] = field(default_factory=set)
    left_out: int = 0
    text: str = ""
    options: list[str] = field(default_factory=list)
    bases: tuple[str, ...] = ()
    values: int = 0

    def sorted_problems(self) -> list[Problem]:
        """Return the problems in the order of the files' lines; those of options come first."""
        found = sorted(self.problems, key=lambda problem: self._line(problem.where))
        if self.left_out:
            found.append(Problem(f"and {self.left_out:,} more problems", self.file))
        return found

    def refusal(self) -> RequestError:
        """Return the error with every problem."""
        problems = self.sorted_problems()
        if self.kind == "recipe":
            return RecipeError(problems)
        title = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the {self.kind}"
        return RequestError("\n".join([title, *map(str, problems)]))

    def place(self, path: KeyPath) -> str:
        """Return `file:line` or `--set`; a missing key has the place of the nearest above it."""
        heads = (path[:length] for length in range(len(path), -1, -1))
        return next((self.places[head] for head in heads if head in self.places), self.at(1))

    def at(self, line: int) -> str:
        """Return how a line of this document is called."""
        return _OPTION if self.file == _OPTION else f"{self.file}:{line}"

    def where(self, path: KeyPath) -> str:
        """Return `file:line key.path`, or `--set key.path`."""
        return f"{self.place(path)} {_dotted(path)}".rstrip()

    def problem(self, path: KeyPath, what: str, allowed: str = "", fix: str = "") -> None:
        """Note one more problem at a key, unless its value has one already."""
        if not any(path[:length] in self.unread for length in range(len(path) + 1)):
            self.note(Problem(what, self.where(path), allowed, fix))

    def unreadable(self, path: KeyPath, what: str, allowed: str = "", fix: str = "") -> None:
        """Note that a value has no meaning, so that nothing else is asked of it."""
        self.problem(path, what, allowed, fix)
        self.unread.add(path)

    def note(self, problem: Problem) -> None:
        """Note one more problem, or that there are too many to list."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)
        else:
            self.left_out += 1

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """Return `did you mean X?` for a name; empty once there are many problems."""
        return nearest(name, known) if len(self.problems) < _HINTS else ""

    def _line(self, where: str) -> tuple[int, int]:
        for place, file in enumerate((self.file, *self.bases)):
            if where.startswith(file) and (found := re.match(r":(\d+)", where[len(file) :])):
                return place, int(found[1])
        return -1, 0


def read(
    path: Path,
    environment: Mapping[str, str],
    kind: str = "recipe",
    shell_keys: frozenset[str] = frozenset(),
    values: int = 0,
) -> Document:
    """Read a file; problems are noted when it is not YAML.

    Args:
        path: the file.
        environment: what `${NAME}` and `${NAME:-default}` refer to.
        kind: what messages call it.
        shell_keys: top-level keys whose texts are shell.
        values: how many values the files that it belongs to have already.

    Raises:
        RequestError: it cannot be read, is no file, is too large or is not UTF-8.
    """
    text = _text(path, kind)
    document = Document(str(path), kind=kind, shell_keys=shell_keys, text=text, values=values)
    fill(document, text, environment)
    return document


def _text(path: Path, kind: str) -> str:
    def refused(what: str, line: str = "", fix: str = "name a YAML file") -> RequestError:
        return RequestError(f"cannot read the {kind}: {what}", where=f"{path}{line}", fix=fix)

    try:
        # A pipe would block, and a device may have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise refused("it is a folder, a pipe or a device")
        with path.open("rb") as file:
            data = file.read(yaml_values.MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise refused(str(error)) from error
    if len(data) > yaml_values.MOST_BYTES:
        raise refused(f"it is larger than {yaml_values.MOST_BYTES:,} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise refused(what, f":{line}", "save the file as UTF-8") from error


def fill(document: Document, text: str, environment: Mapping[str, str], path: KeyPath = ()) -> None:
    """Parse a text into the document, noting every problem in it.

    Args:
        document: gets the tree.
        text: YAML.
        environment: what `${NAME}` refers to.
        path: the key path at which the text's value stands.
    """
    document.text = document.text or text
    try:
        node = yaml_values.composed(text)
        if node is not None:
            document.tree = _Reading(document, environment).value(node, path)
        elif document.file == _OPTION:
            document.problem(path, "no value", fix="put a text that begins with # in quotes")
        else:
            fix = "start with name: and stages:" if document.kind == "recipe" else ""
            document.problem((), f"the {document.kind} is empty", fix=fix)
    except Unreadable as error:
        where = f"{document.at(error.line)} {_dotted(path)}".rstrip()
        document.note(Problem(error.what, where))


class _Reading:
    """Turns the nodes of a document into plain data; notes places, problems and variables."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._open: set[int] = set()  # the nodes that the one being read is inside of

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the plain data of a node."""
        line = node.start_mark.line + 1
        self._document.values += 1
        if self._document.values > yaml_values.MOST_VALUES:
            raise Unreadable(yaml_values.too_many(), line)
        self._document.places.setdefault(path, self._document.at(line))
        if id(node) in self._open:
            what = "this value contains itself: an alias inside its anchor"
            self._document.unreadable(path, what)
            return None
        if fault := yaml_values.fault_of_tag(node):
            self._document.unreadable(path, fault, allowed="plain values, without tags")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
            return self._scalar(cast("yaml.ScalarNode", node), path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in tree:
                what = f"the key {shown(key)} stands twice: lines {lines[key]} and {line}"
                self._document.problem(path, what, fix="keep one of them")
            lines.setdefault(key, line)
            self._document.places.setdefault((*path, key), self._document.at(line))
            tree[key] = self.value(value_node, (*path, key))
        return tree

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        """Return a key; None where it is none that a setting can have, which is noted."""
        what, fix = yaml_values.fault_of_tag(node), ""
        key = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not isinstance(node, yaml.ScalarNode):
            what = "a key is a single value"
        elif key == "<<":
            what, fix = "keys are not merged here by <<", _NO_MERGE
        elif not yaml_values.is_key(key):
            what = (
                f"{shown(key)!r} can be no key: it is empty, too long, or holds a control character"
            )
        if what:
            where = f"{self._document.at(node.start_mark.line + 1)} {_dotted(path)}".rstrip()
            self._document.note(Problem(what, where, fix=fix))
        return None if what else key

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            if "$" not in node.value:
                return yaml_values.scalar_value(node.tag, node.value)
            is_shell = bool(path) and path[0] in self._document.shell_keys
            text, used = variables.filled(node.value, self._environment, is_shell=is_shell)
            if used.names:
                self._document.used[path] = used
            # A variable's text is read as YAML reads it, so ${STEPS} can be a number.
            is_quoted = node.style in ("'", '"')
            return yaml_values.joined(text) if is_quoted else yaml_values.plain_value(text)
        except RequestError as error:
            self._document.unreadable(path, error.problem.what, fix=error.problem.fix)
        except ValueError as error:
            is_filled = (
                path in self._document.used
            )  # the message would show what it was filled with
            what = f"{shown(node.value)} holds no value of a setting" if is_filled else str(error)
            self._document.unreadable(path, f"this cannot be read: {what}")
        return None


def apply(document: Document, override: str, environment: Mapping[str, str]) -> None:
    """Put one `key.path=value` into the tree; a number in the path is a place in a list."""
    path, equals, text = override.partition("=")
    names = tuple(path.split("."))
    is_path = all(map(yaml_values.is_key, names)) and len(names) <= _DEEPEST_OVERRIDE
    if not equals or not is_path:
        allowed = "key.path=value, such as stages.hpt.steps=100"
        document.note(Problem(f"{_OPTION} {shown(override)}", allowed=allowed))
        return
    holder, keys = _holder_of(document, names)
    inner = Document(_OPTION, kind=document.kind)
    fill(inner, text or "''", environment, keys)
    if inner.tree is None and inner.problems:
        inner.unread.add(keys)
    for problem in inner.problems:
        document.note(problem)
    if holder is None:
        return
    holder[keys[-1]] = inner.tree
    document.options.append(override)
    for places in (document.places, document.used):
        for old in [one for one in places if one[: len(keys)] == keys]:
            del places[old]
    document.unread -= {one for one in document.unread if one[: len(keys)] == keys}
    document.places |= inner.places
    document.used |= inner.used
    document.unread |= inner.unread


def _holder_of(document: Document, names: tuple[str, ...]) -> tuple[Any, KeyPath]:
    """Return the mapping or list that a value is put into, and the value's key path.

    Mappings are made where they are missing. Where nothing can hold the value, which is noted, it
    is None.
    """
    holder: Any = document.tree
    keys: KeyPath = ()
    for name in names:
        if fault := _misplaced(document, holder, keys, names):
            document.note(fault)
            return None, names
        key = int(name) if isinstance(holder, list) else name
        keys = (*keys, key)
        if len(keys) < len(names):
            if isinstance(holder, dict) and key not in holder:
                document.places[keys] = _OPTION
                holder[key] = {}
            holder = holder[key]
    return holder, keys


def _misplaced(
    document: Document, holder: Any, keys: KeyPath, names: tuple[str, ...]
) -> Problem | None:
    """Return why the next name of an option's path leads nowhere in what the others lead to."""
    name, where, above = names[len(keys)], f"{_OPTION} {_dotted(names)}", _dotted(keys)
    if isinstance(holder, dict):
        if keys != ("stages",) or len(names) == len(keys) + 1 or name in holder:
            return None
        return Problem(
            f"no stage {shown(name)}", where, listed(holder), document.nearest(name, holder)
        )
    if not isinstance(holder, list):
        return Problem(f"{above or 'the file'} holds no other settings", where)
    places = [str(place) for place in range(len(holder))]
    if name in places:
        return None
    allowed = f"{above}.0 to {above}.{places[-1]}" if places else ""
    fix = f"name a place, or give all of it: {_OPTION} '{above}=[...]'"
    return Problem(f"{above} is a list, whose places are numbers", where, allowed, fix)


def refuse_variables(
    document: Document, is_allowed: Callable[[KeyPath], bool], allowed: str
) -> None:
    """Note a problem for each variable where none may be.

    Args:
        document: read, with all overrides.
        is_allowed: whether a key's value may come from variables.
        allowed: in words, where they may be.
    """
    for path, used in list(document.used.items()):
        names = " and ".join(f"${{{name}}}" for name in used.names)
        if secret := next(filter(is_secret, used.names), None):
            what = f"${{{secret}}} is a secret by its name, and would be written to files and logs"
            fix = "leave it out: credentials are read from the environment where they are needed"
            _blank(document, path)
            document.unreadable(path, what, fix=fix)
        elif not is_allowed(path):
            what = f"{names} cannot set this: the same text must mean the same everywhere"
            by_shell = f', or have your shell fill it in: {_OPTION} "KEY.PATH=$NAME"'
            fix = "write the value" + (by_shell if document.kind == "recipe" else "")
            _blank(document, path)
            document.unreadable(path, what, f"variables in {allowed}", fix)


def _blank(document: Document, path: KeyPath) -> None:
    """Take a value out of the tree, so that no other problem shows it."""
    if not path:
        document.tree = None
        return
    *above, last = path
    tree: Any = document.tree
    with contextlib.suppress(KeyError, IndexError, TypeError):  # the same key again took its place
        for key in above:
            tree = tree[key]
        tree[last] = None


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(shown(str(key)) for key in path)
