"""A process that logs as a trial does, until it ends or is killed.

It is forked from the server of warm children, for MLflow's import alone takes seconds.
"""

from __future__ import annotations

import os
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from hpt_dist.processes import children
from hpt_dist.tracking import tracker as track


def start(
    folder: Path, uri: str, steps: int, deadly_batch: int = 0, moment: str = ""
) -> children.Child:
    """Start a trial of so many steps; it goes on from its saved step.

    Args:
        folder: of the tracker; its path is also the experiment's name.
        uri: of MLflow.
        steps: the last one.
        deadly_batch: the upload of metrics, from 1, around which it is killed; 0 for none.
        moment: whether it is killed before or after that upload.
    """
    children.warm_up(dict(os.environ))
    return children.start(_run, folder, uri, steps, deadly_batch, moment, warm=True)


def ended(trial: children.Child) -> int:
    """Wait for the end of a trial and return its exit code, or minus the signal's number."""
    trial.process.join()
    return trial.exit_code


def _run(
    _pipe: Connection, folder: Path, uri: str, steps: int, deadly_batch: int, moment: str
) -> None:
    track.SHIP_EVERY_S = 0.02
    log_batch, batches = MlflowClient.log_batch, 0

    def log_batch_and_die(*arguments: Any, metrics: Any = (), **others: Any) -> None:
        nonlocal batches
        batches += bool(metrics)
        deadly = metrics and batches == deadly_batch
        if deadly and moment == "before":
            os.kill(os.getpid(), 9)
        log_batch(*arguments, metrics=metrics, **others)
        if deadly:
            os.kill(os.getpid(), 9)

    MlflowClient.log_batch = log_batch_and_die
    state = folder / "state"
    step = int(state.read_text()) if state.exists() else 0
    identity = track.RunIdentity(experiment=str(folder), name="hpt", key="abc")
    tracker = track.Tracker(folder, identity, uri, resume_step=step)
    while step < steps:
        step += 1
        tracker.log(step, {"train/loss": 1 / step, "train/images_per_second": random.random()})
        if step % 10 == 0:
            tracker.log(step, {"knn/top1": step})
            new = state.with_name("state.part")
            new.write_text(str(step))
            new.replace(state)
        time.sleep(0.01)
    tracker.finish("FINISHED", 60)
