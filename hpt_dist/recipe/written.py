"""A recipe as it was written, in one text: with what it extends, and what options set."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import yaml

from hpt_dist.recipe.yaml_document import Document
from hpt_dist.recipe.yaml_values import Dumper


def text(document: Document) -> str:
    """Return the YAML of a recipe that stands alone: read again, it is the same recipe.

    It is the file's own text where that is all. Otherwise it is what the file extends, with what it
    writes and options set, below the comment that the file opens with.

    Args:
        document: read, with what it extends and all options; its variables stay `${NAME}`.
    """
    options = sorted(
        ".".join(map(str, path))
        for path, place in document.places.items()
        if place == "--set"
        and document.places.get(path[:-1]) != place
        and _is_in(document.tree, path)
    )
    if not options and not document.bases:
        return document.text
    tree = copy.deepcopy(document.tree)
    for path, used in document.used.items():
        _put(tree, path, used.written)
    opening = itertools.takewhile(lambda line: line.startswith("#"), document.text.splitlines())
    lines = [*opening, f"# {document.file}", *(f"# extends {file}" for file in document.bases)]
    lines += [f"# --set {option}" for option in options]
    body = yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join([*lines, body])


def _put(tree: Any, path: tuple[str | int, ...], value: str) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def _is_in(tree: Any, path: tuple[str | int, ...]) -> bool:
    """Return whether a place is one that was written, and not where a fault would be shown."""
    for key in path:
        if not isinstance(tree, dict | list) or (isinstance(tree, dict) and key not in tree):
            return False
        tree = tree[key]  # type: ignore[index]
    return True
