"""What a shell offers for a word that was begun. It reads names alone, and is never an error."""

from __future__ import annotations

import re
from pathlib import Path

from hpt_dist.recipe import shipped
from hpt_dist.store.paths import LAUNCHES, usual_store

_LAUNCH = re.compile(r"(.+)-\d{8}-\d{6}-[0-9a-f]{4}")


def recipes(incomplete: str) -> list[str]:
    """Return the recipes in the package and the YAML files that a word may become."""
    return _beginning(incomplete, shipped.names()) + _files(incomplete)


def runs(incomplete: str) -> list[str]:
    """Return the recipes launched in the usual store, their launches, and YAML files.

    Only of a store in a folder: a shell does not wait for a server.
    """
    folder = Path(usual_store()) / LAUNCHES
    try:
        launches = sorted(path.stem for path in folder.glob("*.json"))
    except OSError:
        launches = []
    names = {found[1]: None for one in launches if (found := _LAUNCH.fullmatch(one))}
    return _beginning(incomplete, [*names, *reversed(launches)]) + _files(incomplete)


def _beginning(incomplete: str, words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _files(incomplete: str) -> list[str]:
    folder, slash, begun = incomplete.rpartition("/")
    try:
        paths = sorted(Path(folder + slash or ".").iterdir())
    except (OSError, ValueError):
        return []
    return [
        f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
        for path in paths
        if path.name.startswith(begun) and (path.suffix in (".yaml", ".yml") or path.is_dir())
        if begun or not path.name.startswith(".")
    ]
