"""Commands, one file each: a file is imported when its command is called, not to list it."""

from __future__ import annotations

import contextlib
import keyword
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

HELP = {"help_option_names": ["-h", "--help"]}
# What stands for a value in help texts, by the type that typer names.
_STANDS_FOR = {"int": "N", "integer": "N", "float": "X", "str": "TEXT"}


class Verb(TyperCommand):
    """A command whose help names values plainly: RUN, FOLDER, N."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the name in the usage line; what may be left out is in brackets."""
        names = [(argument.required, _name(argument)) for argument in _arguments(self, ctx)]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for required, name in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        arguments = _arguments(self, ctx)
        records = [(one, one.get_help_record(ctx)) for one in self.get_params(ctx)]
        shown = [(one, record) for one, record in records if record]
        rows = [(_name(one), text) for one, (_, text) in shown if one in arguments]
        options = [(_plain(name), text) for one, (name, text) in shown if one not in arguments]
        for title, listed in (("Arguments", rows), ("Options", options)):
            if listed:
                with formatter.section(title):
                    formatter.write_dl(listed)


def _arguments(command: Any, ctx: Any) -> list[Any]:
    return [one for one in command.get_params(ctx) if one.param_type_name == "argument"]


def _name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs != 1 and not name.endswith("...") else name


def _plain(option: str) -> str:
    """Return an option with a word for its value: `--cores N` for `--cores <int range>`."""
    found = re.compile(r"<(?:list\[)?(\w+)[^>]*>")
    return found.sub(lambda one: _STANDS_FOR.get(one[1], one[1].upper()), option)


class Verbs(TyperGroup):
    """A group of commands, each a function in a file of its name.

    Its subclasses give `package`, where the files are, and `names`: the commands in the order of
    the help, each with the first sentence of its own help, so that a list of them imports none.
    """

    package: ClassVar[str]
    names: ClassVar[Mapping[str, str]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The base class takes suggestions for misspelt names and their order from here.
        self.commands: dict[str, Any] = {**dict.fromkeys(self.names), **self.commands}
        self._only_listed = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a command, or None if there is none of that name."""
        if cmd_name not in self.names:
            return self.commands.get(cmd_name)
        if self._only_listed:
            return TyperCommand(cmd_name, help=self.names[cmd_name])
        # What is called as a keyword or a built-in of Python has an underscore more.
        file = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = import_module(f"{self.package}.{file}")
        function = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        alone = typer.Typer(
            add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
        )
        alone.command(cmd_name, cls=Verb, context_settings=HELP)(function)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, whole sentences."""
        with self._listing(), formatter.section("Commands"):
            commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
            formatter.write_dl([(name, one.help.split("\n")[0]) for name, one in commands.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the commands, or options, that a shell offers for a word that was begun."""
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    @contextlib.contextmanager
    def _listing(self) -> Iterator[None]:
        """Let commands be known by name and help alone."""
        self._only_listed = True
        try:
            yield
        finally:
            self._only_listed = False
