"""The documents that a finished trial leaves: its result, and how it was computed."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
from collections.abc import Mapping
from typing import Any

from hpt_dist import __version__
from hpt_dist.recipe.plan import Trial

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow")


def of_result(
    trial: Trial, metrics: Mapping[str, float], details: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what result.json holds.

    Nothing in it depends on the machine or the clock: a resumed run ends with the same bytes as an
    undisturbed one.
    """
    return {
        "trial": trial.name,
        "stage": trial.stage,
        "kind": trial.spec.kind,
        "axes": dict(trial.axes),
        "seed": trial.spec.seed,
        "key": trial.key,
        "images": trial.images,
        "metrics": metrics,
        "details": details,
    }


def of_run(
    *,
    seconds: float,
    restarts: int,
    job: str,
    ranks: int,
    threads: int,
    numerics: str,
    stores: Mapping[str, str],
) -> dict[str, Any]:
    """Return what run.json holds: cost, machine, versions, and where datasets lay.

    Args:
        seconds: of all its processes.
        restarts: processes after the first.
        job: the scheduler's name for its job.
        ranks: processes that shared its training.
        threads: CPU threads of each.
        numerics: see `trial.run.Result`.
        stores: addresses of those that its datasets lie in, by name, where it is not its own.
    """
    return {
        "seconds": round(seconds, 1),
        "restarts": restarts,
        "job": job,
        "ranks": ranks,
        "threads": threads,
        "numerics": numerics,
        **({"stores": dict(stores)} if stores else {}),
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "hpt_dist": __version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
