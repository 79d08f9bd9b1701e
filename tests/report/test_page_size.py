"""The page of five hundred trials stays small, and is made in seconds."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from reports import finished, launched
from test_appendix import EXHIBITS

from hpt_dist.report.exhibits import MOST_TRIALS
from hpt_dist.report.report import build

_MOST_BYTES = 5_000_000


def test_five_hundred_trials_fit_into_five_megabytes() -> None:
    names = [
        f"probe/init={init},data=set{data},seed={seed}"
        for init in ("base", "a", "b", "c", "d")
        for data in range(20)
        for seed in range(5)
    ]
    assert len(names) == 500
    rng = np.random.default_rng(0)
    done = [
        finished(name, {"test/top1": rng.uniform(0.4, 0.6)}, details={"n_test": 1000})
        for name in names
    ]
    shape = {"rows": "init", "columns": "data"}
    figures = [{kind: "probe", **shape} for kind in ("table", "bars", "delta", "matrix")]
    figures += [{"bars": "probe", "rows": "init", "panels": "data"}]
    launch = dataclasses.replace(launched(names), report={"figures": figures})
    [card] = EXHIBITS.trials
    many = dataclasses.replace(EXHIBITS, trials=(card,) * MOST_TRIALS)
    began = time.process_time()
    page = build(launch, done).html(many)
    assert time.process_time() - began < 20
    assert len(page.encode()) < _MOST_BYTES / 2  # pictures come on top
