"""From a dataset to a recipe: look, decide, write; and what was seen, in words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpt_dist.advice import cost, evidence, look, recipe_text, rules, warnings, words
from hpt_dist.advice import hours as time_given
from hpt_dist.advice.bases import DEFAULT, parsed
from hpt_dist.advice.facts import Dataset, Facts, Judges
from hpt_dist.advice.look import Place, Question
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.errors import RequestError
from hpt_dist.evals.evidence import images_to_show
from hpt_dist.launch import here, lookup
from hpt_dist.launch.first_recipe import Domain, of_manifest
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.kinds.frozen import metric_faults
from hpt_dist.recipe.metrics import metric_of
from hpt_dist.store import Store, open_store

LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Advice:
    """A recommended recipe.

    Args:
        text: of the recipe: YAML with a reason for each decision; it plans and launches as it is.
        says: what was seen and decided, a line each, for a terminal.
        hours: that all of it takes on this machine, estimated.
        labelled: whether labels judge: the recipe ends with a verdict.
        facts: what was seen.
    """

    text: str
    says: tuple[str, ...]
    hours: float | None
    labelled: bool
    facts: Facts


def recommend(
    store: Store,
    dataset: str,
    *,
    bases: Sequence[str] = (),
    sources: Sequence[str] = (),
    hours: float | None = None,
    name: str | None = None,
    progress: Callable[[str], None] = lambda _line: None,
    look_seconds: float = 120.0,
) -> Advice:
    """Look at a dataset, and return a recipe for it. Nothing is written.

    Args:
        store: the recipe's own.
        dataset: its name in the store, or its URI.
        bases: weights to start from, as a recipe names them, or NETWORK=WEIGHTS; of several the
            best on val is taken if that is evident. None is `bases.DEFAULT`.
        sources: datasets of which one is pretrained on first, if any is given.
        hours: that all of it may take on this machine; None is the usual lengths.
        name: of the recipe; None is the dataset's own.
        progress: called with a line at each part of the look.
        look_seconds: that looking may take, but for loading libraries and weights, and for the
            least of each part.

    Raises:
        RequestError: there is no such dataset or weights, or the hours do not suffice.
        DataError: the dataset is damaged.
        StoreError: a store cannot be read.
    """
    check_time(hours, look_seconds)
    target, others = _placed(store, dataset), [_placed(store, one) for one in sources]
    _check_names([target, *others])
    given = tuple(parsed(one, store) for one in bases or (DEFAULT,))
    machine = here.device()
    question = Question(
        *(target, tuple(others), tuple(dict.fromkeys(given)), store.uri, machine.kind),
        *(len(os.sched_getaffinity(0)), look_seconds),
    )
    facts = look.in_process(question, progress)
    return advised(facts, store, hours, name)


def advised(facts: Facts, store: Store, limit: float | None, name: str | None) -> Advice:
    """Return the advice that follows from facts, planned against the store.

    Args:
        facts: of a look.
        store: the recipe's own, which has the datasets.
        limit: hours to spend; None is the usual lengths.
        name: of the recipe; None is the dataset's own.
    """
    chosen = time_given.fitted(rules.choices(facts), facts, limit)
    estimated = cost.seconds(chosen, facts) / 3600
    warned = warnings.of(facts, chosen)
    called = re.sub(r"[^A-Za-z0-9_.-]+", "_", name or facts.target.alias).lstrip("_.-") or "first"
    notes = (f"Note: {line}." for line in warned)
    head = [*words.head(facts, chosen, estimated), *notes]
    text = recipe_text.text(called, store.uri, chosen, facts, head)
    _plan(text, store)
    says = (
        *words.seen(facts),
        *(f"note: {line}" for line in warned),
        *words.decided(facts, chosen, estimated),
    )
    labelled = facts.target.judges != "none"
    return Advice(text, says, estimated, labelled, facts)


def check_time(hours: float | None, look_seconds: float) -> None:
    """Refuse what is no time for a recipe, or for a look; see `recommend`.

    Raises:
        RequestError: one of them is.
    """
    if hours is not None and not 0 < hours < float("inf"):
        raise RequestError(f"{hours:g} is no number of hours", where="--hours", allowed="above 0")
    if not LEAST_SECONDS <= look_seconds < float("inf"):
        what = f"{look_seconds:g} seconds are no time for a look"
        raise RequestError(what, where="--look-seconds", allowed=f"{LEAST_SECONDS:g} or more")


def _check_names(places: Sequence[Place]) -> None:
    """Refuse datasets that are the same, or that a recipe could not tell apart."""
    seen: dict[str, Place] = {}
    for place in places:
        alias = place.dataset.alias
        if other := seen.get(alias):
            if (other.store, other.name) == (place.store, place.name):
                raise RequestError(f"{place.dataset.reference} is named twice", where="--source")
            both = f"{other.dataset.reference} and {place.dataset.reference}"
            raise RequestError(
                f"{both} are both called {alias}", where="--source", fix="shard one by another name"
            )
        seen[alias] = place


def _placed(store: Store, reference: str) -> Place:
    """Return a dataset by its name in the store, its URI, or its folder.

    Raises:
        RequestError: there is none, or it has nothing to pretrain on.
    """
    is_folder = "/datasets/" in reference and "://" not in reference
    where, name = lookup.dataset_store(str(Path(reference).absolute()) if is_folder else reference)
    home = open_store(where) if where else store
    try:
        manifest = read_manifest(home, name)
    except RequestError as error:
        if not where and Path(reference).exists():
            raise RequestError(
                f"{reference} holds images, and no dataset of {store.uri}",
                fix=f"hpt-dist shard {reference} {store.uri}/datasets/{Path(reference).stem}",
            ) from error
        raise
    own = home.uri == store.uri
    domain = of_manifest(manifest, name if own else f"{home.uri}/datasets/{name}")
    return Place(_described(domain, manifest), home.uri, name)


def _described(domain: Domain, manifest: Manifest) -> Dataset:
    if sum(domain.images[split] for split in domain.pool) < 2:
        raise RequestError(
            f"{domain.alias} has nothing to pretrain on: {domain.in_words()}",
            allowed="a split train or unlabeled with 2 images or more",
        )
    judges, lacks = _judges(domain)
    metric = metric_of(None, domain.facts) if domain.label != "none" else ""
    train = manifest.splits.get("train")
    counts = train.class_counts if train else ()
    return Dataset(
        alias=domain.alias,
        reference=domain.reference,
        images=dict(domain.images),
        pool=tuple(domain.pool),
        label=domain.label,
        classes=len(domain.classes),
        fewest=min(counts, default=0),
        metric=metric,
        judges=judges,
        lacks=lacks,
        in_words=domain.in_words(),
    )


def _judges(domain: Domain) -> tuple[Judges, str]:
    """Return what can judge on a dataset, and why that is not test; see `facts.Dataset`."""
    if domain.label == "none":
        needed = round(images_to_show(evidence.GAIN, evidence.CHANGED), -1)
        return "none", words.lacks_labels(domain.alias, needed)
    if domain.label == "boxes":
        return "none", f"{domain.lacks()}: nothing judges, and the last weights are kept"
    if len(domain.classes) == 1 and domain.label == "single":
        return "none", f"{domain.alias} has one class: every accuracy would be 1"
    missing = [split for split in ("train", "val") if not domain.images.get(split)]
    if missing:
        return "none", words.lacks_val(domain.alias, " and no ".join(missing))
    if not (why := domain.lacks()):
        return "test", ""
    bare = domain.label == "single" and any(
        sum(domain.class_counts[split]) < domain.images[split] for split in ("train", "val")
    )
    if bare or metric_faults(None, domain.facts, ("val",)):
        return "none", f"{why}: nothing judges, and the last weights are kept"
    return "val", words.lacks_test(domain.alias, why)


def _plan(text: str, store: Store) -> None:
    """Plan a recipe against the store, so that none is given out that does not plan."""
    recipe = recipe_file.parse(text, "recommended", {**os.environ, "HPT_STORE": store.uri})
    plan.make(recipe, replace(lookup.facts(recipe, store), device=here.device()))
