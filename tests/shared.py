"""What is made once for all workers of a run: stores of datasets, and finished launches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this run that all its workers see."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` has filled, by the first worker that asks for it.

    The other workers wait meanwhile. Nobody changes the folder afterwards: a test that wants to
    takes a copy.

    Args:
        factory: pytest's own.
        name: of the folder, one for each thing that is made.
        make: fills the folder, which is empty.
    """
    folder = shared_folder(factory) / name
    made = folder.with_suffix(".made")
    with FileLock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker made that failed half-way
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
