"""What a report's page shows of single trials, read from the store of a launch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import HptError
from hpt_dist.errors.secrets import public_address
from hpt_dist.launch.lookup import dataset_store
from hpt_dist.launch.pasted import command
from hpt_dist.launch.survey import looked_up
from hpt_dist.page import Block
from hpt_dist.report import exhibits as shown
from hpt_dist.report.exhibits import PICTURES, DataCard, Exhibits, TrialCard, WeightsCard
from hpt_dist.report.gates import of_averages, verdict_of
from hpt_dist.report.lineage import Node, described, nodes_of
from hpt_dist.store import Store, committed, open_store
from hpt_dist.store.paths import filled_trial_folder, stage_prefix
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Finished, Launch

_MISTAKES = 8  # of each kind
_PACKAGES = ("hpt_dist", "torch", "torchvision", "timm", "python")


log = logging.getLogger(__name__)


def exhibits(
    store: Store, launch: Launch, done: Sequence[Finished], judged: Sequence[str] = ()
) -> Exhibits:
    """Return what a page shows of a launch beside its figures.

    What cannot be read is named on the page; it keeps no report from being written.

    Args:
        store: where the launch is.
        launch: its record.
        done: its finished trials.
        judged: names of the trials whose mistakes are shown.
    """
    nodes = nodes_of(launch.trials, launch.settings, done)
    finished = {one.name: one for one in done}
    chosen = shown.headline(nodes.values())
    cards = looked_up(lambda node: _trial(store, launch, node, finished[node.name]), chosen)
    return replace(
        sources(store, launch, done),
        trials=tuple(cards),
        more=len(done) - len(chosen),
        mistakes={name: found for name in judged if (found := _mistakes(store, launch, name))},
        results={
            node.name: found
            for node in shown.showing(nodes.values())
            if (found := _results(store, node.name, finished[node.name]))
        },
    )


def sources(store: Store, launch: Launch, done: Sequence[Finished]) -> Exhibits:
    """Return what `exhibits` does, without the trials."""
    return Exhibits(
        data=tuple(looked_up(lambda pair: _data(store, launch, *pair), launch.datasets.items())),
        weights=tuple(_weights(launch, done)),
        recipe=launch.written,
        options=launch.options,
        links=_links(launch, store),
        commands=(
            command("report", launch.id, store=store),
            command("status", launch.id, store=store),
        ),
    )


def _trial(store: Store, launch: Launch, node: Node, trial: Finished) -> TrialCard:
    curves, pictures, note = {}, dict[str, bytes](), ""
    try:
        left = committed.digests(store, trial.origin)
        for name in PICTURES:
            if name in left:
                pictures[name] = committed.read(store, trial.origin, name)
        raw = committed.read(store, trial.origin, tracker.METRICS).splitlines(keepends=True)
        lines = [tracker.Line.decode(line, tracker.METRICS) for line in raw]
        curves = shown.curves_of((line.step, line.metrics) for line in lines)
    except HptError as error:
        note = f"Its curves or pictures are left out: {error.problem.what}."
    run = trial.run
    return TrialCard(
        name=trial.name,
        key=trial.key,
        says=described(node, launch.settings),
        verdict=verdict_of(trial.result.get("details", {})),
        numerics=str(run.get("numerics", "")),
        versions={name: str(run[name]) for name in _PACKAGES if name in run},
        seconds=float(run["seconds"]),
        place=f"{public_address(store.uri)}/{stage_prefix(trial.key)}",
        pull=command("pull", f"{launch.id}/{trial.name}", "DEST", store=store),
        run=_page(launch, store, trial.key),
        curves=curves,
        note=note,
        pictures=pictures,
        averages=tuple(of_averages(trial.result.get("details", {}))),
    )


def _mistakes(store: Store, launch: Launch, name: str) -> tuple[Block, ...]:
    """Return a trial's most confident mistakes on val; nothing where it left no predictions."""
    from hpt_dist.launch import answered  # it imports pyarrow
    from hpt_dist.report import mistakes, mistakes_page

    key = launch.trials[name]
    try:
        facts, answers = answered.predictions(store, name, key, "val")
        wrong = mistakes.of(facts, answers)
        shown = [one for kind in wrong.kinds for one in wrong.of_kind(kind, _MISTAKES)]
        pictures, lack = answered.thumbnails(store, key, facts, {one.key for one in shown})
    except HptError as error:
        log.info("%s shows no mistakes: %s", name, error)
        return ()
    return tuple(mistakes_page.blocks(wrong, name, pictures, lack, _MISTAKES))


def _results(store: Store, name: str, trial: Finished) -> tuple[Block, ...]:
    """Return what a trial left to show; nothing where it cannot be read."""
    from hpt_dist.evals import detection_document  # it imports numpy
    from hpt_dist.report import detections, patches

    found: list[Block] = []
    try:
        left = committed.digests(store, trial.origin)
        pictures = {
            one: committed.read(store, trial.origin, one) for one in left if one.endswith(".webp")
        }
        for one in filter(detection_document.is_file, sorted(left)):
            data = committed.read(store, trial.origin, one)
            where = f"{store.uri}/{stage_prefix(trial.origin)}/{one}"
            document = detection_document.decoded(data, where)
            found += detections.blocks(document, name, pictures)
        found += patches.blocks(trial.result, name, pictures)
    except HptError as error:
        log.info("%s shows no results: %s", name, error)
        return ()
    return tuple(found)


def _page(launch: Launch, store: Store, key: str) -> str:
    """Return the page of a trial in MLflow; empty where there is none that a browser can open."""
    if not launch.tracking_uri.startswith("http"):
        return ""
    place = tracker.place_of(filled_trial_folder(Path(launch.work), store.uri, key))
    if not (place.experiment_id and place.run_id):
        return ""
    address = public_address(launch.tracking_uri).rstrip("/")
    return f"{address}/{tracker.page_of(place.experiment_id, place.run_id)}"


def _data(store: Store, launch: Launch, alias: str, reference: str) -> DataCard:
    try:
        uri, name = dataset_store(reference)
        manifest = read_manifest(open_store(uri) if uri else store, name)
    except HptError as error:
        what = f"its manifest cannot be read: {error.problem.what}"
        return DataCard(alias, reference, "", "", {}, what)
    digests = {_digest(document, alias) for document in launch.settings.values()} - {""}
    changed = digests and manifest.digest not in digests
    return DataCard(
        name=alias,
        place=reference,
        licence=manifest.source.licence,
        credit=manifest.source.credit,
        images={split: one.images for split, one in manifest.splits.items()},
        note="it has changed since these trials read it" if changed else "",
    )


def _digest(document: Mapping[str, Any], alias: str) -> str:
    datasets = document.get("datasets")
    return str(datasets.get(alias, "")) if isinstance(datasets, Mapping) else ""


def _weights(launch: Launch, done: Sequence[Finished]) -> Iterator[WeightsCard]:
    """Yield what the launch imported, with the licence that hpt-dist knows of it."""
    for trial in done:
        spec = launch.settings.get(trial.name, {}).get("spec", {})
        if trial.result["kind"] == "import" and isinstance(spec, Mapping):
            source = public_address(str(spec.get("weights", "")))
            licence = str(trial.result.get("details", {}).get("licence", ""))
            yield WeightsCard(trial.name, source, licence)


def _links(launch: Launch, store: Store) -> dict[str, str]:
    """Return the page of the launch's run in MLflow, where a browser can open it."""
    if not (launch.tracking_uri.startswith("http") and launch.parent_run):
        return {}
    for key in launch.trials.values():
        place = tracker.place_of(filled_trial_folder(Path(launch.work), store.uri, key))
        if place.experiment_id:
            address = public_address(launch.tracking_uri).rstrip("/")
            page = tracker.page_of(place.experiment_id, launch.parent_run)
            return {"this launch in MLflow": f"{address}/{page}"}
    return {}
