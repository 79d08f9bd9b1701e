"""The training engine's table: `make bench-engine`. Exits 1 when a goal is missed.

With `--write`, the table is kept in `benchmarks/engine.txt` with the versions of what was measured.
`--only step|anchor|fed|saving|ranks` measures one part; nothing is kept then. The machine should do
nothing else meanwhile. GOMP_SPINCOUNT is set as in the process of a trial, or a busy core would
make every step many times slower: see the Makefile and `hpt_dist/launch/process.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import engine_anchor, engine_fed, engine_ranks, engine_saving
from benchmarks.engine_lightly import LightlyMoCo
from benchmarks.engine_step import OURS, QUICKSTART, Setting, bare, interleaved
from benchmarks.measure import Row, paired, print_table, versions
from hpt_dist.recipe.numerics import THIS_CPU, Numerics, decide
from hpt_dist.trial.memory import keep_freed_memory

KEPT = Path(__file__).with_name("engine.txt")
_MEASURED = ("torch", "torchvision", "timm", "accelerate", "lightly", "numpy")

RESNET50 = Setting("resnet50", batch=32)
AS_LIGHTLY_DOES = Numerics("float32", "contiguous")


def step_rows() -> Iterator[Row]:
    """Yield hpt-dist's step over its bare passes, and against lightly's."""
    resnet18 = Setting("resnet18")
    yield _against_lightly("moco_v2_resnet18_vs_lightly", resnet18, resnet18)
    yield from _both("moco_v2_resnet50", RESNET50)
    yield from _both("moco_v2_efficientnet_lite0", QUICKSTART)
    yield chosen_row(RESNET50)


def chosen_row(setting: Setting) -> Row:
    """Compare the numerics that the rule takes on a CPU with those that lightly's users get."""
    chosen = decide("auto", "auto", setting.backbone, THIS_CPU)
    row = _against_lightly(
        "moco_v2_resnet50_chosen_numerics_vs_lightly",
        replace(setting, numerics=chosen),
        replace(setting, numerics=AS_LIGHTLY_DOES),
    )
    return replace(row, note=f"chosen: {chosen}; {row.note}")


def _both(name: str, setting: Setting) -> Iterator[Row]:
    seconds = interleaved(
        setting,
        lambda method, views: {
            "lightly": LightlyMoCo(setting, views),
            "passes": bare(method, views, setting.numerics),
        },
    )
    yield _compared(f"{name}_vs_lightly", seconds, setting, 1.0)
    yield Row(
        f"{name}_over_bare_passes",
        paired(seconds[OURS], seconds["passes"]),
        1.10,
        _told(seconds, setting),
        at_most=True,
    )


def _against_lightly(name: str, ours: Setting, theirs: Setting, goal: float | None = 1.0) -> Row:
    layout = theirs.views()
    seconds = interleaved(ours, lambda *_: {"lightly": LightlyMoCo(theirs, layout)})
    return _compared(name, seconds, ours, goal)


def _compared(
    name: str, seconds: dict[str, list[float]], setting: Setting, goal: float | None
) -> Row:
    return Row(name, paired(seconds["lightly"], seconds[OURS]), goal, _told(seconds, setting))


def _told(seconds: dict[str, list[float]], setting: Setting) -> str:
    spent = ", ".join(f"{who} {statistics.median(s) * 1e3:.0f} ms" for who, s in seconds.items())
    frozen = ", frozen batch norm" * setting.frozen
    return (
        f"{spent} a step of {setting.batch} at {setting.size} px, {setting.numerics}, "
        f"{setting.optimizer.name}, queue {setting.queue}{frozen}"
    )


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "step": step_rows,
    "anchor": engine_anchor.rows,
    "fed": engine_fed.rows,
    "saving": engine_saving.rows,
    "ranks": engine_ranks.rows,
}


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.engine", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {KEPT.name}")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    asked = parser.parse_args()
    keep_freed_memory()  # as in the process of a trial
    parts = [asked.only] if asked.only else list(PARTS)
    rows = (row for part in parts for row in PARTS[part]())
    kept = KEPT if asked.write and not asked.only else None
    return print_table(rows, versions(_MEASURED), kept)


if __name__ == "__main__":
    sys.exit(main())
