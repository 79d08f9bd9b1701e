"""How long training waits for its images: a launched trial on shards, and the loop on one batch."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small import hpt
from torch import Tensor

from benchmarks.engine_step import QUICKSTART, Quiet, cores, moco, train
from benchmarks.measure import Row
from hpt_dist.tracking.metrics_file import Line, read_lines
from hpt_dist.train.loop import make_accelerator

STEPS = 80
_WINDOW = 10  # steps whose metrics are written as one; the first has the start in it

# The quickstart's own stage, shorter, and nothing looked at but training.
RECIPE = f"""\
name: fed
store: ${{HPT_STORE}}
datasets: {{color: openmoji/color, line: openmoji/line}}
backbone: timm/tf_efficientnet_lite0
image: {{size: 64, normalize: imagenet}}
stages:
  base: {{kind: import, weights: package/efficientnet-lite0}}
  hpt:
    kind: pretrain
    init: base
    data: [color/train, line/train, color/unlabeled, line/unlabeled]
    moco: {{queue: 1024, momentum: 0.99}}
    steps: {STEPS}
    batch: 64
    batch_norm: frozen
    head_warmup_steps: 60
    optimizer: {{name: adamw, lr: 1e-3, backbone_lr_scale: 0.3}}
    augment: {{crop_area: [0.4, 1.0], blur: 0}}
    checkpoint_every: 60
    monitor: null
"""


def launched(folder: Path) -> list[Line]:
    """Shard the drawings, launch the stage, and return its metrics but for the first window."""
    store = folder / "store"
    for name in ("openmoji/color", "openmoji/line"):
        hpt("shard", name, str(store / "datasets" / name), store=str(store))
    recipe = folder / "fed.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    hpt("launch", str(recipe), store=str(store), HPT_CORES=str(cores()))
    lines = [line for path in store.glob("stages/*/metrics.jsonl") for line in read_lines(path)[0]]
    waits = "train/data_wait_share"
    return [line for line in lines if waits in line.metrics and line.step > _WINDOW]


def in_memory(steps: int = STEPS // 2) -> Quiet:
    """Train the same network on one batch that lies in memory."""
    views = QUICKSTART.views()

    @contextmanager
    def feed(_start: int) -> Iterator[Iterator[tuple[tuple[Tensor, Tensor]]]]:
        yield iter(lambda: (views,), None)

    accelerator = make_accelerator(threads=cores(), seed=0)
    return train(QUICKSTART, moco(QUICKSTART), feed, steps, accelerator)


def rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    with tempfile.TemporaryDirectory() as folder:
        before = _speed([values for _, values in in_memory().points[1:]])
        fed = [line.metrics for line in launched(Path(folder))]
        after = _speed([values for _, values in in_memory().points[1:]])
    waits = [values["train/data_wait_share"] for values in fed]
    note = f"median of {len(waits)} windows of {_WINDOW} steps, greatest {max(waits):.3f}"
    yield Row("data_wait", statistics.median(waits), 0.02, note, at_most=True, digits=4)
    memory, speed = (before + after) / 2, _speed(fed)
    yield Row(
        "fed_step_over_step_from_memory",
        memory / speed,
        None,
        f"from shards {speed:.0f} images/s; from memory {before:.0f} before and {after:.0f} after; "
        f"reading and augmenting take their share of the same {cores()} cores",
    )


def _speed(windows: list[dict[str, float]]) -> float:
    return statistics.median(values["train/images_per_second"] for values in windows)
