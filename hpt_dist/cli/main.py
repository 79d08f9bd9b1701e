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
    ClusterOption,
    CoresOption,
    FreshOption,
    JsonOption,
    OnlyOption,
    QualityOption,
    RanksOption,
    ResizeOption,
    RootOption,
    SourceArgument,
    StoreOption,
    TrackingOption,
    WhereOption,
    WorkOption,
)
from hpt_dist.errors import HptError, RequestError
from hpt_dist.recipe.numerics import Device
from hpt_dist.trial.records import Where

app = typer.Typer(
    name="hpt-dist",
    help="""Continue pretraining on your own data, in stages, safely.

    \b
    Examples:
      hpt-dist shard ~/photos ./hpt-store/datasets/photos
      hpt-dist plan one_domain
      hpt-dist launch one_domain
      hpt-dist COMMAND --help
    """,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

RecipeArgument = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a recipe in the package."),
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
_CTRL_C = 130  # typer's exit code for it


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.print_line(__version__)
        raise typer.Exit


@app.command()
def shard(
    source: SourceArgument,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="The dataset to write: STORE/datasets/NAME.")
    ],
    root: RootOption = None,
    max_bad: Annotated[
        int,
        typer.Option(help="Number of unreadable or damaged images that may be left out.", min=0),
    ] = 10,
    shard_mb: Annotated[float, typer.Option(help="Size of one tar, MB.", min=0.001)] = 256,
    resize: ResizeOption = None,
    quality: QualityOption = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of processes; by default one for each usable core.", min=1),
    ] = None,
    on: ClusterOption = "",
    jobs: Annotated[
        int | None, typer.Option(help="Number of Slurm jobs that share the work.", min=1)
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit the jobs and return.")] = False,
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Write images as WebDataset tars with a manifest. Run it again to continue after a stop.

    JPEG and PNG files are copied byte by byte unless --resize or --quality is given; other formats
    become PNG. Boxes are stored as they are, with the image size that the annotation states.

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
        raise RequestError("--jobs and --no-wait need a cluster", fix="name it with --on PROFILE")
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
        str,
        typer.Option(
            metavar="WHERE", help="local for this machine, or the profile of a Slurm cluster."
        ),
    ] = "local",
    stand_ins: Annotated[
        Path | None, typer.Option(help="YAML file that describes datasets not yet in the store.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show for each trial whether it is cached, resumes or runs, and why. Starts nothing.

    Precision follows from the device and is part of a trial's key, so name with --on where you
    will launch.

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
                    "plugins": t.document.get("plugins", {}),
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
    on: WhereOption = "local",
    set_: SetOption = None,
    only: OnlyOption = None,
    cores: CoresOption = None,
    ranks: RanksOption = None,
    fresh: FreshOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the scripts for sbatch, and submit nothing.")
    ] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="Submit jobs that wait for `scontrol release`.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for submitted trials, and print their states.")
    ] = False,
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
) -> None:
    """Run the pending trials of a recipe, and print the report. After any failure, run it again.

    With a cluster's profile it submits one job for each pending trial and returns: no process
    stays running here.

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

    if tracking_uri:  # weights from MLflow use it too, here and in the trials' processes
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    if on in ("local", "inline"):
        if dry_run or hold or watch:
            raise RequestError(
                "--dry-run, --hold and --watch need a cluster", fix="name it with --on PROFILE"
            )
        where: Where = "inline" if on == "inline" else "local"
        prepared = _prepare(recipe, set_, here.device())
        done = command_launch.run(
            prepared, where, only or [], cores, tracking_uri, work, ranks or 1, fresh
        )
    else:
        if fresh:
            raise RequestError(
                "--fresh works only with --on local",
                fix="leave it out: each job starts a new interpreter anyway",
            )
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
        str,
        typer.Argument(metavar="[PROFILE]", help="The profile of a Slurm cluster to check too."),
    ] = "",
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Check what a launch needs, and print a fix for each fault; exit 1 if there is any.

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
        findings += cluster.examine(on_slurm, store, work, console.print_note)
    if json_:
        console.print_json([vars(finding) for finding in findings])
    else:
        marks = {True: "ok", False: "FAIL", None: "note"}
        console.print_table(
            ("check", "", "finding"), [(f.name, marks[f.ok], f.says) for f in findings]
        )
        for finding in findings:
            if finding.ok is False:
                console.print_error(f"{finding.name}: {finding.fix}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, with which editors complete and check them.

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
    """Return the path of a profile; `others` are the words that the option takes too."""
    from hpt_dist.slurm.profile import located

    return str(_announced(name, located(name, others)))


def _announced(name: Path | str, file: Path) -> Path:
    """Return the path of a recipe or profile; if it was given by its name, print the path."""
    if file != Path(name):
        console.print_note(f"{name} is {file}")
    return file


def main() -> None:
    """Run the command line; exit 0 when done, 1 when the work failed, 2 for a wrong request."""
    try:
        app()
    except HptError as error:
        console.print_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        console.print_error(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == _CTRL_C:
            console.print_error("interrupted")
            sys.exit(1)
        raise
