"""hpt-dist launch, on this machine and on a cluster."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import (
    CoresOption,
    FreshOption,
    OnlyOption,
    RanksOption,
    RecipeArgument,
    SetOption,
    TrackingOption,
    WhereOption,
    WorkOption,
)
from hpt_dist.cli.requested import begun, planned, profile_file
from hpt_dist.cli.status import states_of
from hpt_dist.errors import RequestError
from hpt_dist.errors.secrets import public_address
from hpt_dist.launch import (
    arrivals,
    here,
    launches,
    on_slurm,
    parent_run,
    report_settings,
    results,
)
from hpt_dist.launch.launches import Settings
from hpt_dist.launch.on_slurm import Site
from hpt_dist.launch.survey import Planned
from hpt_dist.processes import environment
from hpt_dist.recipe.plan import Trial
from hpt_dist.report.report import build
from hpt_dist.store import Store, files
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import filled_trial_folder, tracking_database, work_folder
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch, Where

_POLL_S = 2.0


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
    if tracking_uri:  # weights from MLflow use it too, here and in the trials' processes
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    if on in ("local", "inline"):
        if dry_run or hold or watch:
            raise RequestError(
                "--dry-run, --hold and --watch need a cluster", fix="name it with --on PROFILE"
            )
        where: Where = "inline" if on == "inline" else "local"
        prepared = planned(recipe, set_, here.device())
        done = _run_here(prepared, where, only or [], cores, tracking_uri, work, ranks or 1, fresh)
    else:
        if fresh:
            raise RequestError(
                "--fresh works only with --on local",
                fix="leave it out: each job starts a new interpreter anyway",
            )
        profile = on_slurm.load(profile_file(on, "local", "inline"))
        prepared = planned(recipe, set_, profile.device)
        site = on_slurm.site(profile, prepared.store, work, ranks, hold)
        done = _run_on_slurm(prepared, only or [], site, dry_run=dry_run, watch=watch)
    if not done:
        raise typer.Exit(1)


def _run_here(
    prepared: Planned,
    where: Where,
    only: Sequence[str],
    cores: int | None,
    tracking_uri: str,
    work: str,
    ranks: int = 1,
    fresh: bool = False,
) -> bool:
    """Run the pending trials of a plan and print the report; return whether all are done."""
    trials = here.chosen(prepared, only)
    pending = here.pending(prepared, trials, where, ranks)
    if pending:
        console.print_plan(trials, prepared.states, prepared.facts)
        _report_switches()
    prepared = replace(prepared, store=begun(prepared.store))
    settings = here.settings(
        prepared,
        where=where,
        cores=cores,
        tracking_uri=tracking_uri,
        work=work,
        ranks=ranks,
        fresh=fresh,
    )
    if not pending:
        return _print_report(_cached(prepared, trials, settings), prepared.store, settings.work)
    record = here.begin(prepared, trials, settings)
    console.print_line(f"launch {record.id}")
    with console.watching(len(pending)) as watcher:
        errors = here.work_through(prepared, trials, settings, record, watcher)
    _print_report(record, prepared.store, settings.work)
    if errors:
        _print_failures(record, errors)
    return not errors


def _print_failures(record: Launch, errors: Mapping[str, str]) -> None:
    """Print why trials are not done, and what to do."""
    console.print_error(f"{len(errors)} of {len(record.trials)} trials are not done:")
    for name, error in errors.items():
        what, *more = error.splitlines()
        console.print_error(f"  {name}: {what}")
        for line in more:
            if line.startswith("  do: "):
                console.print_error(f"  {line}")
    console.print_error(f"their logs: hpt-dist logs {record.id}")


def _report_switches() -> None:
    """Print the variables that trials do not get because they could change results."""
    _, dropped = environment.for_trials(os.environ)
    if dropped:
        names = ", ".join(dropped)
        console.print_line(f"not passed on to trials, because it could change results: {names}")


def _cached(prepared: Planned, trials: Sequence[Trial], settings: Settings) -> Launch:
    """Print that nothing is left to run, and return the record of a launch that ran it."""
    console.print_line(f"all {len(trials)} trials are cached; nothing to run")
    return here.cached(prepared, trials, settings)


def _print_report(record: Launch, store: Store, work: Path) -> bool:
    """Print a launch's report, the path of its file, and where to see its runs."""
    report = build(record, results.finished(store, record))
    folder = work / "reports" / record.recipe
    console.print_line("")
    console.print_line(report.markdown())
    try:
        with files.in_work_folder(work):
            written = report.write(folder)
        page = next((path for path in written if path.suffix == ".html"), folder)
        console.print_line(f"report: {page}")
    except files.WorkFolderError as error:
        # The results are in the store, and so is all that the report is made of.
        console.print_note(f"the report is not written: {error}")
    for line in _ways_to_runs(record, store):
        console.print_line(line)
    return True


def _ways_to_runs(record: Launch, store: Store) -> Iterator[str]:
    """Yield where the runs of a launch are in MLflow, and how to send those that it lacks."""
    if not record.tracking_uri:
        return
    work, place = Path(record.work), f"MLflow at {public_address(record.tracking_uri)}"
    option = (
        "" if store.uri == str(Path("hpt-store").absolute()) else f" --store {quote(store.uri)}"
    )
    there = arrivals.arrived(store, record, record.trials)
    arrived = [bool(parent_run.noted(store, record).parent_run), *there.values()]
    if lacking := arrived.count(False):
        yield (
            f"{lacking} of {len(arrived)} runs are not in {place} yet; to send them: "
            f"{_own_name()} sync {record.id}{option}"
        )
    unknown = [record.trials[name] for name in there if there[name] is None]
    if elsewhere := sum(is_done(store, key) for key in unknown):
        yield f"{elsewhere} of {len(arrived)} runs were made on another machine, which sends them"
    if True not in there.values():
        return
    if tracking_database(record.tracking_uri) == work / "mlflow.db":
        option += "" if work == work_folder(store) else f" --work {quote(str(work))}"
        yield f"to see the runs in MLflow's UI: {_own_name()} ui{option}"
    else:
        yield f"the {'other ' if lacking or elsewhere else ''}runs are in {place}"
        if record.tracking_uri.startswith("http") and (page := _page(record, store)):
            address = public_address(record.tracking_uri).rstrip("/")
            yield f"MLflow's experiment {launches.experiment(record)}: {address}/{page}"


def _page(record: Launch, store: Store) -> str:
    """Return the page of a launch in MLflow's UI: its run's, or that of its experiment."""
    work, run = Path(record.work), parent_run.noted(store, record).parent_run
    for key in record.trials.values():
        place = tracker.place_of(filled_trial_folder(work, store.uri, key))
        if place.experiment == launches.experiment(record) and place.experiment_id:
            return tracker.page_of(place.experiment_id, run)
    return ""


def _own_name() -> str:
    """Return how this program was called, so that users can copy printed commands."""
    if shutil.which("hpt-dist"):
        return "hpt-dist"
    path = Path(sys.argv[0])
    return str(path) if path.name == "hpt-dist" else f"{sys.executable} -m hpt_dist"


def _run_on_slurm(
    prepared: Planned,
    only: Sequence[str],
    where: Site,
    *,
    dry_run: bool = False,
    watch: bool = False,
) -> bool:
    """Submit the pending trials of a plan.

    Args:
        prepared: the whole plan.
        only: stages to run, with the stages that they start from; empty for all.
        where: how the cluster is used.
        dry_run: print the scripts that sbatch would get, and submit nothing.
        watch: wait for all trials, and print changes of their states.

    Returns:
        False if a watched trial is not done at the end; else True.
    """
    if left_out := where.profile.left_out(os.environ):
        console.print_note(f"not passed on to sbatch: {left_out}")
    trials = here.chosen(prepared, only)
    if all(prepared.states[trial.key].name == "cached" for trial in trials):
        prepared = replace(prepared, store=begun(prepared.store))
        on_slurm.make_folders(where)
        record = _cached(prepared, trials, where.settings)
        _print_report(record, prepared.store, where.settings.work)
        return True
    if dry_run:
        for title, script in on_slurm.scripts(prepared, trials, where):
            console.print_line(f"==> {title}")
            console.print_line(script)
        return True
    on_slurm.check()
    prepared = replace(prepared, store=begun(prepared.store))
    on_slurm.make_folders(where)
    console.print_plan(trials, prepared.states, prepared.facts)
    submitted = _submit(prepared, trials, where)
    if not watch:
        return True
    done = submitted is None or _watch(prepared.store, submitted)
    if submitted:
        _print_report(submitted, prepared.store, where.settings.work)
    return done


def _submit(prepared: Planned, trials: Sequence[Trial], where: Site) -> Launch | None:
    """Submit the pending trials; return the launch that shows their states, if there is one."""
    submission = on_slurm.submit(prepared, trials, where, console.print_line)
    queued = submission.queued
    waiting = [queued[trial.key] for trial in trials if trial.key in queued]
    if waiting:
        ids = sorted({job.id.partition("_")[0] for job in waiting}, key=int)
        are = "trial is" if len(waiting) == 1 else "trials are"
        console.print_line(f"{len(waiting)} {are} in the queue already: job {', '.join(ids)}")
    record = submission.launch
    if record is None:
        console.print_line("nothing to submit")
        last, stages = prepared.last_launch, {trial.stage for trial in trials}
        return last and replace(last, report=report_settings.of(prepared.recipe, stages))
    count = sum(len(array.keys) for array in submission.arrays)
    trials_text = f"{count} trial{'' if count == 1 else 's'}"
    console.print_line(f"launch {record.id}: {trials_text} submitted; nothing stays running here")
    console.print_line(f"  look: hpt-dist status {record.id}; hpt-dist logs {record.id} -f")
    console.print_line(f"  stop: hpt-dist cancel {record.id}")
    return record


def _watch(store: Store, record: Launch) -> bool:
    """Print each change of state until all trials have ended; return whether all are done."""
    printed: dict[str, str] = {}
    while True:
        current = states_of(store, record)
        for name, state in current.items():
            if printed.get(name) != state.name:
                printed[name] = state.name
                console.print_line(f"{state.name:8}  {name}  {state.why}")
        if not any(state.name in ("running", "queued") for state in current.values()):
            return all(state.name == "cached" for state in current.values())
        time.sleep(_POLL_S)
