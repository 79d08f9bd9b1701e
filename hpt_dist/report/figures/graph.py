"""The lineage of a launch as a drawing: datasets above, below them stages in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpt_dist.report.figures import svg
from hpt_dist.report.lineage import Node

_BOX, _HIGH = 150.0, 40.0  # pixels of a box
_ACROSS, _DOWN = 18.0, 40.0  # between boxes
_EDGE = 'fill="none" stroke="currentColor"'
_PENDING = ' stroke-dasharray="4 3"'
_MOST_BOXES = 120
_ROUND = {True: 18, False: 4}  # datasets, stages


@dataclass(frozen=True)
class _Box:
    """A dataset, or a stage with the counts of its trials."""

    name: str
    says: str
    above: tuple[str, ...]
    is_data: bool
    is_done: bool


def draw(nodes: Sequence[Node], title: str) -> str:
    """Return the graph of datasets and stages as SVG.

    Args:
        nodes: every trial of the launch.
        title: for screen readers.
    """
    boxes = _boxes(nodes)
    layers = _layers(boxes)
    widest = max(map(len, layers))
    width = max(svg.WIDTH, widest * (_BOX + _ACROSS) + _ACROSS)
    height = len(layers) * (_HIGH + _DOWN) - _DOWN + 8
    places: dict[str, svg.Point] = {}
    for down, layer in enumerate(layers):
        ordered = sorted(layer, key=lambda name: _middle(boxes[name], places, width))
        gap = width / len(ordered)
        for at, name in enumerate(ordered):
            places[name] = gap * (at + 0.5), 4 + down * (_HIGH + _DOWN)
    parts = [
        _edge(boxes[above], places[above], places[name])
        for name in boxes
        for above in boxes[name].above
    ]
    parts += [part for name, at in places.items() for part in _drawn(boxes[name], at)]
    desc = "; ".join(f"{box.name}: {box.says}" for box in boxes.values())
    return svg.drawing(width, height, parts, title=title, desc=desc)


def _boxes(nodes: Sequence[Node]) -> dict[str, _Box]:
    """Return datasets and stages by a name of their own each; no more than fit."""
    stages: dict[str, list[Node]] = {}
    for node in nodes:
        stages.setdefault(node.stage, []).append(node)
    of_trial = {node.name: node.stage for node in nodes}
    boxes: dict[str, _Box] = {}
    for name in dict.fromkeys(data for node in nodes for data in node.datasets):
        boxes[f"data {name}"] = _Box(name, "dataset", (), is_data=True, is_done=True)
    for stage, those in stages.items():
        starts = (name for node in those for name in (node.parent, *node.others))
        parents = dict.fromkeys(of_trial[name] for name in starts if name in of_trial)
        reads = dict.fromkeys(f"data {name}" for node in those for name in node.datasets)
        above = tuple(f"stage {name}" for name in parents if name != stage)
        done = sum(node.is_done for node in those)
        count = f"{len(those)} trials" if len(those) > 1 else "1 trial"
        if done < len(those):
            count = f"{done} of {len(those)} done"
        kind = next((node.kind for node in those if node.kind), "stage")
        boxes[f"stage {stage}"] = _Box(
            stage, f"{kind}, {count}", (*above, *reads), is_data=False, is_done=done == len(those)
        )
    kept = dict(list(boxes.items())[:_MOST_BOXES])
    return {
        name: _Box(
            box.name, box.says, tuple(a for a in box.above if a in kept), box.is_data, box.is_done
        )
        for name, box in kept.items()
    }


def _layers(boxes: Mapping[str, _Box]) -> list[list[str]]:
    """Return the boxes by how many lie on the longest way to them: datasets first."""
    depth: dict[str, int] = {}
    left = dict(boxes)
    while left:
        ready = [name for name, box in left.items() if not set(box.above) & set(left)]
        for name in ready or list(left):
            box = left.pop(name)
            depth[name] = (
                0 if box.is_data else max((depth.get(a, 0) + 1 for a in box.above), default=0)
            )
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in boxes:
        layers[depth[name]].append(name)
    return layers


def _middle(box: _Box, places: Mapping[str, svg.Point], width: float) -> float:
    """Return where what lies above a box is, on average: below it, few lines cross."""
    above = [places[name][0] for name in box.above if name in places]
    return sum(above) / len(above) if above else width / 2


def _edge(above: _Box, start: svg.Point, end: svg.Point) -> str:
    """Return the line from the bottom of one box to the top of another."""
    (x1, y1), (x2, y2) = (start[0], start[1] + _HIGH), end
    bend = (y2 - y1) / 2
    way = (
        f"M{svg.number(x1)} {svg.number(y1)}C{svg.number(x1)} {svg.number(y1 + bend)} "
        f"{svg.number(x2)} {svg.number(y2 - bend)} {svg.number(x2)} {svg.number(y2)}"
    )
    faint = ' stroke-opacity=".28"' if above.is_data else ' stroke-opacity=".7" stroke-width="1.6"'
    return f'<path d="{way}" {_EDGE}{faint}/>'


def _drawn(box: _Box, at: svg.Point) -> list[str]:
    """Return a box with its two lines of text."""
    x, y = at[0] - _BOX / 2, at[1]
    paint = svg.BASELINE if box.is_data else svg.COLOURS[0]
    rounded = f' rx="{_ROUND[box.is_data]}" fill-opacity=".14" stroke="{paint}"'
    dashes = "" if box.is_done else _PENDING
    hint = f"{box.name}: {box.says}"
    paper = ' style="fill:var(--paper,#fff)"'  # no line shows through
    return [
        svg.rectangle((x, y), (_BOX, _HIGH), paint, more=f' rx="{_ROUND[box.is_data]}"{paper}'),
        svg.rectangle((x, y), (_BOX, _HIGH), paint, hint, rounded + dashes),
        svg.text((at[0], y + 17), svg.shortened(box.name, _BOX - 12), more=' font-weight="600"'),
        svg.text(
            (at[0], y + 32),
            svg.shortened(box.says, 1.1 * (_BOX - 8)),
            more=' font-size="11" opacity=".8"',
        ),
    ]
