"""`make evidence-page`: docs/evidence.md, from evidence/results/ and evidence/tried.yaml alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evidence import adaptation_page, calibration, cells, detection_page, records, rows
from evidence.calibration import VERDICTS
from evidence.matrix import ARMS, BASE, EVALUATIONS, PIXELS, RESULTS, ROOT, TARGETS, Target, units
from evidence.records import UnitRecord
from evidence.rows import OverTargets, Row
from hpt_dist.errors import HptError
from hpt_dist.evals.evidence import Verdict
from hpt_dist.page import Block, Grid, Heading, Items, Lead, Paragraph, markdown

PAGE = ROOT / "docs/evidence.md"
TRIED = ROOT / "evidence/tried.yaml"
Measured = Sequence[tuple[Target, Sequence[UnitRecord]]]

_HEADLINE = next(iter(EVALUATIONS))
_JUDGED = ("hpt", "hpt_bn", "anchored", "averaged", "fresh")
_RIVALS = {PIXELS: "raw pixels", "random": "a random network", "scratch": "scratch"}
_SHORT = {"linear": "linear", "few": "few labels", "tuned": "fine-tuned", "near": "neighbours"}
_SAYS: Mapping[Verdict, str] = {
    "helped": "it helps",
    "harmed": "it does harm",
    "no evidence": "no evidence that it helps",
    "none": "no verdict yet",
}
_NOT_RUN = "*not run yet*"

_QUESTION = """\
Does continued pretraining help an ImageNet network (EfficientNet-Lite0, 64 pixels) on other images,
and does the gate notice where it does not? Every number is measured by the recipes in
recipes/evidence; {begun} of {units} units of a target and a seed are begun. Rows that lack seeds
say so.
"""
_HOW = """\
`make evidence` measures what is left, and `make evidence-page` writes this page from the committed
records in evidence/results. Nothing here was tuned on these targets: the settings are those of
recipes/one_domain.yaml, in 200 steps of 64 images. OpenMoji's colour and paint drawings are kept
for tuning and never reported.
"""
_READING = (
    "Each seed has its own pretraining and its own choice of labels; arms are compared seed by "
    "seed and test image by test image. Numbers are accuracy on test in per cent.",
    "A difference has two 95 % intervals: over other trainings (Student's t over seeds), and over "
    "other test images (paired). *Helped* and *harmed* need both. One seed has no verdict.",
    "Intervals are not widened for the number of rows: of rows without any effect a few in a "
    "hundred are called helped or harmed by chance. So read the answer over all targets first.",
    "CPU minutes are those of the training behind a row, of one seed, on the machine below.",
)
_TWO_QUESTIONS = """\
The headline is *another target*: the mean over domains with Student's t over them, which is what
a reader with other images can expect; few domains make it wide. *These targets* asks only whether
it helped here: each domain has the same weight, and the interval is that of trainings and test
images (Satterthwaite). Fashion-MNIST's two sizes share their test images and count as one domain.
Inverse-variance weights are not used: with so few seeds they are noise, and their intervals are too
narrow.
"""
_STORY = """\
So few test images cannot show a difference below about 9 points, whatever the number of seeds. So
this target has numbers, and counts in no verdict.
"""
_GATE = """\
A pretraining says on validation whether it helped, by its monitor, before anybody uses its weights.
Test shows afterwards whether that was right, by the linear evaluation, paired by image.
Rows are what the gate said of {cases} pretrainings (each arm, target and seed that has a gate),
columns what test showed.
"""
_POLICY = """\
What following it earns, in points of test accuracy over what each pretraining started from; how
often new weights are taken, and how often test shows that these did harm:
"""
_AGREEMENT = """\
Where both decide ({decided} cases) they agree in {agree}: {share:.0f} %, with an exact 95 %
interval of {low:.0f} to {high:.0f} %, as if the cases were independent; those of one target are
not quite.
"""


def main() -> int:
    """Write the page; return the exit status."""
    try:
        write(RESULTS, PAGE)
    except HptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(PAGE)
    return 0


def write(results: Path, page: Path) -> None:
    """Write the page of the records in a folder.

    Raises:
        DamagedRecordError: a record is damaged.
    """
    page.write_text(text(results), encoding="utf-8")


def text(results: Path) -> str:
    """Return the page of the records in a folder, as Markdown."""
    every = [records.read(unit, results) for unit in units()]
    measured = [(one, [r for r in every if r.target == one.name]) for one in TARGETS]
    later = (*adaptation_page.blocks(results), *detection_page.blocks(results))
    return markdown([*_blocks(measured, every), *later])


def _blocks(measured: Measured, every: Sequence[UnitRecord]) -> Iterator[Block]:
    yield Heading(1, "Evidence: what it is worth, on images that install here")
    yield from _opening(every)
    yield from _answer(measured)
    for target, its in measured:
        if target.decides:
            yield from _target(target, its)
    yield from _gate(measured)
    for target, its in measured:
        if not target.decides:
            yield from _target(target, its)
    yield from _tried()
    yield from _measured_on(every)


def _opening(every: Sequence[UnitRecord]) -> Iterator[Block]:
    begun = sum(bool(one.trials) for one in every)
    yield Paragraph(_QUESTION.format(begun=begun, units=len(every)))
    yield Paragraph(_HOW)
    yield Items(_READING)


def _answer(measured: Measured) -> Iterator[Block]:
    yield Heading(2, "The answer over all targets")
    found = [
        one
        for evaluation in EVALUATIONS
        for arm in _JUDGED
        if (one := rows.over_targets(measured, evaluation, arm))
    ]
    if not found:
        yield Paragraph(f"No target is measured yet: {_NOT_RUN}.")
        return
    for one in found:
        if one.evaluation == _HEADLINE:
            yield _lead(one)
    header = ["arm", "evaluation", "domains", "seeds", "another target", "these targets"]
    yield Grid(
        header,
        [
            [
                one.arm,
                _SHORT[one.evaluation],
                str(one.headline.targets),
                str(one.seeds),
                cells.pooled(one.headline, "one domain"),
                cells.pooled(one.here, "one seed"),
            ]
            for one in found
        ],
        num_left=2,
    )
    yield Paragraph(_TWO_QUESTIONS)


def _lead(one: OverTargets) -> Lead:
    verdict, tone = one.headline.verdict, {"helped": "good", "harmed": "bad"}
    domains = f"{one.headline.targets} domain{'s' * (one.headline.targets != 1)}"
    text = f"{cells.signed(one.headline.mean)}{cells.half(one.headline)} points over {domains}"
    text += f" ({_so_far(one)})" if _so_far(one) else ""
    here = cells.pooled(one.here, "one seed")
    text += f", {_SHORT[one.evaluation]} evaluation; on these targets alone {here}."
    # A verdict at every look, until one pleases, would be one of chance.
    title = f"{one.arm}: {'no verdict before all seeds' if _so_far(one) else _SAYS[verdict]}."
    is_good = tone.get(verdict) == "good" and not _so_far(one)
    return Lead(title, text, "good" if is_good else "neutral")


def _so_far(one: OverTargets) -> str:
    """Return what is still missing behind a mean, in words; empty where nothing is."""
    deciding = [target for target in TARGETS if target.decides]
    domains, seeds = len({target.domain for target in deciding}), min(t.seeds for t in deciding)
    if (one.headline.targets, one.seeds) == (domains, seeds):
        return ""
    return f"so far: {one.headline.targets} of {domains} domains, {one.seeds} of {seeds} seeds"


def _target(target: Target, its: Sequence[UnitRecord]) -> Iterator[Block]:
    yield Heading(2, target.title + ("" if target.decides else ": a story, no verdict"))
    if not target.decides:
        yield Paragraph(_STORY)
    yield Paragraph(f"Recipe: recipes/evidence/{target.name}.yaml. {_sizes(its)}")
    found = [rows.row(target, its, *which) for which in rows.planned(target)]
    if not any(one.seeds for one in found):
        arms = ", ".join(dict.fromkeys(one.arm for one in found))
        yield Paragraph(f"{_NOT_RUN}: {arms}, {target.seeds} seeds each.")
        return
    header = ["arm", "evaluation", "accuracy", "seeds", "difference", "± seeds", "± images"]
    verdicts = ["verdict"] if target.decides else []
    yield Grid(
        [*header, "CPU min", *verdicts],
        [_cells(one, decides=target.decides) for one in found],
        num_left=2,
    )
    if target.domain == "Fashion-MNIST":
        yield from _rivals(its)


def _sizes(its: Sequence[UnitRecord]) -> str:
    for record in its:
        labels = {name: one for name in EVALUATIONS if (one := record.of(name, BASE))}
        if labels:
            test = next(iter(labels.values())).images
            learned = ", ".join(f"{_SHORT[n]} {one.labels:,}" for n, one in labels.items())
            return f"{test:,} test images; labelled images: {learned}."
    return ""


def _cells(one: Row, *, decides: bool) -> list[str]:
    seeds = f"{one.seeds} of {one.planned}"
    cost = "" if one.cpu_minutes is None else f"{one.cpu_minutes:.1f}"
    names = [one.arm, _SHORT[one.evaluation]]
    if one.mean is None:
        empty = [f"*{name}*" for name in names] + [_NOT_RUN, f"*{seeds}*", "", "", "", ""]
        return [*empty, *([""] if decides else [])]
    numbers = [f"{one.mean:.1f}", seeds, *cells.difference(one.versus)]
    return [*names, *numbers, cost, *([cells.verdict(one.versus)] if decides else [])]


def _rivals(its: Sequence[UnitRecord]) -> Iterator[Block]:
    yield Paragraph("Fashion-MNIST hardly needs a pretrained network, so HPT must also beat these:")
    found = [
        [f"hpt against {title}", _SHORT[evaluation], *_rival(its, evaluation, rival)]
        for rival, title in _RIVALS.items()
        for evaluation in EVALUATIONS
        if (rival, evaluation) != (PIXELS, "tuned")
    ]
    header = ["HPT", "evaluation", "difference", "± seeds", "± images", "verdict"]
    yield Grid(header, found, num_left=2)


def _rival(its: Sequence[UnitRecord], evaluation: str, rival: str) -> list[str]:
    found = rows.against(its, evaluation, "hpt", rival)
    words: Mapping[Verdict, str] = {"helped": "better", "harmed": "worse"}
    if found is None:
        return [_NOT_RUN, "", "", ""]
    return [*cells.difference(found), words.get(found.verdict, cells.WORDS[found.verdict])]


def _gate(measured: Measured) -> Iterator[Block]:
    yield Heading(2, "Is the gate right?")
    every = [record for target, its in measured if target.decides for record in its]
    found = rows.cases(every, _HEADLINE)
    if not found:
        yield Paragraph(f"No pretraining is measured yet: {_NOT_RUN}.")
        return
    yield Paragraph(_GATE.format(cases=len(found)))
    counts = calibration.table(found)
    yield Grid(
        ["the gate said", *(f"test: {name}" for name in VERDICTS)],
        [[said, *map(str, line)] for said, line in zip(VERDICTS, counts, strict=True)],
    )
    yield Paragraph(_agreement(found))
    yield Paragraph(_POLICY)
    yield Grid(
        ["policy", *(f"gain, {_SHORT[name]}" for name in EVALUATIONS), "taken", "harmful"],
        _policies(every),
    )


def _agreement(found: Sequence[calibration.Case]) -> str:
    one = calibration.agreement(found)
    if not one.decided:
        return "In no case do both decide yet."
    shares = {"share": one.agree / one.decided, "low": one.low, "high": one.high}
    scaled = {name: 100 * value for name, value in shares.items()}
    return _AGREEMENT.format(decided=one.decided, agree=one.agree, **scaled)


def _policies(every: Sequence[UnitRecord]) -> list[list[str]]:
    by_evaluation = {name: calibration.gains(rows.cases(every, name)) for name in EVALUATIONS}
    lines = []
    for policy, (_, taken, harmful) in by_evaluation[_HEADLINE].items():
        earned = [cells.signed(by_evaluation[name][policy][0], 2) for name in EVALUATIONS]
        lines.append([policy, *earned, str(taken), str(harmful)])
    return lines


def _tried() -> Iterator[Block]:
    yield Heading(2, "What was tried and did not help")
    found: list[dict[str, Any]] = yaml.safe_load(TRIED.read_text(encoding="utf-8"))
    yield Items([f"{one['tried']}. {one['found']} {one['since']} ({one['see']})" for one in found])


def _measured_on(every: Sequence[UnitRecord]) -> Iterator[Block]:
    yield Heading(2, "Command and commit of each row")
    yield cells.origins(units(), every)
    yield Items(cells.machines(every) or [_NOT_RUN])
    yield Items([f"{arm}: {says}" for arm, says in ARMS.items()])


if __name__ == "__main__":
    sys.exit(main())
