"""The commands: parse, call, print. Nothing here imports torch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hpt_dist import __version__
from hpt_dist.cli import console, runs
from hpt_dist.cli.data import data_app
from hpt_dist.cli.options import (
    DEFAULT_STORE,
    FreshOption,
    JsonOption,
    RanksOption,
    StoreOption,
    TrackingOption,
    WorkOption,
)
from hpt_dist.errors import HptError, RequestError
from hpt_dist.recipe.numerics import Device
from hpt_dist.trial.records import Where

app = typer.Typer(
    name="hpt-dist",
    help="Continue pretraining on your own data, in stages, safely.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a setting; may be repeated."),
]
_RUNS = (
    runs.status,
    runs.logs,
    runs.cancel,
    runs.pull,
    runs.report,
    runs.sync,
    runs.ui,
)
_CTRL_C = 130  # what typer makes of it


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.say(__version__)
        raise typer.Exit


@app.command()
def shard(
    source: Annotated[
        str, typer.Argument(help="A folder, a list, a COCO file, or a name; see docs/datasets.md")
    ],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="STORE/datasets/NAME")],
    root: Annotated[
        Path | None, typer.Option(help="Where a named dataset is, or the paths in a file start.")
    ] = None,
    max_bad: Annotated[
        int, typer.Option(help="Images that may be left out: unreadable or damaged.", min=0)
    ] = 10,
    shard_mb: Annotated[float, typer.Option(help="Size of one tar, MB.", min=0.001)] = 256,
    resize: Annotated[
        int | None,
        typer.Option(
            help="Short side of larger images, pixels; smaller ones stay as they are. JPEG stays "
            "JPEG, of quality 90 without --quality; PNG stays PNG without --quality.",
            min=1,
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(help="Encode every image, PNG too, as JPEG of this quality.", min=1, max=100),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes; by default as many as there are cores to use.", min=1),
    ] = None,
    on: Annotated[
        str, typer.Option(metavar="PROFILE", help="Of a Slurm cluster to work on, a YAML file.")
    ] = "",
    jobs: Annotated[int | None, typer.Option(help="Slurm jobs to split it into.", min=1)] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit the jobs and return.")] = False,
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Write images as WebDataset tars with a manifest. Running again goes on, or finds it done.

    JPEG and PNG files are copied byte by byte unless --resize or --quality ask for more; other
    formats become PNG. Boxes of an annotation keep the frame whose size the annotation states.

    \b
    Examples:
      hpt-dist shard ~/photos ./hpt-store/datasets/photos
      hpt-dist shard labels.csv s3://bucket/hpt/datasets/flowers
      hpt-dist shard openmoji/line ./hpt-store/datasets/openmoji/line
      hpt-dist shard resisc45 ./hpt-store/datasets/resisc45 --root /data/NWPU-RESISC45
      hpt-dist shard ~/photos ./hpt-store/datasets/small --resize 256 --quality 85
      hpt-dist shard ~/photos ./hpt-store/datasets/photos --workers 8 --max-bad 100
      hpt-dist shard s.csv s3://b/hpt/datasets/s --on slurm/profiles/generic-cpu.yaml --jobs 16
    """
    from hpt_dist.cli import shard as command_shard
    from hpt_dist.images.formats import Encoding

    if not on and (jobs or no_wait):
        raise RequestError("--jobs and --no-wait are for a cluster", fix="name it by --on PROFILE")
    began_s = time.perf_counter()
    encoding = Encoding(resize, quality)
    request = command_shard.requested(source, destination, shard_mb, max_bad, encoding, root)
    manifest = (
        command_shard.write_by_jobs(request, _profile(on), jobs, workers, work, no_wait)
        if on
        else command_shard.write_here(request, workers)
    )
    if manifest:
        seconds = time.perf_counter() - began_s
        command_shard.print_written(manifest, destination, seconds, json_)


@app.command()
def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    on: Annotated[
        str, typer.Option(metavar="WHERE", help="local, or a profile of the cluster to plan for.")
    ] = "local",
    stand_ins: Annotated[
        Path | None, typer.Option(help="YAML that describes datasets that are not there yet.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say of each trial whether it is cached, resumes or runs, and why. Starts nothing.

    Precision follows from the device, and is part of what a trial is: plan for where you launch.

    \b
    Examples:
      hpt-dist plan recipes/quickstart.yaml
      hpt-dist plan quickstart
      hpt-dist plan recipes/quickstart.yaml --on slurm/profiles/mine.yaml
      hpt-dist plan recipes/real_to_sketch.yaml --stand-ins recipes/stand_ins/domainnet.yaml
    """
    from hpt_dist.launch import here, on_slurm, survey

    on_here = on == "local"
    device = here.device() if on_here else on_slurm.load(_profile(on, "local")).device
    prepared = _prepare(recipe, set_, device, stand_ins)
    if json_:
        console.print_json(
            [
                {
                    "trial": t.name,
                    "key": t.key,
                    "views": t.images,
                    "settings": t.document["spec"],
                    "device": t.device,
                }
                | survey.as_json(prepared.states[t.key])
                for t in prepared.trials
            ]
        )
        return
    console.print_plan(prepared.trials, prepared.states, prepared.facts)


@app.command()
def launch(
    recipe: RecipeArgument,
    on: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="local: worker processes; inline: this process; or a profile of a Slurm cluster, "
            "a YAML file or a shipped one's name.",
        ),
    ] = "local",
    set_: SetOption = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this stage, and what it starts from, alone.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="CPU cores to share out.", min=1, envvar="HPT_CORES")
    ] = None,
    ranks: RanksOption = None,
    fresh: FreshOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what sbatch would get, and submit nothing.")
    ] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Submit jobs that wait for `scontrol release`.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Tell of submitted trials until they are over.")
    ] = False,
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
) -> None:
    """Run what is pending of a recipe, and print its report. Safe to run again after anything.

    On a cluster it submits one job for each pending trial and returns: nothing stays running here.

    \b
    Examples:
      hpt-dist launch recipes/quickstart.yaml
      hpt-dist launch recipes/quickstart.yaml --set stages.hpt.steps=100 --only hpt
      hpt-dist launch recipes/real_to_sketch.yaml --ranks 8
      hpt-dist launch recipes/real_to_sketch.yaml --on slurm/profiles/mine.yaml
      hpt-dist launch recipes/real_to_sketch.yaml --on slurm/profiles/mine.yaml --dry-run
    """
    from hpt_dist.cli import launch as command_launch
    from hpt_dist.cli import on_slurm as command_cluster
    from hpt_dist.launch import here, on_slurm

    if tracking_uri:  # also where weights come from MLflow, here and in the trials' processes
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    if on in ("local", "inline"):
        if dry_run or hold or watch:
            raise RequestError(
                "--dry-run, --hold and --watch are for a cluster", fix="name it by --on PROFILE"
            )
        where: Where = "inline" if on == "inline" else "local"
        prepared = _prepare(recipe, set_, here.device())
        done = command_launch.run(
            prepared, where, only or [], cores, tracking_uri, work, ranks or 1, fresh
        )
    else:
        if fresh:
            raise RequestError("--fresh is for --on local", fix="leave it out: jobs are fresh")
        profile = on_slurm.load(_profile(on, "local", "inline"))
        prepared = _prepare(recipe, set_, profile.device)
        site = on_slurm.site(profile, prepared.store, work, ranks, hold)
        done = command_cluster.run(prepared, only or [], site, dry_run=dry_run, watch=watch)
    if not done:
        raise typer.Exit(1)


for _command in _RUNS:
    app.command()(_command)


@app.command()
def doctor(
    profile: Annotated[
        str, typer.Argument(metavar="[PROFILE]", help="Of a Slurm cluster to check too.")
    ] = "",
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Check what a launch needs, and say how to fix what is missing; exit 1 if anything is.

    With a profile it checks the cluster too, by a short job on one or two of its nodes.

    \b
    Examples:
      hpt-dist doctor --store s3://bucket/hpt
      hpt-dist doctor slurm/profiles/mine.yaml
    """
    from hpt_dist.doctor import cluster
    from hpt_dist.doctor import services as checks
    from hpt_dist.store import open_store
    from hpt_dist.store.paths import default_tracking_uri, work_folder

    if tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    on_slurm, read = cluster.load(_profile(profile)) if profile else (None, [])
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking_uri:
        tracking_uri = default_tracking_uri(work_folder(open_store(store), work))
    findings = [*read, *checks.examine(store, tracking_uri)]
    if on_slurm:
        findings += cluster.examine(on_slurm, store, work, console.note)
    if json_:
        console.print_json([vars(finding) for finding in findings])
    else:
        marks = {True: "ok", False: "FAIL", None: "note"}
        console.print_table(
            ("check", "", "says"), [(f.name, marks[f.ok], f.says) for f in findings]
        )
        for finding in findings:
            if finding.ok is False:
                console.complain(f"{finding.name}: {finding.fix}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for an editor's completion.

    \b
    Example:
      hpt-dist schema > recipe.schema.json
    """
    from hpt_dist.recipe.file import schema as make

    console.print_json(make())


def _prepare(
    recipe: Path, set_: list[str] | None, device: Device, stand_ins: Path | None = None
) -> Any:
    from hpt_dist.launch.survey import plan_against_store
    from hpt_dist.recipe import shipped

    return plan_against_store(
        _announced(recipe, shipped.recipe(recipe)), set_ or [], stand_ins, device
    )


def _profile(name: str, *others: str) -> str:
    """Return the file of a profile; `others` are what else the option takes."""
    from hpt_dist.slurm.profile import located

    return str(_announced(name, located(name, others)))


def _announced(name: Path | str, file: Path) -> Path:
    """Return a file, and say which it is where a name stood for it."""
    if file != Path(name):
        console.note(f"{name} is {file}")
    return file


def main() -> None:
    """Run the command line; exit 0 when done, 1 when the work failed, 2 for a wrong request."""
    try:
        app()
    except HptError as error:
        console.complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        console.complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == _CTRL_C:
            console.complain("interrupted")
            sys.exit(1)
        raise
