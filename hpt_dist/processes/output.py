"""What processes print: any text on any terminal, and nothing that the terminal would obey."""

from __future__ import annotations

import io
import logging
import sys
from typing import TextIO

from hpt_dist.page import printable


class PrintableFormatter(logging.Formatter):
    """Formats log lines whose texts, such as names of other people's files, are safe to show."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and its traceback."""
        return printable(super().format(record))


def encode_any_text() -> None:
    """Let standard output and error write what their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests have others
            stream.reconfigure(errors="backslashreplace")


def log_lines(
    level: int, stream: TextIO, form: str, dates: str | None = None, *, force: bool = False
) -> None:
    """Print log records as lines.

    Args:
        level: the least to print.
        stream: where to.
        form: of a line, in `logging`'s words.
        dates: of its time, if it has one.
        force: print them nowhere else; without it nothing changes where they are printed already.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter(form, dates))
    logging.basicConfig(level=level, handlers=[handler], force=force)
