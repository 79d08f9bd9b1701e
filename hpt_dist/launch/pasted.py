"""Commands that messages print, complete, so that people can paste them."""

from __future__ import annotations

import shlex
from pathlib import Path

from hpt_dist.store import Store
from hpt_dist.store.paths import DEFAULT_STORE, usual_store


def command(*words: str, store: Store, program: str = "hpt-dist") -> str:
    """Return a command for the launches of a store.

    Args:
        words: the verb, and what it takes.
        store: named by `--store`, unless the command would look there anyway.
        program: how hpt-dist is called.
    """
    usual = usual_store()
    # A folder's path is given from the root, for the shell may be elsewhere.
    is_usual = store.uri == str(Path(DEFAULT_STORE).absolute()) == str(Path(usual).absolute())
    return f"{program} {shlex.join(words if is_usual else [*words, '--store', store.uri])}"
