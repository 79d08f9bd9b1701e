"""Commands, one file each: a file is imported when its command is called, or for the help."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class Verbs(TyperGroup):
    """A group of commands, each a function in a file of its name.

    Its subclasses give `package`, where the files are, and `names`, in the order of the help.
    """

    package: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The base class takes suggestions for misspelt names and their order from here.
        self.commands: dict[str, Any] = {**dict.fromkeys(self.names), **self.commands}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a command, or None if there is none of that name."""
        if cmd_name in self.names:
            module = import_module(f"{self.package}.{cmd_name}")
            # One that is called as a built-in of Python has an underscore more.
            function = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
            alone = typer.Typer(
                add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
            )
            alone.command(cmd_name)(function)
            return typer.main.get_command(alone)
        return self.commands.get(cmd_name)
