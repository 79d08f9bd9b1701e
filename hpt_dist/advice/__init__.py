"""Placeholder for the package that recommends recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.launch import first_recipe, here
from hpt_dist.store import Store


@dataclass(frozen=True)
class Advice:
    """A recommended recipe."""

    text: str
    says: tuple[str, ...]
    hours: float | None
    labelled: bool
    facts: object = None


def recommend(
    store: Store,
    dataset: str,
    *,
    bases: Sequence[str] = (),  # noqa: ARG001
    sources: Sequence[str] = (),  # noqa: ARG001
    hours: float | None = None,  # noqa: ARG001
    name: str | None = None,
    progress: Callable[[str], None] = lambda _: None,  # noqa: ARG001
    look_seconds: float = 120.0,  # noqa: ARG001
) -> Advice:
    """Return the first recipe of a dataset."""
    domain = first_recipe.of_manifest(read_manifest(store, dataset), dataset)
    text = first_recipe.text(name or domain.alias, [domain], store.uri, here.device().kind, [])
    return Advice(text, (), None, not domain.lacks())
