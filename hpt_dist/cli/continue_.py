"""hpt-dist continue: from images to a verdict and weights."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist import advice
from hpt_dist.cli import console, outlook
from hpt_dist.cli import launch as launching
from hpt_dist.cli import shard as sharding
from hpt_dist.cli.options import (
    DEFAULT_STORE,
    BaseOption,
    ClassesOption,
    ColumnsOption,
    CoresOption,
    FirstOption,
    GroupOption,
    HoursOption,
    ImageOption,
    JsonOption,
    LabelOption,
    LayoutOption,
    LeaveOutOption,
    LookSecondsOption,
    MaxBadOption,
    QualityOption,
    ReplaceOption,
    ResizeOption,
    RootOption,
    ScaleOption,
    SourceArgument,
    SplitOption,
    StoreOption,
    TrackingOption,
    WorkersOption,
    WorkOption,
)
from hpt_dist.cli.requested import command, explained, planned, this_command
from hpt_dist.datasets import shards
from hpt_dist.datasets.manifest import Manifest
from hpt_dist.errors import HptError, RequestError
from hpt_dist.images import depth
from hpt_dist.images.formats import Encoding
from hpt_dist.launch import continued, first_recipe, here, launches, space
from hpt_dist.launch.continued import Asked
from hpt_dist.launch.sharding import ShardingRequest
from hpt_dist.launch.survey import Planned
from hpt_dist.recipe import file as recipe_file
from hpt_dist.sources import named, openmoji, other_files, tars
from hpt_dist.store import Store, files, open_store
from hpt_dist.store.paths import usual_store
from hpt_dist.trial.records import Launch

_NAMED = (*openmoji.NAMES, *named.NAMES)

YesOption = Annotated[
    bool, typer.Option("--yes", help="Do not ask before the launch; needed without a terminal.")
]
NameOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Name of the dataset, and of the recipe NAME.yaml; by default that of the folder.",
    ),
]


@dataclass(frozen=True)
class _Way:
    """How `continue` goes on after the images are understood; see the options."""

    store: Store
    asked: Asked
    yes: bool
    look_seconds: float
    workers: int | None
    cores: int | None
    tracking_uri: str
    work: str


def continue_(
    sources: SourceArgument,
    hours: HoursOption = None,
    yes: YesOption = False,
    name: NameOption = "",
    base: BaseOption = None,
    source: FirstOption = None,
    look_seconds: LookSecondsOption = 120.0,
    root: RootOption = None,
    layout: LayoutOption = "",
    columns: ColumnsOption = "",
    group_by: GroupOption = None,
    image: ImageOption = "",
    label: LabelOption = "",
    classes: ClassesOption = "",
    split: SplitOption = "",
    max_bad: MaxBadOption = 10,
    resize: ResizeOption = None,
    quality: QualityOption = None,
    scale: ScaleOption = "",
    replace: ReplaceOption = False,
    leave_out: LeaveOutOption = None,
    workers: WorkersOption = None,
    cores: CoresOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Go from images to a verdict and weights, without a recipe of your own.

    It shards the images, recommends a recipe and writes it as NAME.yaml into this folder, shows
    what that takes, asks, launches it, and names the weights. After Ctrl-C or any failure run the
    same command again: what is done stays. A recipe that you edit is used as it is.

    \b
    Examples:
      hpt-dist continue ~/photos
      hpt-dist continue ~/photos --hours 2 --yes
      hpt-dist continue birds.csv --columns path=photo,label=species
      hpt-dist continue ~/scans --layout flat --name scans
      hpt-dist continue openmoji/line --hours 0.5
    """
    if tracking_uri:  # trials' processes read it too
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    advice.check_time(hours, look_seconds)
    encoding = Encoding(resize, quality, depth.parse(scale))
    with console.text_aside() if json_ else contextlib.nullcontext():
        opened, called = open_store(store), _name(sources, name)
        place = f"{opened.uri}/datasets/{called}"
        listed = tars.listed(sources)
        request = sharding.requested(listed, place, 256, max_bad, encoding, root, replace)
        request = dataclasses.replace(
            request,
            layout=layout,
            columns=columns,
            group_by=group_by,
            tars=sharding.tar_options(image, label, classes, split),
            leave_out=str(leave_out) if leave_out else "",
        )
        asked = Asked(called, "", hours, tuple(base or ()), tuple(source or ()))
        way = _Way(opened, asked, yes, look_seconds, workers, cores, tracking_uri, work)
        record, done = _gone(request, way)
    if json_:
        weights = outlook.ending(opened, record).as_json()
        console.print_json(launching.as_json(opened, record) | {"weights": weights})
    if not done:
        raise typer.Exit(1)


def _name(sources: list[str], name: str) -> str:
    """Return the name of the dataset.

    Raises:
        RequestError: the name cannot be one, or none follows from what is given.
    """
    if name:
        with _at("--name"):
            shards.stem_of(name)
        return name
    text = sources[0]
    if len(sources) > 1 or "://" in text or re.search(r"[{*?]", text):
        raise RequestError("tars give the dataset no name", fix="name it with --name NAME")
    if text in _NAMED and not Path(text).exists():
        return text
    return first_recipe.name_of(Path(text))


@contextlib.contextmanager
def _at(option: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise error.at(option) from error


def _gone(request: ShardingRequest, way: _Way) -> tuple[Launch, bool]:
    """Go the whole way; return the launch, and whether all of it is done."""
    with _way_on():
        manifest = _sharded(request, way)
        asked = dataclasses.replace(way.asked, digest=manifest.digest)
        file, takes_hours = _recipe(way, asked)
        prepared = _prepared(file, way.store, manifest)
        trials = here.chosen(prepared, ())
        if here.pending(prepared, trials, "local", 1):
            outlook.print_outlook(prepared, manifest, file, takes_hours, way.work)
            _ask(way, file)
        where = (way.cores, way.tracking_uri, way.work)
        record, done = launching.run_here(prepared, "local", [], *where)
        if done:
            outlook.print_ending(outlook.ending(prepared.store, record))
        else:
            look = command("status", record.id, store=prepared.store)
            console.print_note(f"where each trial stands: {look}; the same command goes on")
    return record, done


@contextlib.contextmanager
def _way_on() -> Iterator[None]:
    """Print how to go on where this is interrupted or fails half-way."""
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        console.leave_line()
        console.print_error(f"stopped; to go on, run the same command: {this_command()}")
        raise typer.Exit(1) from None
    except HptError as error:
        if error.exit_code == 1:
            console.print_note(f"what is done stays; after the fix, go on by: {this_command()}")
        raise


def _sharded(request: ShardingRequest, way: _Way) -> Manifest:
    """Write the images as a dataset, as `shard` does.

    Raises:
        RequestError: nobody can be asked, or as `shard` would raise it.
    """
    with explained(_in_our_words):
        source = sharding.understood_source(request)
        if not way.yes and not sys.stdin.isatty():
            raise RequestError(
                "it asks before it spends hours, and there is no terminal to ask on",
                where="--yes",
                fix=f"to go on without a question: {this_command()} --yes",
            )
        space.check(request, source, way.store)
        manifest = sharding.write(request, source, way.workers)
    left_out = len(manifest.quarantined)
    if left_out:
        console.print_note(f"left out, because they cannot be used: {left_out:,} images")
    return manifest


def _in_our_words(fix: str) -> str:
    """Return what `shard` says to do in the words of this command."""
    fix = fix.replace("choose another name;", "choose another name with --name;")
    return other_files.for_verb(fix, "continue")


def _recipe(way: _Way, asked: Asked) -> tuple[Path, float | None]:
    """Return the recipe's file, which is written if need be, and the hours that it may take."""
    called = re.sub(r"[^A-Za-z0-9.-]+", "_", asked.dataset)[:90].lstrip("_.-") or "images"
    file = Path.cwd() / f"{called}.yaml"
    # What is no text is no recipe of ours, and its reader reports it.
    there = file.read_bytes().decode(errors="replace") if file.exists() else None
    before = [one for one in reversed(launches.launches(way.store)) if one.recipe == called]
    texts = [one.written for one in before]
    choice = continued.choose(str(file), there, asked, texts, can_ask=not way.yes)
    for line in choice.says:
        console.print_note(line)
    if choice.kind == "restored":
        files.replace(file, choice.text.encode())
    if choice.kind != "new":
        return file, choice.takes_hours
    found = advice.recommend(
        way.store,
        asked.dataset,
        bases=asked.bases,
        sources=asked.sources,
        hours=asked.hours,
        name=called,
        progress=console.print_note,
        look_seconds=way.look_seconds,
    )
    for line in found.says:
        console.print_note(line)
    files.replace(file, continued.stamped(found.text, asked, found.hours).encode())
    return file, found.hours


def _prepared(file: Path, store: Store, manifest: Manifest) -> Planned:
    """Return the plan of a recipe.

    Raises:
        RequestError: it does not read the dataset.
    """
    _, own = recipe_file.home(file)
    leads_here = open_store(own or usual_store()).uri == store.uri
    prepared = planned(file, None, here.device(), store="" if leads_here else store.uri)
    if manifest.digest not in [one.digest for one in prepared.facts.datasets.values()]:
        raise RequestError(
            f"this recipe reads other datasets than {manifest.name}",
            where=str(file),
            fix="take another name with --name, or move the recipe",
        )
    return prepared


def _ask(way: _Way, file: Path) -> None:
    """Ask whether to go on.

    Raises:
        Exit: the answer is no.
    """
    if way.yes or typer.confirm("go on?", err=True):
        return
    console.print_note(f"nothing was started; the images are sharded, and the recipe is {file}")
    console.print_note(f"to go on: {this_command()}")
    raise typer.Exit(1)
