"""What a trial's own processes run; importing it is cheap, calling it imports torch."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from select import select
from typing import Any, Literal

from hpt_dist.errors import HptError, Interrupted
from hpt_dist.errors.secrets import without_secrets
from hpt_dist.processes import output
from hpt_dist.store.lease import LeaseTakenError
from hpt_dist.train.interrupt import Interrupt, listening
from hpt_dist.trial import ranks
from hpt_dist.trial.context import TrialOrder
from hpt_dist.trial.memory import keep_freed_memory
from hpt_dist.trial.run import Together

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a trial's process answers.

    Args:
        status: taken means that another process is at it; again, that its processes could not
            meet, and another start will do; lost, that another one of them ended.
        error: for the person who launched it; empty when all is well.
    """

    status: Literal["done", "taken", "again", "interrupted", "lost", "failed"]
    error: str = ""


def work(pipe: Connection, order: TrialOrder) -> None:
    """Be rank 0 of a trial: send its progress, and its outcome last."""
    try:
        outcome = run(order, lambda facts: _send(pipe, facts))
    except BaseException:
        origins = order.trial.document.get("plugins", {}).values()
        whose = dict.fromkeys(["hpt-dist", *(" ".join(origin.values()) for origin in origins)])
        what = f"a bug in {' or in '.join(whose)}:\n{without_secrets(traceback.format_exc())}"
        _send(pipe, Outcome("failed", what))
        raise
    _send(pipe, outcome)


def follow(_pipe: Connection, order: TrialOrder) -> None:
    """Be another rank, which rank 0 informs whether to begin; exit 1 where it fails."""
    try:
        with listening_process() as interrupt:
            if ranks.is_begun():
                # Rank 0 reports an interruption.
                with contextlib.suppress(Interrupted), ranks.taking_part():
                    take_part(order, interrupt)
    except HptError as error:
        # Rank 0 reports it: it has the same error, or was told this one.
        log.error("%s", error)  # noqa: TRY400 - no bug, so no traceback
        sys.exit(1)
    ranks.leave()


def run(
    order: TrialOrder,
    report: Callable[[Mapping[str, Any]], None],
    on_signal: Callable[[], None] | None = None,
) -> Outcome:
    """Run one trial in this process, as its only one or as rank 0 of several.

    Args:
        order: what to run.
        report: called with the facts of its progress.
        on_signal: see `Interrupt`; None where another process looks after this one.

    Raises:
        KeyboardInterrupt: with `on_signal`, at a second Ctrl-C.
    """
    with listening_process(on_signal) as interrupt:
        try:
            with ranks.hosting(order.ranks) as together:
                _run(order, interrupt, together, report)
        except ranks.PortTakenError as error:
            return Outcome("again", str(error))
        except ranks.ProcessLostError as error:
            log.error("%s", error)  # noqa: TRY400 - no bug, so no traceback
            return Outcome("lost", str(error))
        except LeaseTakenError as error:
            return Outcome("taken", str(error))
        except Interrupted as error:
            return Outcome("interrupted", str(error))
        except HptError as error:
            log.error("%s", error)  # noqa: TRY400 - no bug, so no traceback
            return Outcome("failed", str(error))
    return Outcome("done")


def _run(
    order: TrialOrder,
    interrupt: Interrupt,
    together: Together,
    report: Callable[[Mapping[str, Any]], None],
) -> None:
    import torch

    from hpt_dist.stages.runners import runner_of
    from hpt_dist.trial import run as trial

    # A process that was forked has loaded torch with another number.
    torch.set_num_threads(order.threads)
    trial.run(order, runner_of(order.trial), interrupt, together, report)


def take_part(order: TrialOrder, interrupt: Interrupt) -> None:
    """Compute a share of a trial, as a rank that writes nothing."""
    from hpt_dist.stages.runners import runner_of
    from hpt_dist.trial import run as trial

    trial.follow(order, runner_of(order.trial), interrupt)


@contextlib.contextmanager
def listening_process(on_signal: Callable[[], None] | None = None) -> Iterator[Interrupt]:
    """Set up this process for training, and listen for signals; see `Interrupt`."""
    output.encode_any_text()
    form = "%(asctime)s %(levelname)s %(message)s"
    output.log_lines(logging.INFO, sys.stdout, form, dates="%H:%M:%S", force=True)
    output.guard_errors()
    # submitit has a handler of its own, which would repeat each of its lines; and it calls a job
    # that was asked to stop successful.
    logging.getLogger("submitit").propagate = False
    logging.getLogger("submitit").setLevel(logging.WARNING)
    # boto3's says where it found credentials, once for each of its clients.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    keep_freed_memory()
    # Listening starts before the seconds that importing torch takes.
    with listening(on_signal) as interrupt:
        yield interrupt


def _send(pipe: Connection, message: object) -> None:
    """Send to the launcher, unless it has gone or has stopped reading: a trial waits for nobody."""
    with contextlib.suppress(OSError):
        if isinstance(message, Outcome) or select([], [pipe], [], 0)[1]:
            pipe.send(message)
