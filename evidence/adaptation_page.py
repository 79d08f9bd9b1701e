"""The page's section on few labels in another domain, from the records of its units alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evidence import adapted, cells, records
from evidence.adapted import Accuracy, Arms, Measured
from evidence.matrix import ADAPTATIONS, OBJECTIVES, STARTS, Target, units
from evidence.records import UnitRecord
from hpt_dist.page import Block, Grid, Heading, Items, Paragraph

_NOT_MEASURED = "*not measured yet*"

_QUESTION = """\
Does HPT help an ImageNet network (EfficientNet-Lite0, 64 pixels) to classify a domain of few labels
by the labels of another one, and does it still help where unlabelled images teach? Every number is
measured by a recipe in recipes/evidence; {begun} of {units} units of a pair of domains and a seed
are begun.
"""
_READING = (
    "A seed is a whole pipeline: it has a pretraining on both domains, labelled images and an "
    "adaptation of its own. Validation chooses the step, and test is read once. Numbers are "
    "accuracy on test in per cent, ± the standard deviation over seeds.",
    "A difference is that of HPT from the published weights, by the same objective, with the same "
    "labels, seed by seed and image by image. Its two 95 % intervals and its verdict are as above.",
    "*These pairs* is the mean over pairs, each with the same weight. All of them are tested on "
    "drawings of OpenMoji, largely the same ones, so their errors on images are taken to be one, "
    "and the mean says nothing of other drawings. Its first row of an objective is over all "
    "budgets: read that one first.",
    "Settings are the same in every row: recipes/evidence/common/adaptation.yaml. They began as "
    "those of recipes/openmoji_line.yaml, in fewer steps, which val of lines had chosen. "
    "recipes/evidence/paint_to_line.yaml compares others, on val of a pair that is not reported. "
    "Paint and colour are also what pretraining alone was tuned on, val and test together "
    "(docs/quickstart.md); none of its settings changed by that.",
    "openclipart and OpenMoji share 7 classes with 220 line drawings, of which 89 are tested on: "
    "too few for differences of a few points.",
)


def blocks(results: Path) -> Iterator[Block]:
    """Return the section, of the records in a folder.

    Raises:
        DamagedRecordError: a record is damaged.
    """
    planned = units(ADAPTATIONS)
    every = [records.read(unit, results) for unit in planned]
    measured = [(one, [r for r in every if r.target == one.name]) for one in ADAPTATIONS]
    begun = sum(bool(one.trials) for one in every)
    yield Heading(2, "Few labels in another domain")
    yield Paragraph(_QUESTION.format(begun=begun, units=len(every)))
    yield Items(_READING)
    yield from _over_pairs(measured)
    for target, its in measured:
        yield from _pair(target, its)
    yield Heading(3, "Command and commit of each adaptation")
    yield cells.origins(planned, every)
    yield Items(cells.machines(every) or [_NOT_MEASURED])
    yield Items([f"{name}: {says}" for name, says in {**STARTS, **OBJECTIVES}.items()])


def _over_pairs(measured: Measured) -> Iterator[Block]:
    yield Heading(3, "What HPT adds over all pairs")
    plans = [adapted.planned(target) for target, _ in measured]
    shots = sorted({shots for arms in plans for shots in arms.shots})
    found = []
    for objective in OBJECTIVES:
        for budgets in (shots, *([one] for one in shots)):
            if one := adapted.over_pairs(measured, objective, budgets):
                of = [", ".join(map(str, budgets)), f"{one.targets} of {len(measured)}"]
                pooled = cells.pooled(one.here, "one seed")
                found.append([objective, *of, str(one.seeds), pooled])
    if not found:
        yield Paragraph(f"No pair of domains is measured yet: {_NOT_MEASURED}.")
        return
    yield Grid(["objective", "labels a class", "pairs", "seeds", "these pairs"], found, num_left=1)


def _pair(target: Target, its: Sequence[UnitRecord]) -> Iterator[Block]:
    arms = adapted.planned(target)
    yield Heading(3, target.title)
    yield Paragraph(f"Recipe: recipes/evidence/{target.name}.yaml. {_sizes(its, arms)}")
    if not any(record.trials for record in its):
        by, shots = ", ".join(arms.objectives), ", ".join(map(str, arms.shots))
        each = f"{' and '.join(arms.starts)}, each by {by}, with {shots} labels a class"
        yield Paragraph(f"{_NOT_MEASURED}: {each}, {target.seeds} seeds.")
        return
    yield _accuracies(target, its, arms)
    found = [
        _gain(target, its, objective, shots)
        for objective in arms.objectives
        for shots in arms.shots
    ]
    header = ["HPT minus base", "labels a class", "difference", "± seeds", "± images", "seeds"]
    yield Grid([*header, "verdict"], found, num_left=1)


def _sizes(its: Sequence[UnitRecord], arms: Arms) -> str:
    found = adapted.sizes(its, arms)
    if found is None:
        return ""
    images, labels = found
    return f"{images:,} test images; labelled target images: {', '.join(map(str, labels))}."


def _accuracies(target: Target, its: Sequence[UnitRecord], arms: Arms) -> Grid:
    """Return a row for each start and objective, and a column for each budget."""
    header = ["arm", *(f"{shots} a class" for shots in arms.shots)]
    return Grid(
        header,
        [
            [
                f"{start}, {objective}",
                *(
                    _accuracy(adapted.accuracy(its, start, objective, shots), target.seeds)
                    for shots in arms.shots
                ),
            ]
            for objective in arms.objectives
            for start in arms.starts
        ],
        num_left=1,
    )


def _accuracy(one: Accuracy | None, seeds: int) -> str:
    if one is None:
        return _NOT_MEASURED
    spread = "" if one.spread is None else f" ± {one.spread:.1f}"
    of = "" if one.seeds == seeds else f" ({one.seeds} of {seeds} seeds)"
    return f"{one.mean:.1f}{spread}{of}"


def _gain(target: Target, its: Sequence[UnitRecord], objective: str, shots: int) -> list[str]:
    found = adapted.gain(its, objective, [shots])
    if found is None:
        empty = [f"*{objective}*", f"*{shots}*", _NOT_MEASURED, "", ""]
        return [*empty, f"*0 of {target.seeds}*", ""]
    one, seeds = found
    of = f"{seeds} of {target.seeds}"
    return [objective, str(shots), *cells.difference(one), of, cells.verdict(one)]
