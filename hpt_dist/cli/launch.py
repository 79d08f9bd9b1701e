"""hpt-dist launch, on this machine and on a cluster."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hpt_dist.cli import console, written
from hpt_dist.cli.lacking import lacking_here
from hpt_dist.cli.options import (
    CoresOption,
    FreshOption,
    JsonOption,
    OnlyOption,
    RanksOption,
    RecipeArgument,
    RecipeStoreOption,
    SetOption,
    TrackingOption,
    WhereOption,
    WorkOption,
)
from hpt_dist.cli.requested import (
    begun,
    command,
    planned,
    profile_file,
    this_command,
)
from hpt_dist.cli.submitting import submit, wait
from hpt_dist.cli.watching import watching
from hpt_dist.errors import RequestError
from hpt_dist.errors.secrets import public_address
from hpt_dist.launch import (
    arrivals,
    by_class,
    here,
    launches,
    on_slurm,
    parent_run,
    results,
    survey,
)
from hpt_dist.launch.launches import Settings
from hpt_dist.launch.local import NotDone
from hpt_dist.launch.on_slurm import Site
from hpt_dist.launch.survey import Planned
from hpt_dist.processes import environment
from hpt_dist.recipe.trial import Trial
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import filled_trial_folder, tracking_database, work_folder
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch, Where


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
    store: RecipeStoreOption = "",
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Run the pending trials of a recipe, and print the report.

    After any failure, or Ctrl-C, run the same command again: it goes on. While trials train, it
    shows step, loss, the last look at validation, time left and images/s.

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
    where: Where = "inline" if on == "inline" else "local" if on == "local" else "slurm"
    record: Launch | None
    if where != "slurm":
        if dry_run or hold or watch:
            raise RequestError(
                "--dry-run, --hold and --watch need a cluster", fix="name it with --on PROFILE"
            )
    elif fresh:
        raise RequestError(
            "--fresh works only with --on local",
            fix="leave it out: each job starts a new interpreter anyway",
        )
    if json_ and dry_run:
        raise RequestError("--dry-run prints scripts, which are not JSON", fix="give one of them")
    with console.text_aside() if json_ else contextlib.nullcontext():
        if where != "slurm":
            prepared = planned(recipe, set_, here.device(), store=store)
            record, done = run_here(
                prepared, where, only or [], cores, tracking_uri, work, ranks or 1, fresh
            )
        else:
            profile = on_slurm.load(profile_file(on, "local", "inline"))
            prepared = planned(recipe, set_, profile.device, store=store)
            site = on_slurm.site(profile, prepared.store, work, ranks, hold)
            record, done = _run_on_slurm(prepared, only or [], site, dry_run=dry_run, watch=watch)
    if json_:
        console.print_json(as_json(prepared.store, record))
    if not done:
        raise typer.Exit(1)


def as_json(store: Store, record: Launch | None) -> dict[str, Any]:
    """Return a launch, the states of its trials and its report, for programs."""
    if record is None:
        return {"launch": "", "store": store.uri, "trials": {}}
    states = survey.states_of(store, record, slurm_jobs.known_queue(store))
    return {
        "launch": record.id,
        "store": store.uri,
        "trials": {name: survey.as_json(state) for name, state in states.items()},
        "report": by_class.build(store, record, results.finished(store, record)).as_json(),
    }


def run_here(
    prepared: Planned,
    where: Where,
    only: Sequence[str],
    cores: int | None,
    tracking_uri: str,
    work: str,
    ranks: int = 1,
    fresh: bool = False,
) -> tuple[Launch, bool]:
    """Run the pending trials of a plan and print the report.

    Returns:
        The launch, and whether all of its trials are done.
    """
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
        record = _cached(prepared, trials, settings)
        _print_report(record, prepared.store, settings.work)
        return record, True
    record = here.begin(prepared, trials, settings)
    try:
        console.print_line(f"launch {record.id}")
        with watching(len(pending)) as watcher:
            errors = here.work_through(prepared, trials, settings, record, watcher)
    except KeyboardInterrupt:
        console.print_error("stopped at once; trials go on from the last states that they saved")
        _print_way_on()
        raise typer.Exit(1) from None
    stopped = any(one.stopped for one in errors.values())
    if not stopped:
        _print_report(record, prepared.store, settings.work)
    _print_failures(record, errors, prepared.store)
    if stopped:
        _print_stopped(len(trials), errors)
        _print_way_on()
    return record, not errors


def _print_stopped(count: int, errors: Mapping[str, NotDone]) -> None:
    """Print what is done of so many trials of a launch that was stopped, and what is left."""
    reasons = Counter(one.why.splitlines()[0] for one in errors.values())
    left = ", ".join(f"{n} {why}" for why, n in reasons.items())
    console.print_error(f"stopped: {count - len(errors)} of {count} trials are done; {left}")


def _print_way_on() -> None:
    """Print how to go on with this launch."""
    console.print_error(f"to go on, run the same command: {this_command()}")


def _print_failures(record: Launch, errors: Mapping[str, NotDone], store: Store) -> None:
    """Print why trials have failed, and what to do."""
    failed = {name: error.why for name, error in errors.items() if not error.stopped}
    if not failed:
        return
    console.print_error(f"{len(failed)} of {len(record.trials)} trials are not done:")
    for name, why in failed.items():
        what, *more = why.splitlines()
        console.print_error(f"  {name}: {what}")
        for line in more:
            if line.startswith("  do: "):
                console.print_error(f"  {line}")
    console.print_error(f"their logs: {command('logs', record.id, store=store)}")


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


def _print_report(record: Launch, store: Store, work: Path) -> None:
    """Print a launch's report, the path of its file, and where to see its runs."""
    done = results.finished(store, record)
    report = by_class.build(store, record, done)
    console.print_line("")
    console.print_line(report.markdown())
    written.write(report, record, done, store, work)
    for line in _ways_to_runs(record, store):
        console.print_line(line)


def _ways_to_runs(record: Launch, store: Store) -> Iterator[str]:
    """Yield where the runs of a launch are in MLflow, and how to send those that it lacks."""
    if not record.tracking_uri:
        return
    work, place = Path(record.work), f"MLflow at {public_address(record.tracking_uri)}"
    there = arrivals.arrived(store, record, record.trials)
    arrived = [bool(parent_run.noted(store, record).parent_run), *there.values()]
    if lacking := arrived.count(False):
        yield (
            f"{lacking} of {len(arrived)} runs are not in {place} yet; to send them: "
            f"{command('sync', record.id, store=store)}"
        )
    unknown = [record.trials[name] for name in there if there[name] is None]
    if elsewhere := sum(is_done(store, key) for key in unknown):
        yield lacking_here(elsewhere, len(arrived), work)
    if True not in there.values():
        return
    if tracking_database(record.tracking_uri) == work / "mlflow.db":
        words = [] if work == work_folder(store) else ["--work", str(work)]
        yield f"to see the runs in MLflow's UI: {command('ui', *words, store=store)}"
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


def _run_on_slurm(
    prepared: Planned,
    only: Sequence[str],
    where: Site,
    *,
    dry_run: bool = False,
    watch: bool = False,
) -> tuple[Launch | None, bool]:
    """Submit the pending trials of a plan.

    Args:
        prepared: the whole plan.
        only: stages to run, with the stages that they start from; empty for all.
        where: how the cluster is used.
        dry_run: print the scripts that sbatch would get, and submit nothing.
        watch: wait for all trials, and print changes of their states.

    Returns:
        The launch, if there is one; and whether a watched one is done at the end.
    """
    if left_out := where.profile.left_out(os.environ):
        console.print_note(f"not passed on to sbatch: {left_out}")
    trials = here.chosen(prepared, only)
    if all(prepared.states[trial.key].name == "cached" for trial in trials):
        prepared = replace(prepared, store=begun(prepared.store))
        on_slurm.make_folders(where)
        record = _cached(prepared, trials, where.settings)
        _print_report(record, prepared.store, where.settings.work)
        return record, True
    if dry_run:
        for title, script in on_slurm.scripts(prepared, trials, where):
            console.print_line(f"==> {title}")
            console.print_line(script)
        return None, True
    on_slurm.check()
    prepared = replace(prepared, store=begun(prepared.store))
    on_slurm.make_folders(where)
    console.print_plan(trials, prepared.states, prepared.facts)
    submitted = submit(prepared, trials, where)
    if not watch or submitted is None:
        return submitted, True
    done = wait(prepared.store, submitted)
    _print_report(submitted, prepared.store, where.settings.work)
    return submitted, done
