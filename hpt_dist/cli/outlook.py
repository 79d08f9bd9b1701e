"""What `continue` prints: before it spends anything, and of the weights at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_dist.cli import console
from hpt_dist.cli.plan import costs, counts
from hpt_dist.cli.requested import command
from hpt_dist.datasets.manifest import Manifest
from hpt_dist.launch import adapted, first_recipe, results, space, totals
from hpt_dist.launch.adapted import Left
from hpt_dist.launch.survey import Planned
from hpt_dist.launch.totals import Totals
from hpt_dist.report import unlabelled
from hpt_dist.report.report import Report, build
from hpt_dist.store import Store
from hpt_dist.store.committed import WEIGHTS
from hpt_dist.store.paths import report_folder, work_folder
from hpt_dist.trial.records import Launch

_WIDTH = 9
_ADVICE = {
    "helped": "Use the adapted weights.",
    "harmed": "Use the base weights: the adapted ones are worse on your images.",
    "no evidence": "Neither the base nor the adapted weights are shown to be better.",
}


def print_outlook(
    prepared: Planned, manifest: Manifest, file: Path, takes_hours: float | None, work: str
) -> None:
    """Print what was understood, and what the launch takes and leaves."""
    for name, text in _outlook(prepared, manifest, file, takes_hours, work):
        console.print_line(f"{name:{_WIDTH}}{text}")


def _outlook(
    prepared: Planned, manifest: Manifest, file: Path, takes_hours: float | None, work: str
) -> Iterator[tuple[str, str]]:
    store, sums = prepared.store, totals.of(prepared)
    domain = first_recipe.of_manifest(manifest, manifest.name)
    bytes_ = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    yield "images", domain.in_words()
    yield "judged", _judged(prepared, manifest)
    yield "base", f"{', '.join(prepared.facts.weights) or 'none'} ({prepared.recipe.backbone})"
    yield "recipe", f"{file} (edit it as you like: it is then used as it is)"
    yield "plan", counts(sums)
    yield from _costs(prepared, sums, takes_hours)
    yield "store", f"{store.uri}: images {console.size(bytes_)}, and all results{_free(store)}"
    page = report_folder(work_folder(store, work), store.uri, prepared.recipe.name)
    yield "report", f"{page / 'report.html'}"


def _costs(prepared: Planned, sums: Totals, takes_hours: float | None) -> Iterator[tuple[str, str]]:
    """Yield what is left to do costs: as like trials took, else as estimated."""
    if takes_hours is not None:
        yield "hours", f"about {takes_hours:.2g} for all of it on this machine, estimated by a look"
    elif sums.hours.unknown:
        yield "hours", "unknown: nothing like it has run in this store"
    known = [line for line in costs(sums) if ": unknown" not in line]
    for line in known:
        yield "", line
    about = space.estimate(prepared)
    if about and not any(line.startswith("results") for line in known):
        results, states = map(console.size, about)
        yield "disk", f"about {results} of results, and {states} while a training runs"


def _judged(prepared: Planned, manifest: Manifest) -> str:
    judges = dict.fromkeys(one.stage for one in prepared.trials if one.spec.JUDGES)
    if judges:
        return f"by {', '.join(judges)}: helped, harmed or no evidence of a difference"
    lacks = first_recipe.of_manifest(manifest, manifest.name).lacks()
    why = "no labels" if manifest.label == "none" else lacks or "the recipe evaluates nothing"
    return f"not judged: {why}"


def _free(store: Store) -> str:
    if store.folder is None:
        return ""
    return f"; {console.size(shutil.disk_usage(store.folder).free)} are free"


@dataclass(frozen=True)
class Ending:
    """What a launch led to.

    Args:
        store: of the launch.
        record: of the launch.
        report: of the launch.
        base: the weights that it started from; None if they are not done.
        ours: the adapted weights; None if none are done.
    """

    store: Store
    record: Launch
    report: Report
    base: Left | None
    ours: Left | None

    @property
    def pull(self) -> str:
        """The command that copies the adapted weights."""
        name = f"{self.record.recipe}/{self.ours.trial}" if self.ours else ""
        return command("pull", name, self._folder, store=self.store) if name else ""

    @property
    def loading(self) -> tuple[str, ...]:
        """The lines of Python that load the adapted weights: from the store, or as pulled."""
        if self.ours is None:
            return ()
        file = self.ours.weights if self.store.folder else f"{self._folder}/{WEIGHTS}"
        size = self.ours.size
        return (
            "import hpt_dist",
            f"backbone = hpt_dist.load_backbone({self.ours.backbone!r}, weights={file!r}).eval()",
            f"features = backbone(images)  # [b, 3, {size}, {size}], normalised as loading.md says",
        )

    @property
    def _folder(self) -> str:
        return f"{self.record.recipe}-weights"

    def as_json(self) -> dict[str, Any]:
        """Return where the weights are and how they are loaded, for programs."""
        return {
            "base": self.base.weights if self.base else None,
            "adapted": self.ours.weights if self.ours else None,
            "trial": self.ours.trial if self.ours else None,
            "pull": self.pull,
            "load": list(self.loading),
        }


def ending(store: Store, record: Launch) -> Ending:
    """Return what a launch led to."""
    done = results.finished(store, record)
    report = build(record, done)
    names = {one.name for one in done}
    return Ending(store, record, report, *adapted.weights(store, record, names, report.answer.row))


def print_ending(end: Ending) -> None:
    """Print the verdict, where the weights are, and how they are loaded."""
    console.print_line("")
    for line in _verdict(end.report):
        console.print_line(line)
    if end.ours and (own := end.report.verdicts.get(end.ours.trial)):
        console.print_line(f"{end.ours.trial} on validation: {own}")
    for title, left in (("base weights", end.base), ("adapted weights", end.ours)):
        if left:
            console.print_line(f"{title}: {left.weights} ({left.trial})")
    if end.ours is None:
        return
    if _is_unjudged(end.report) and end.ours.has_picture(end.store):
        console.print_line(f"neighbours before and after: {end.ours.neighbours}")
    console.print_line(f"to copy the adapted weights, with a model card: {end.pull}")
    console.print_line("to load them:")
    for line in end.loading:
        console.print_line(f"  {line}")


def _is_unjudged(report: Report) -> bool:
    return bool(report.unjudged) and not report.figures and not report.gates


def _verdict(report: Report) -> Iterator[str]:
    if _is_unjudged(report):
        yield "not judged: no labels. The base and the adapted weights are both kept."
        yield f"labelled images that would show a gain in accuracy: {unlabelled.needed()}"
        return
    lead = report.answer.lead()
    yield f"{lead.verdict} {lead.text}"
    if (advice := _ADVICE.get(report.answer.verdict)) and report.answer.row:
        yield advice
