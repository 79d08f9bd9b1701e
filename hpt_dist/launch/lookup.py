"""Every dataset and every file of weights that a recipe names, looked up."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.subset import Subset, read_subset
from hpt_dist.errors import HptError, Problem, RecipeError, RequestError
from hpt_dist.recipe import Spec, fractions, validation, yaml_document
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.file import Recipe
from hpt_dist.store import Store, open_store
from hpt_dist.weights import public
from hpt_dist.weights import source as weights_source


class _StandIn(Spec):
    """A dataset that is only assumed, to plan before the images are there."""

    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    label: Literal["single", "multi", "boxes"] = "single"
    masks: bool = False
    images: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(max_length=100)]


def facts(recipe: Recipe, store: Store, stand_ins: Path | None = None) -> Facts:
    """Look up every dataset and every imported file that a recipe's stages read.

    Args:
        recipe: what is asked for.
        store: the recipe's own.
        stand_ins: a YAML file that describes datasets that are not there yet.

    Raises:
        RecipeError: with every dataset and file that is missing.
    """
    assumed = _stand_ins(stand_ins) if stand_ins else {}
    problems: list[Problem] = []
    datasets, weights = {}, {}
    named = _parts_named(recipe)
    for alias, parts in named.items():
        reference = recipe.datasets[alias]
        shares = {part for part in parts if fractions.is_fraction(part)}
        try:
            found = (
                _assumed(reference, assumed[reference])
                if reference in assumed
                else _dataset(store, reference, parts - shares)
            )
            datasets[alias] = replace(found, images={**found.images, **_sizes(found, shares)})
        except HptError as error:
            problems.append(located(error, recipe.where("datasets", alias)))
    for alias in (one for one in recipe.datasets if one not in named):
        try:
            _home_of(recipe.datasets[alias], store)  # it need not be there; its address stays
        except HptError as error:
            problems.append(located(error, recipe.where("datasets", alias)))
    for stage, points in recipe.stages.items():
        for source in {p.spec.imported for p in points} - {""}:
            try:
                public.check(weights_source.parse(source))
                weights[source] = weights_source.fingerprint(source, store)
            except HptError as error:
                problems.append(located(error, recipe.where("stages", stage, "weights")))
    if problems:
        raise RecipeError(problems)
    return Facts(datasets, weights)


def dataset_store(reference: str) -> tuple[str, str]:
    """Split a dataset reference into (store URI or empty, name in that store).

    A full URI is that of a dataset's folder: `<store>/datasets/<name>`.
    """
    if "://" not in reference and not reference.startswith(("/", "./", "../")):
        return "", reference
    uri, found, name = reference.rpartition("/datasets/")
    if not found or not name.strip("/"):
        raise RequestError(
            f"{reference} is no dataset", allowed="NAME, or a URI like s3://bucket/x/datasets/NAME"
        )
    return uri, name.strip("/")


def _parts_named(recipe: Recipe) -> dict[str, set[str]]:
    """Return the datasets that stages read, in order, with their `split@subset` and `split@10%`."""
    named: dict[str, set[str]] = {}
    for points in recipe.stages.values():
        specs = (spec for point in points for spec in point.tried)
        for read in (read for spec in specs for read in spec.reads()):
            alias, _, split = read.split.partition("/")
            parts = named.setdefault(alias, set())
            if "@" in split:
                parts.add(split)
    return {alias: named[alias] for alias in recipe.datasets if alias in named}


def _sizes(dataset: DatasetFacts, shares: Iterable[str]) -> dict[str, int]:
    """Return how many images the shares of splits hold; what the plan refuses is left out."""
    sizes = {}
    for split, _, share in (one.partition("@") for one in sorted(shares)):
        with suppress(ValueError):
            if images := dataset.images.get(split):
                sizes[f"{split}@{share}"] = fractions.count(images, fractions.percent(share))
    return sizes


def _home_of(reference: str, store: Store) -> tuple[Store, str, str]:
    """Return the store of a dataset, its address where it is not the recipe's, and its name there.

    Raises:
        RequestError: it is no address of a dataset, or holds a secret.
    """
    uri, name = dataset_store(reference)
    return open_store(uri) if uri else store, uri, name


def _dataset(store: Store, reference: str, subset_names: Iterable[str]) -> DatasetFacts:
    store, uri, name = _home_of(reference, store)
    manifest = read_manifest(store, name)
    splits = manifest.splits
    subsets = {one: _subset(store, name, one) for one in sorted(subset_names)}
    return DatasetFacts(
        name=manifest.name,
        store=uri,
        digest=manifest.digest,
        classes=len(manifest.classes),
        images={name: split.images for name, split in splits.items()}
        | {name: len(subset.keys) for name, subset in subsets.items()},
        class_counts={name: tuple(split.class_counts) for name, split in splits.items()},
        label=manifest.label,
        metric=manifest.metric,
        class_names=manifest.classes,
        masks=manifest.masks,
        subsets={name: subset.digest for name, subset in subsets.items()},
    )


def _subset(store: Store, name: str, reference: str) -> Subset:
    """Read the subset that `split@subset` names."""
    split, _, subset_name = reference.partition("@")
    subset = read_subset(store, name, subset_name)
    if subset.split != split:
        raise RequestError(
            f"{subset_name} is a subset of {name}/{subset.split}",
            allowed=f"{subset.split}@{subset_name}",
        )
    return subset


def _stand_ins(path: Path) -> dict[str, _StandIn]:
    """Read the file of stand-ins, by the names of their datasets.

    Raises:
        RequestError: with every problem found, or the file cannot be read.
    """
    document = yaml_document.read(path, os.environ, "file of stand-ins")
    yaml_document.refuse_variables(document, lambda _: False, "recipes alone")
    is_mapping = isinstance(document.tree, dict)
    if not is_mapping and not document.problems:
        allowed = "name: {classes: N, images: {train: N, val: N, test: N}}"
        document.problem((), "stand-ins are a mapping of datasets", allowed)
    found = {}
    for name, raw in document.tree.items() if is_mapping else ():
        if stand_in := validation.validated(document, _StandIn, raw, (name,)):
            found[name] = stand_in
    if document.problems:
        raise document.refusal()
    return found


def _assumed(name: str, stand_in: _StandIn) -> DatasetFacts:
    """Describe a dataset that is not there, its classes taken to be balanced."""
    plain = stand_in.model_dump(exclude_defaults=True) | {"classes": stand_in.classes}
    text = json.dumps(plain, sort_keys=True)
    return DatasetFacts(
        name=name,
        store="",
        digest=f"stand-in:{hashlib.sha256(text.encode()).hexdigest()}",
        classes=stand_in.classes,
        images=stand_in.images,
        class_counts={
            split: tuple(_even(images, stand_in.classes))
            for split, images in stand_in.images.items()
        },
        label=stand_in.label,
        masks=stand_in.masks,
        stand_in=True,
    )


def _even(images: int, classes: int) -> Iterable[int]:
    return (images // classes + (n < images % classes) for n in range(classes))


def located(error: HptError, where: str) -> Problem:
    """Return the problem of an error, at another place."""
    problem = error.problem
    return Problem(problem.what, where, problem.allowed, problem.fix)
