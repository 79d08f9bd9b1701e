"""What a launch's trials start from and read, as a graph. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_dist.recipe import KINDS, Trained
from hpt_dist.trial.records import Finished


@dataclass(frozen=True)
class Node:
    """One trial in the graph.

    Args:
        name: of the trial.
        key: of the trial.
        stage: name of its stage.
        kind: of its stage; empty where the launch recorded no settings.
        parent: name of the trial that it starts from; empty without one.
        datasets: what it reads, by the recipe's names.
        others: names of the trials that it chooses from or compares.
        is_done: whether it is finished.
    """

    name: str
    key: str
    stage: str
    kind: str
    parent: str
    datasets: tuple[str, ...]
    is_done: bool
    others: tuple[str, ...] = ()

    @property
    def pretrains(self) -> bool:
        """Whether it trains weights that others start from."""
        spec = KINDS.get(self.kind)
        return spec is not None and issubclass(spec, Trained) and spec.LEAVES == "weights"


def nodes_of(
    trials: Mapping[str, str], documents: Mapping[str, Any], done: Sequence[Finished]
) -> dict[str, Node]:
    """Return every trial by its name, in the order of its launch.

    Args:
        trials: names to keys.
        documents: what was hashed for each trial, by its name.
        done: the finished trials, in any order.
    """
    names = {key: name for name, key in trials.items()}
    finished = {one.name: one for one in done}
    nodes = {}
    for name, key in trials.items():
        document = documents.get(name, {})
        spec = document.get("spec")
        kind = str(spec.get("kind", "")) if isinstance(spec, Mapping) else ""
        if not kind and name in finished:
            kind = str(finished[name].result["kind"])
        datasets = document.get("datasets")
        nodes[name] = Node(
            name=name,
            key=key,
            stage=name.partition("/")[0],
            kind=kind,
            parent=names.get(str(document.get("init", "")), ""),
            datasets=tuple(map(str, datasets)) if isinstance(datasets, Mapping) else (),
            is_done=name in finished,
            others=tuple(names[one] for one in _others(document) if one in names),
        )
    return nodes


def _others(document: Mapping[str, Any]) -> list[str]:
    """Return the keys of the trials that a document chooses from or compares."""
    found: list[str] = []
    for setting in ("candidates", "compared"):
        keys = document.get(setting, [])
        found += keys.values() if isinstance(keys, Mapping) else keys
    return [key for key in found if isinstance(key, str)]


def ancestors(nodes: Mapping[str, Node], name: str) -> list[Node]:
    """Return what a trial starts from, the nearest first."""
    found: list[Node] = []
    while (node := nodes.get(nodes[name].parent)) and node not in found:
        found.append(node)
        name = node.name
    return found


def setting_behind(
    nodes: Mapping[str, Node], documents: Mapping[str, Any], name: str, setting: str
) -> str:
    """Return a setting of the nearest pretraining that a trial starts from; empty without one."""
    for node in ancestors(nodes, name):
        spec = documents.get(node.name, {}).get("spec", {})
        if node.pretrains and isinstance(spec, Mapping) and setting in spec:
            value = spec[setting]
            return value if isinstance(value, str) else json.dumps(value)
    return ""


def behind(nodes: Mapping[str, Node], name: str) -> list[Node]:
    """Return all that a trial rests on: what it starts from, chose from, and what these rest on."""
    found: dict[str, Node] = {}
    left = [name]
    while left:
        node = nodes[left.pop(0)]
        above = [one for one in (node.parent, *node.others) if one in nodes and one not in found]
        found |= {one: nodes[one] for one in above}
        left += above
    return list(found.values())


@dataclass(frozen=True)
class Spent:
    """What the training that led to a cell took: the mean over its trials.

    Args:
        row: of the cell.
        column: of the cell.
        base: the trial that all of it starts from; empty where that is not known.
        images: image views that networks saw.
        hours: of all devices; see `unit`.
        unit: GPU-hours, CPU-hours of processes, or hours of both.
    """

    row: str
    column: str
    base: str
    images: float
    hours: float
    unit: str


@dataclass(frozen=True)
class Taken:
    """What one trial and those that it starts from took; see `Spent`."""

    base: str
    images: int
    hours: float
    on: frozenset[str]


def taken_before(
    nodes: Mapping[str, Node], done: Mapping[str, Finished], name: str
) -> Taken | None:
    """Return what the training behind a trial took, without the trial itself.

    Args:
        nodes: every trial by its name.
        done: the finished trials by their names.
        name: of the trial.

    Returns:
        None if it starts from nothing, or from what is not done.
    """
    rests_on = behind(nodes, name)
    if not rests_on or not all(node.name in done for node in rests_on):
        return None
    trained = [done[node.name] for node in rests_on if node.pretrains]
    return Taken(
        base=next((n.name for n in rests_on if not n.parent and not n.others), ""),
        images=sum(int(one.result["images"]) for one in trained),
        hours=sum(device_hours(one) for one in trained),
        on=frozenset(device_of(one) for one in trained),
    )


def device_hours(trial: Finished) -> float:
    """Return the hours of all devices that a trial held."""
    return float(trial.run["seconds"]) * int(trial.run.get("ranks", 1) or 1) / 3600


def device_of(trial: Finished) -> str:
    """Return what a trial trained on: GPU or CPU."""
    return "GPU" if "GPU" in str(trial.run.get("numerics", "")) else "CPU"


def unit_of(devices: frozenset[str]) -> str:
    """Return the unit of hours on devices."""
    return f"{' and '.join(sorted(devices))}-hours" if devices else "hours"


def described(node: Node, documents: Mapping[str, Any]) -> str:
    """Return a trial in words: its kind, its start, what it reads."""
    spec = documents.get(node.name, {}).get("spec", {})
    method = str(spec.get("method", "") or spec.get("objective", "") or "")
    kind = f"{node.kind} ({method})" if method not in ("", node.kind) else node.kind
    start = f" from {node.parent}" if node.parent else ""
    reads = f", reads {', '.join(node.datasets)}" if node.datasets else ""
    return f"{kind}{start}{reads}"
