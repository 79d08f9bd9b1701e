"""What processes print: any text on any terminal, nothing that it would obey, and no secret."""

from __future__ import annotations

import io
import logging
import os
import stat
import sys
import traceback
from types import TracebackType
from typing import TextIO

from hpt_dist.errors.secrets import without_secrets
from hpt_dist.page import printable


def safe(text: str) -> str:
    """Return a text as it may be shown: printable, and without secrets."""
    return printable(without_secrets(text))


class SafeFormatter(logging.Formatter):
    """Formats log lines as they may be shown."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and its traceback."""
        return safe(super().format(record))


def encode_any_text() -> None:
    """Let standard output and error write what their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests have others
            stream.reconfigure(errors="backslashreplace")


def leave_terminal() -> None:
    """Print to nowhere what went to a terminal that has been closed: writing there is an error."""
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


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
    handler.setFormatter(SafeFormatter(form, dates))
    logging.basicConfig(level=level, handlers=[handler], force=force)


def guard_errors() -> None:
    """Print lines without a log's handler, and the error that ends the process, as safely."""
    sys.excepthook = _print_traceback
    if logging.lastResort:
        logging.lastResort.setFormatter(SafeFormatter())


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(safe("".join(traceback.format_exception(kind, error, trace))))
