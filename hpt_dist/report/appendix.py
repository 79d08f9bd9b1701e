"""What follows the figures on a report's page: trials, lineage, data, weights, the recipe. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from hpt_dist.page import (
    Block,
    Code,
    Drawing,
    Drawings,
    Faint,
    Folded,
    Grid,
    Heading,
    Items,
    Link,
    Links,
    Paragraph,
    Picture,
)
from hpt_dist.report.exhibits import PICTURES, DataCard, Exhibits, TrialCard
from hpt_dist.report.figures import graph, trace
from hpt_dist.report.lineage import Node

_TRACE_PX = 150
_ROWS_SHOWN = 20
_FIRST_ROWS = 8
_OPEN = 3  # of more trainings, the pictures are folded
_UNKNOWN = "not stated"


def blocks(exhibits: Exhibits, nodes: Sequence[Node]) -> list[Block]:
    """Return the appendix of a page.

    Args:
        exhibits: what was read of the launch.
        nodes: every trial of the launch.
    """
    return [
        *_trials(exhibits),
        *_shown("Objects and positions", exhibits.results),
        *_shown("Mistakes on validation", exhibits.mistakes),
        *_lineage(nodes),
        *_data_and_weights(exhibits),
        *_recipe(exhibits),
        *_more(exhibits),
    ]


def _trials(exhibits: Exhibits) -> Iterator[Block]:
    if not exhibits.trials:
        return
    yield Heading(2, "The trainings")
    if exhibits.more:
        yield Paragraph(f"{exhibits.more:,} more finished trials are in MLflow and in the store.")
    for card in exhibits.trials:
        yield from _trial(card, is_open=len(exhibits.trials) <= _OPEN)


def _trial(card: TrialCard, *, is_open: bool) -> Iterator[Block]:
    yield Heading(3, card.name)
    verdict = f" {card.verdict[0].upper()}{card.verdict[1:]}." if card.verdict else ""
    yield Paragraph(f"{card.says}.{verdict}")
    if card.note:
        yield Paragraph(card.note)
    yield from card.averages
    if card.curves:
        drawings = [
            Drawing(trace.draw(points, f"{card.name}: {name}"), name)
            for name, points in card.curves.items()
        ]
        yield Drawings(drawings, px=_TRACE_PX)
    pictures = [
        Picture(card.pictures[name], caption)
        for name, caption in PICTURES.items()
        if name in card.pictures
    ]
    if pictures:
        yield from pictures if is_open else [Folded("What it saw and what it changed", pictures)]
    facts = [
        f"{card.seconds / 3600:.2f} hours; {card.numerics or 'trained in an unknown precision'}",
        f"key {card.key}",
        f"in the store: {card.place}",
    ]
    if card.versions:
        facts.append(", ".join(f"{name} {version}" for name, version in card.versions.items()))
    inner: list[Block] = [Items(facts), Code(card.pull)]
    if card.run:
        inner.append(Links([Link("its run in MLflow", card.run)]))
    yield Folded("How it ran, and how to get its weights", inner)


def _shown(title: str, by_trial: Mapping[str, Sequence[Block]]) -> Iterator[Block]:
    """Yield the pages of single trials as parts of one section."""
    if by_trial:
        yield Heading(2, title)
    for found in by_trial.values():
        for block in found:
            if isinstance(block, Heading):
                yield Heading(block.level + 2, block.text)
            elif isinstance(block, Grid) and len(block.rows) > _FIRST_ROWS:
                yield replace(block, rows=block.rows[:_FIRST_ROWS])
                yield Folded(f"All {len(block.rows)} rows", [block])
            else:
                yield block


def folded(blocks: Iterable[Block]) -> list[Block]:
    """Return a section with its long tables folded."""
    return [
        Folded(f"{len(block.rows)} rows", [block])
        if isinstance(block, Grid) and len(block.rows) > _ROWS_SHOWN
        else block
        for block in blocks
    ]


def _lineage(nodes: Sequence[Node]) -> Iterator[Block]:
    if not any(node.parent or node.datasets for node in nodes):
        return
    yield Heading(2, "Lineage")
    drawn = graph.draw(nodes, "What each stage starts from and reads")
    caption = "Datasets above, below each stage what starts from it. Dashed is not all done."
    yield Drawings([Drawing(drawn)], caption=caption)


def _data_and_weights(exhibits: Exhibits) -> Iterator[Block]:
    if not (exhibits.data or exhibits.weights):
        return
    yield Heading(2, "Data and weights, with their licences")
    if exhibits.data:
        header = ["dataset", "in the store", "licence", "credit", "images"]
        yield Grid(header, data_rows(exhibits.data), num_left=5)
    notes = [f"{card.name}: {card.note}" for card in exhibits.data if card.note]
    if notes:
        yield Items(notes)
    if exhibits.weights:
        rows = [[one.trial, one.source, licence_of(one.licence)] for one in exhibits.weights]
        yield Grid(["imported by", "weights", "licence"], rows, num_left=3)
    yield Paragraph(
        "What is trained from them may be bound by all of these licences; one that is not stated "
        "must be looked up before the weights are passed on."
    )


def data_rows(cards: Sequence[DataCard]) -> list[list[str]]:
    """Return a row for each dataset: name, place, licence, credit, images."""
    return [_data(card) for card in cards]


def _data(card: DataCard) -> list[str]:
    images = ", ".join(f"{split} {count:,}" for split, count in card.images.items())
    return [card.name, card.place, licence_of(card.licence), card.credit or "-", images or "-"]


def licence_of(licence: str) -> str:
    """Return a licence in words; faint where none is stated."""
    return licence if licence and licence != _UNKNOWN else Faint(_UNKNOWN)


def _recipe(exhibits: Exhibits) -> Iterator[Block]:
    if not exhibits.recipe:
        return
    yield Heading(2, "The recipe as it was written")
    if exhibits.options:
        yield Paragraph("Changed when it was launched, by --set:")
        yield Items(exhibits.options)
    yield Folded("Show it", [Code(exhibits.recipe)])


def _more(exhibits: Exhibits) -> Iterator[Block]:
    if exhibits.links or exhibits.commands:
        yield Heading(2, "More")
    if exhibits.links:
        yield Links([Link(text, address) for text, address in exhibits.links.items()])
    if exhibits.commands:
        yield Code("\n".join(exhibits.commands))
