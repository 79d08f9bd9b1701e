"""Environment variables in texts: `${NAME}` and `${NAME:-default}`. Their values are not shown."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hpt_dist.errors import HptError, Problem, RecipeError, RequestError

# As a shell takes it, where a path may begin with a variable.
_BARE = re.compile(r"(?:^|[/:])\$([A-Za-z_][A-Za-z0-9_]*)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
# The address of the store, which every command shows.
_SHOWN = frozenset({"HPT_STORE"})
_SHORTEST = 4  # characters of a value that is hidden: shorter ones are parts of any text


@dataclass(frozen=True)
class Used:
    """The variables of one text.

    Args:
        written: the text as it was written, which is what messages show.
        values: what the environment had for them, by name; a default is no such value.
    """

    written: str
    values: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def filled(
    text: str, environment: Mapping[str, str], *, is_shell: bool = False
) -> tuple[str, Used]:
    """Return a text with its variables filled in, and which these are.

    Args:
        text: as it is written.
        environment: the variables.
        is_shell: whether it is shell, in which other forms of `${` stay as they are.

    Raises:
        RequestError: a variable is neither set nor has a default, or is written in another way.
    """
    values: dict[str, str] = {}
    names: list[str] = []

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        names.append(name)
        if environment.get(name):
            values[name] = environment[name]
            return environment[name]
        if default is None:
            raise RequestError(
                f"the environment variable {name} is not set",
                fix=f"export {name}=..., or write ${{{name}:-default}}",
            )
        return str(default)

    if not is_shell and (bare := _BARE.search(text)):
        what = f"${bare[1]} stands for no variable here"
        raise RequestError(what, fix=f"write ${{{bare[1]}}}")
    if not is_shell and "${" in _VARIABLE.sub("", text):
        what = "${ begins no variable here"
        raise RequestError(what, fix="write ${NAME} or ${NAME:-default}, without braces inside")
    return _VARIABLE.sub(value, text), Used(text, values, tuple(dict.fromkeys(names)))


@contextlib.contextmanager
def hidden(used: Iterable[Used]) -> Iterator[None]:
    """Show `${NAME}` in place of a variable's value in the errors that are raised inside."""
    values = {
        part: f"${{{name}}}"
        for one in used
        for name, value in one.values.items()
        for part in (value, value.partition("://")[2].partition("/")[0])
        if name not in _SHOWN and len(part) >= _SHORTEST
    }

    def without(text: str) -> str:
        for value in sorted(values, key=len, reverse=True):
            text = text.replace(value, values[value])
        return text

    def rewritten(problem: Problem) -> Problem:
        parts = (problem.what, problem.where, problem.allowed, problem.fix)
        return Problem(*map(without, parts))

    try:
        yield
    except HptError as error:
        error.args = (without(str(error)),)
        error.problem = rewritten(error.problem)
        if isinstance(error, RecipeError):
            error.problems = tuple(map(rewritten, error.problems))
        raise
