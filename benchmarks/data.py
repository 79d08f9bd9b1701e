"""The data plane's table: `make bench-data`. Exits 1 when a goal is missed.

With `--write`, the table is kept in `benchmarks/data.txt` with the versions of what was measured.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import torch

from benchmarks import reading, resume, sharding, views
from benchmarks.measure import print_table, versions
from hpt_dist.trial.memory import keep_freed_memory

KEPT = Path(__file__).with_name("data.txt")
_MEASURED = ("torch", "torchvision", "pillow", "numpy", "webdataset", "litdata", "boto3")


def main() -> int:
    """Measure and print every row; return the exit status."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as in the process of a trial
    rows = chain(reading.rows(), views.rows(), sharding.rows(), resume.rows())
    return print_table(rows, versions(_MEASURED), KEPT if "--write" in sys.argv else None)


if __name__ == "__main__":
    sys.exit(main())
