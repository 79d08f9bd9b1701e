"""What a report's page shows of single trials, of their data and of their weights. Pure.

It is read from the store by `launch.exhibited`; nothing here reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from hpt_dist.page import Block
from hpt_dist.recipe import KINDS
from hpt_dist.report.lineage import Node

MOST_TRIALS = 12
MOST_POINTS = 100

Points = tuple[tuple[int, float], ...]

# The curves of a page by what they are called there: the first of the metrics that a trial has.
CURVES: Mapping[str, tuple[str, ...]] = {
    "loss": ("train/loss",),
    "distance from the start (1 - cosine)": ("train/anchor",),
    "accuracy on validation": ("ridge/top1", "knn/top1", "val/top1", "val/auroc", "val/map"),
    "spread of features": ("monitor/feature_std", "train/feature_std"),
    "effective rank (RankMe)": ("monitor/rankme",),
    "learning rate": ("train/lr",),
    "images per second": ("train/images_per_second",),
}


# What the pictures of a training show, by the names of their files.
PICTURES: Mapping[str, str] = {
    "views.webp": "Two views of each of the first images, as the network saw them.",
    "neighbours.webp": "Twelve images; right of each the nearest others before, then those after.",
}


@dataclass(frozen=True)
class DataCard:
    """A dataset that trials read.

    Args:
        name: the recipe's.
        place: its name in the store, or its full URI.
        licence: of the images.
        credit: whom to credit.
        images: by split.
        note: what else its reader must know, such as that it has changed; empty for nothing.
    """

    name: str
    place: str
    licence: str
    credit: str
    images: Mapping[str, int]
    note: str = ""


@dataclass(frozen=True)
class WeightsCard:
    """Weights of others that a trial imported."""

    trial: str
    source: str
    licence: str


@dataclass(frozen=True)
class TrialCard:
    """One trial.

    Args:
        name: of the trial.
        key: of the trial.
        says: what it is, in words.
        verdict: on itself; empty without one.
        numerics: how it trained.
        versions: of the code that it ran, by package.
        seconds: that it took.
        place: where its results are in the store.
        pull: the command that copies them.
        run: its page in MLflow; empty where no browser can open one.
        curves: by what they are called, thinned.
        note: why something of it is missing; empty if nothing is.
        pictures: what it saw and changed: WebP by what is shown, a key of `PICTURES`.
        averages: how good the averages were between its start and its last step.
    """

    name: str
    key: str
    says: str
    verdict: str
    numerics: str
    versions: Mapping[str, str]
    seconds: float
    place: str
    pull: str
    run: str
    curves: Mapping[str, Points]
    note: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    averages: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Exhibits:
    """All of it.

    Args:
        trials: at most `MOST_TRIALS`.
        more: how many other finished trials there are.
        data: the datasets.
        weights: weights of others.
        recipe: the recipe as it was written; empty where the launch did not record it.
        options: what `--set` changed of it.
        links: further pages, by what they show.
        commands: what shows more in a terminal.
        mistakes: the most confident ones and what is confused, by the trial that made them.
        results: what trials left to show: curves, pictures, the worst images; by trial.
    """

    trials: tuple[TrialCard, ...] = ()
    more: int = 0
    data: tuple[DataCard, ...] = ()
    weights: tuple[WeightsCard, ...] = ()
    recipe: str = ""
    options: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    mistakes: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    results: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)


def headline(nodes: Iterable[Node], most: int = MOST_TRIALS) -> list[Node]:
    """Return the finished trials that a page shows: what trains, pretraining first.

    Each stage gives one in turn, so that a wide sweep hides no other stage; candidates, which
    validation chose among, are left out.
    """
    every = list(nodes)
    tried = {name for node in every for name in node.others}
    done = [n for n in every if n.is_done and (n.pretrains or n.name not in tried)]
    pretraining = [node for node in done if node.pretrains]
    others = [node for node in done if not node.pretrains and _trains(node)]
    return [*_in_turn(pretraining), *_in_turn(others)][:most]


def showing(nodes: Iterable[Node], most: int = MOST_TRIALS) -> list[Node]:
    """Return the finished trials that left something to show, one of each stage in turn."""
    kinds = {name for name, kind in KINDS.items() if kind.SHOWS}
    return [*_in_turn([node for node in nodes if node.is_done and node.kind in kinds])][:most]


def _trains(node: Node) -> bool:
    return node.kind in KINDS and KINDS[node.kind].TRAINS


def _in_turn(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield the first trial of each stage, then the second of each, and so on."""
    stages: dict[str, list[Node]] = {}
    for node in nodes:
        stages.setdefault(node.stage, []).append(node)
    for turn in zip_longest(*stages.values()):
        yield from filter(None, turn)


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> Points:
    """Return at most so many of a curve's points, evenly spaced; the first and last stay."""
    if len(points) <= most:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[round(n * last / (most - 1))] for n in range(most))


def curves_of(lines: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, Points]:
    """Return the curves of a page from a trial's metrics.

    Args:
        lines: (step, metrics) in the order of steps.
    """
    every: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in lines:
        for name, value in metrics.items():
            every.setdefault(name, []).append((step, value))
    found = {}
    for title, names in CURVES.items():
        name = next((name for name in names if len(every.get(name, ())) > 1), "")
        if name:
            found[title] = thinned(every[name])
    return found
