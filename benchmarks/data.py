"""The data plane's table: `make bench-data`. Exits 1 when a goal is missed.

With `--write`, the table is kept in `benchmarks/data.txt` with the versions of what was measured.
"""

from __future__ import annotations

import io
import os
import platform
import sys
from contextlib import redirect_stdout
from importlib import metadata
from itertools import chain
from pathlib import Path

import torch

from benchmarks import reading, resume, sharding, views
from benchmarks.measure import print_rows
from hpt_dist.memory import keep_freed_memory

KEPT = Path(__file__).with_name("data.txt")
_MEASURED = ("torch", "torchvision", "pillow", "numpy", "webdataset", "litdata", "boto3")


def versions() -> str:
    """Return what was measured, on what."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in _MEASURED)
    return f"# Python {platform.python_version()}, {packages}; {os.cpu_count()} cores, {_cpu()}"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class _Tee(io.StringIO):
    """Remembers what it prints."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def main() -> int:
    """Measure and print every row; return the exit status."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as in the process of a trial
    with redirect_stdout(_Tee()) as said:
        print(versions())
        reached = print_rows(chain(reading.rows(), views.rows(), sharding.rows(), resume.rows()))
    if "--write" in sys.argv:
        KEPT.write_text(said.getvalue(), encoding="utf-8")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
