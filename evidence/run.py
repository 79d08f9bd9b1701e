"""`make evidence`: measure the units that have no result under their present keys.

    make evidence                          # all that is left, the first seed of every target first
    make evidence ARGS="--minutes 40"      # stop after 40 minutes: running trials save their state
    make evidence ARGS="--list"            # what is left, and the minutes of two cores it takes
    make evidence ARGS="--only line --seed 0"
    make evidence ARGS="--only color_to_line"    # one pair of domains, all seeds

After any failure, or Ctrl-C, run it again: it goes on. What a unit measured is in evidence/results/
as soon as it ends or is stopped; commit these files, and docs/evidence.md with them.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psutil

from evidence import collect, left, page, pixels, records
from evidence.matrix import BASE, EVALUATIONS, EVERY, PIXELS, RESULTS, Target, Unit, every_unit
from evidence.records import TrialRecord, UnitRecord
from hpt_dist.cli.watching import watching
from hpt_dist.errors import HptError, RequestError, nearest
from hpt_dist.launch import here, launches
from hpt_dist.launch.local import NotDone
from hpt_dist.launch.survey import Planned, plan_against_store
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store, committed, marker
from hpt_dist.trial.records import Launch

_FAILED = 1
Others = Mapping[str, tuple[TrialRecord, records.Sitting]]


@dataclass
class Sitting:
    """What a run of this command works on.

    Args:
        results: the folder of records.
        page: the file of the page; None writes none.
        ends_s: when to stop, by the monotonic clock.
        store: of images and trials; empty for the usual one.
        options: what is set of every recipe, as by `--set`.
        code: that measures, as it was at the start.
        plans: of each target, once it was asked for.
        stopped: whether Ctrl-C or SIGTERM ended a unit.
    """

    results: Path
    page: Path | None
    ends_s: float = float("inf")
    store: str = ""
    options: Sequence[str] = ()
    code: collect.Code = field(default_factory=collect.code)
    plans: dict[str, Planned] = field(default_factory=dict)
    stopped: bool = False

    def plan(self, target: Target) -> Planned:
        """Return the plan of a target's recipe.

        Raises:
            RecipeError: its images are not there.
        """
        if target.name not in self.plans:
            found = plan_against_store(
                target.recipe, self.options, device=here.device(), store_uri=self.store
            )
            self.plans[target.name] = found
        return self.plans[target.name]

    def trials(self, unit: Unit) -> list[Trial]:
        """Return all trials of a unit, parents first."""
        return left.of_unit(self.plan(unit.target).trials, unit)

    def keys(self, unit: Unit) -> dict[str, str]:
        """Return the key of everything that a unit measures, by name."""
        trials = self.trials(unit)
        found = {trial.name: trial.key for trial in left.measured(trials)}
        return found | {name: pixels.key(trial) for name, trial in _of_pixels(trials).items()}

    def missing(self, unit: Unit) -> list[str]:
        """Return the names of what has no result under its present key."""
        there = records.read(unit, self.results).trials
        keys = self.keys(unit)
        return [name for name, key in keys.items() if name not in there or there[name].key != key]

    @property
    def is_over(self) -> bool:
        """Whether its time is up, or it was stopped."""
        return self.stopped or time.monotonic() >= self.ends_s


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = _parser().parse_args(words)
    try:
        chosen = _chosen(given.only, given.seed)
        sitting = Sitting(RESULTS, page.PAGE, _end(given.minutes), store=given.store)
        if given.list:
            _print_left(sitting, chosen)
            return 0
        return _work_through(sitting, chosen)
    except HptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; to go on, run the same command", file=sys.stderr)
        return _FAILED


def measure(sitting: Sitting, unit: Unit) -> Mapping[str, str]:
    """Measure what a unit lacks, and write its record; return why trials are not done, by name.

    Trials that are stopped, by Ctrl-C or because the time is up, save their state; what was
    finished until then is recorded.
    """
    store = marker.begin(sitting.plan(unit.target).store)
    # A process that was killed has recorded nothing of what it finished.
    _record(sitting, unit, store, None, of_pixels=False)
    began = _cpu_seconds()
    errors = _run(sitting, unit, store)
    if not sitting.is_over:
        sitting.stopped = any(one.stopped for one in errors.values())
    _record(sitting, unit, store, began, of_pixels=not sitting.is_over)
    if sitting.page:
        page.write(sitting.results, sitting.page)
    return {name: one.why for name, one in errors.items() if not one.stopped}


def _run(sitting: Sitting, unit: Unit, store: Store) -> Mapping[str, NotDone]:
    """Run what a unit lacks; return why trials are not done, by name."""
    prepared = sitting.plan(unit.target)
    known = {name: one.key for name, one in records.read(unit, sitting.results).trials.items()}
    wanted = left.to_run(sitting.trials(unit), known, partial(committed.is_done, store))
    if not wanted:
        return {}
    used = here.settings(prepared, where="local", cores=None, tracking_uri="", work="")
    launch = here.begin(prepared, wanted, used)
    with watching(len(wanted)) as watcher, _cancelled_at(sitting.ends_s, store, launch):
        return here.work_through(prepared, wanted, used, launch, watcher)


def _record(
    sitting: Sitting, unit: Unit, store: Store, began: float | None, *, of_pixels: bool
) -> None:
    """Write what is finished and not recorded yet, or is of newer weights, to the unit's file.

    Args:
        sitting: that goes on.
        unit: the unit.
        store: that holds what is finished.
        began: CPU seconds at the start of the run that finished it; None of an earlier one.
        of_pixels: whether to measure what raw pixels are worth, too.
    """
    record, trials = records.read(unit, sitting.results), sitting.trials(unit)
    made = _finished(store, sitting.plan(unit.target).trials, trials, record)
    spent = None if began is None else _cpu_seconds() - began
    others = _others(sitting)
    if of_pixels:  # they belong to no trial, and so to no trial's CPU seconds
        made |= _pixels_of(store, trials, record, others)
    if not made:
        return
    numerics = collect.numerics_of(store, [trial for trial in trials if trial.name in made])
    ours = collect.sitting(None if began is None else sitting.code, spent, numerics)
    keys = sitting.keys(unit)
    for on, part in _by_sitting(made, ours, others):
        record = _joined(record, part, on, keys)
    records.write(record, records.file_of(unit, sitting.results))


def _others(sitting: Sitting) -> Others:
    """Return all that is recorded, by key: units share what does not depend on their target."""
    every = [records.read(one, sitting.results) for one in every_unit()]
    return {
        trial.key: (trial, record.sittings[trial.sitting])
        for record in every
        for trial in record.trials.values()
    }


def _by_sitting(
    made: Mapping[str, TrialRecord], ours: records.Sitting, others: Others
) -> list[tuple[records.Sitting, dict[str, TrialRecord]]]:
    """Return what a unit's record gets, by who measured it: this sitting, or another unit's."""
    parts: list[tuple[records.Sitting, dict[str, TrialRecord]]] = []
    for name, one in made.items():
        by, known = ours, others.get(one.key)
        if known and _content(known[0]) == _content(one):
            by = replace(known[1], cpu_seconds=None)  # those are also of trials that are not here
        of_it = next((its for on, its in parts if on == by), None)
        if of_it is None:
            of_it = {}
            parts.append((by, of_it))
        of_it[name] = one
    return parts


def _finished(
    store: Store, every: Sequence[Trial], trials: Sequence[Trial], record: UnitRecord
) -> dict[str, TrialRecord]:
    """Return the records of finished trials that are not in a unit's record as they are."""
    made, known = {}, {trial.key: trial for trial in every}
    for trial in left.measured(trials):
        if committed.is_done(store, trial.key):
            one = collect.record_of(store, trial, len(record.sittings), known)
            old = record.trials.get(trial.name)
            if old is None or _content(old) != _content(one):
                made[trial.name] = one
    return made


def _pixels_of(
    store: Store, trials: Sequence[Trial], record: UnitRecord, others: Others
) -> dict[str, TrialRecord]:
    """Return what raw pixels are worth, as far as that is not in a unit's record."""
    made = {}
    for name, trial in _of_pixels(trials).items():
        key = pixels.key(trial)
        if name not in record.trials or record.trials[name].key != key:
            known = others.get(key)
            made[name] = known[0] if known else pixels.evaluate(store, trial, len(record.sittings))
    return made


def _content(one: TrialRecord) -> tuple[object, ...]:
    """Return what a record says beside where and how long it was measured."""
    return tuple(v for name, v in sorted(vars(one).items()) if name not in ("sitting", "seconds"))


def _joined(
    record: UnitRecord,
    made: Mapping[str, TrialRecord],
    on: records.Sitting,
    keys: Mapping[str, str],
) -> UnitRecord:
    """Return a record with what was made; what has another key by now, or no place, is left out."""
    place = len(record.sittings)
    joined = {**record.trials, **{name: replace(one, sitting=place) for name, one in made.items()}}
    kept = {name: one for name, one in joined.items() if keys.get(name) == one.key}
    return UnitRecord(record.target, record.seed, kept, (*record.sittings, on))


def _of_pixels(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Return by name what is measured of pixels, with the base's trial of the same settings."""
    return {
        trial.name.replace(f"init={BASE}", f"init={PIXELS}"): trial
        for trial in trials
        if trial.stage in EVALUATIONS and trial.axes["init"] == BASE and trial.spec.JUDGES
    }


def _work_through(sitting: Sitting, chosen: Sequence[Unit]) -> int:
    failed: dict[str, str] = {}
    for unit in chosen:
        if sitting.is_over:
            break
        if missing := sitting.missing(unit):
            print(f"{unit.name}: {len(missing)} results to measure", flush=True)
            errors = measure(sitting, unit)
            failed |= {f"{unit.name} {name}": why for name, why in errors.items()}
    behind = [unit.name for unit in chosen if sitting.missing(unit)]
    print(f"{len(chosen) - len(behind)} of {len(chosen)} units are measured")
    for name, why in failed.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    if behind and not failed and sitting.stopped:
        print("stopped; to go on, run the same command", file=sys.stderr)
        return _FAILED
    return _FAILED if failed else 0


def _print_left(sitting: Sitting, chosen: Sequence[Unit]) -> None:
    """Print what is left of each unit, and what that takes."""
    cost = left.costs(records.read(unit, sitting.results) for unit in every_unit())
    total = 0.0
    for unit in chosen:
        missing = sitting.missing(unit)
        known = {name: one.key for name, one in records.read(unit, sitting.results).trials.items()}
        store = sitting.plan(unit.target).store
        again = left.to_run(sitting.trials(unit), known, partial(committed.is_done, store))
        ran = left.measured(again)  # an import costs next to nothing
        names = {*missing, *(trial.name for trial in ran)} if missing else set()
        trials = {trial.name: trial for trial in sitting.trials(unit)}
        takes, is_measured = left.takes(cost, unit.target.name, sorted(names), trials)
        total += takes or 0.0
        says = "unknown" if takes is None else f"{takes:.0f} minutes"
        says += "" if is_measured else ", estimated"
        state = f"{len(missing)} results left, {says}" if missing else "measured"
        print(f"{unit.name}: {state}")
    print(f"left: {total:.0f} minutes of two quiet cores, where known")


def _chosen(target: str, seed: int | None) -> list[Unit]:
    """Return the units that options name.

    Raises:
        RequestError: there is none.
    """
    names = [one.name for one in EVERY]
    if target and target not in names:
        allowed, fix = ", ".join(names), nearest(target, names)
        raise RequestError(f"no target {target}", where="--only", allowed=allowed, fix=fix)
    found = [
        unit
        for unit in every_unit()
        if (not target or unit.target.name == target) and seed in (None, unit.seed)
    ]
    if not found:
        most = max(one.seeds for one in EVERY if not target or one.name == target) - 1
        raise RequestError(f"no seed {seed}", where="--seed", allowed=f"0 to {most}")
    return found


def _end(minutes: float | None) -> float:
    if minutes is None:
        return float("inf")
    if minutes <= 0:
        raise RequestError(f"{minutes:g} minutes", where="--minutes", allowed="more than 0")
    return time.monotonic() + 60 * minutes


@contextmanager
def _cancelled_at(ends_s: float, store: Store, launch: Launch) -> Iterator[None]:
    """Cancel a launch once its time is up: its trials save their state and end."""
    if ends_s == float("inf"):
        yield
        return

    def cancel() -> None:
        with suppress(RequestError):  # it has just ended
            launches.cancel(store, launch)

    timer = threading.Timer(max(ends_s - time.monotonic(), 0.0), cancel)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and all below it: those that ended, and a server's."""
    own = psutil.Process()
    times = [own.cpu_times()]
    for one in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times.append(one.cpu_times())
    return float(
        sum(one.user + one.system + one.children_user + one.children_system for one in times)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make evidence", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--list", action="store_true", help="print what is left; measure nothing")
    parser.add_argument("--only", default="", metavar="TARGET", help="one target")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument(
        "--store", default=os.environ.get("HPT_STORE", ""), help="of the images and trials"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
