"""What commands that write images of the evidence into a store have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from hpt_dist.errors import HptError
from hpt_dist.store import Store, marker, open_store


def main(
    write: Callable[[Store], None], program: str, about: str | None, words: Sequence[str] | None
) -> int:
    """Write into the store that a command line names; return the exit status.

    Args:
        write: writes, or finds that all is there.
        program: the command.
        about: what it writes, for its help.
        words: of the command line; None is that of the process.
    """
    parser = argparse.ArgumentParser(prog=program, description=about)
    usual = os.environ.get("HPT_STORE") or "./hpt-store"
    parser.add_argument("--store", default=usual, help="of the images")
    given = parser.parse_args(words)
    try:
        write(marker.begin(open_store(given.store)))
    except HptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
