"""YAML text as nodes with limits, and the plain values of scalars; where two readings exist, none.

PyYAML's safe loader does the parsing. Unlike it, this reads 1e-4 as the number it is in YAML 1.2,
and dates and 12:30 as the texts they are; it refuses tags, numbers that are not finite, and 010,
which is 8 in YAML 1.1 and 10 in YAML 1.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, cast

import yaml
from yaml.reader import ReaderError

MOST_BYTES = 1_000_000  # of a file, a thousand times what a recipe needs
MOST_VALUES = 50_000  # of a file, those of repeated aliases counted each time
LONGEST = 10_000  # characters of a text
DEEPEST = 50  # lists and mappings inside each other

_LONGEST_KEY = 1_000
_STANDARD = "tag:yaml.org,2002:"
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TRUTH = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_NULLS = ("", "~", "null", "Null", "NULL")
_IMPLICIT = {
    "bool": (
        r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        "yYnNtTfFoO",
    ),
    "int": (r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}

_TAGS = {
    yaml.MappingNode: {f"{_STANDARD}map"},
    yaml.SequenceNode: {f"{_STANDARD}seq"},
    yaml.ScalarNode: {_STANDARD + name for name in ("str", *_IMPLICIT)},
}


class Unreadable(Exception):  # noqa: N818 - not a fault of ours
    """A text is not YAML, or is more of it than a person writes.

    Args:
        what: the fault.
        line: where it is, from 1.
    """

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what, self.line = what, line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with own rules for plain scalars, and with limits."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as its base class has it

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node, unless there are too many, or it lies too deep."""
        mark = cast("Any", self).peek_event().start_mark
        self._count += 1
        if self._count > MOST_VALUES:
            raise Unreadable(too_many(), mark.line + 1)
        if self._depth >= DEEPEST:
            raise Unreadable(
                f"more than {DEEPEST} lists and mappings are inside each other", mark.line + 1
            )
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that quotes the texts which would be read as something else here."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as its base class has it


for _name, (_pattern, _first) in _IMPLICIT.items():
    for _class in (_Loader, Dumper):
        _regexp = re.compile(f"^(?:{_pattern})$")
        _class.add_implicit_resolver(_STANDARD + _name, _regexp, list(_first))


def too_many() -> str:
    """Return in words that a text has too many values."""
    return f"more than {MOST_VALUES:,} values, counting an alias each time it is used"


def composed(text: str) -> yaml.Node | None:
    """Return the node of a text with one YAML document; None if it is empty.

    Raises:
        Unreadable: it is not YAML, or too much.
    """
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = (error.context, error.problem) if _goes_on(error.problem) else (error.problem,)
        what = f"not valid YAML: {', '.join(filter(None, parts))}"
        raise Unreadable(what, mark.line + 1 if mark else 1) from error
    except ReaderError as error:
        # PyYAML counts characters; a person counts lines.
        line = len(_BREAK.findall(text, 0, error.position)) + 1
        what = f"not valid YAML: it holds the character U+{error.character:04X}"
        raise Unreadable(what, line) from error
    except (ValueError, OverflowError) as error:  # such as "\UFFFFFFFF"
        what = "not valid YAML: an escape or a number that stands for nothing"
        raise Unreadable(what, loader.line + 1 if loader else 1) from error
    finally:
        if loader:
            loader.dispose()


def _goes_on(problem: str | None) -> bool:
    return not problem or problem.startswith("but ")


def fault_of_tag(node: yaml.Node) -> str:
    """Return why a node's tag cannot be used; empty for the tags of plain data."""
    if node.tag in _TAGS[type(node)]:
        return ""
    return f"the tag {shown(node.tag.replace(_STANDARD, '!!'))} cannot be used"


def plain_value(text: str) -> Any:
    """Return what an unquoted text stands for: a number, a truth value or itself.

    Raises:
        ValueError: it stands for nothing, or for two things.
    """
    for name, (pattern, _) in _IMPLICIT.items():
        if name != "null" and re.fullmatch(pattern, text):
            return scalar_value(_STANDARD + name, text)
    return joined(text)


def scalar_value(tag: str, text: str) -> Any:
    """Return the value of a scalar node.

    Args:
        tag: one that `fault_of_tag` allows.
        text: as it is written.

    Raises:
        ValueError: it stands for nothing, or for two things; in words.
    """
    name = tag.removeprefix(_STANDARD)
    if name == "int":
        return _whole(text)
    if name == "float":
        return _real(text)
    if name == "bool" and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if name == "null" and text in _NULLS:
        return None
    if name == "str":
        return joined(text)
    raise ValueError(f"{shown(text)} is not of the type !!{name}")


def joined(text: str) -> str:
    r"""Return a text with its surrogate pairs joined, as in "\ud83d\ude00".

    Raises:
        ValueError: half a pair is left, a control character is in it, or it is too long.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a text is longer than {LONGEST:,} characters")
    if not text.isascii():
        halves = text.encode("utf-16-le", "surrogatepass")
        try:
            text = halves.decode("utf-16-le")
        except UnicodeDecodeError as error:
            raise ValueError("a text holds half of a character (a lone surrogate)") from error
    if found := _CONTROL.search(text):
        raise ValueError(f"a text holds the control character U+{ord(found[0]):04X}")
    return text


def is_key(text: str) -> bool:
    """Return whether a text can be a key: not empty nor very long, and all of it can be written."""
    try:
        return 0 < len(joined(text)) <= _LONGEST_KEY
    except ValueError:
        return False


def shown(text: str, most: int = 60) -> str:
    """Return a text for a message; a long one is cut after so many characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def listed(names: Iterable[str]) -> str:
    """Return names for a message: all of them, or the first ones of many."""
    every = list(names)
    more = f", and {len(every) - 30:,} more" if len(every) > 30 else ""
    return ", ".join(map(shown, every[:30])) + more


def _whole(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) <= 100:  # of more, Python reads no decimal digits
        try:
            octal = re.fullmatch(r"[-+]?0[0-7]+", digits)
            value = int(digits, 8 if octal else 0)
        except ValueError as error:
            raise ValueError(f"{shown(text)!r} is no whole number") from error
        if octal and value != int(digits):
            raise ValueError(
                f"{text} is {value} in YAML 1.1 and {int(digits)} in YAML 1.2: write the one meant"
            )
        if abs(value) < 2**64:
            return value
    raise ValueError(f"{shown(text)} is no whole number less than 2**64")


def _real(text: str) -> float:
    try:
        value = float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))
    except ValueError as error:
        raise ValueError(f"{shown(text)!r} is no number") from error
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is no finite number")
    return value
