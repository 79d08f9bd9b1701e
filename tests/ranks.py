"""Several gloo ranks in processes of their own, for tests of what ranks compute together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hpt_dist.processes import children


def on_ranks(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(rank, world, *arguments)` returns on each rank of a gloo group.

    What it returns is saved and loaded as plain tensors, numbers and containers.
    """
    folder.mkdir(exist_ok=True)
    # Their server imports once what takes seconds.
    children.warm_up(dict(os.environ))
    mp.start_processes(
        _on_rank,
        (world, str(folder), function, arguments),
        nprocs=world,
        start_method="forkserver",
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _on_rank(rank: int, world: int, folder: str, function: Any, arguments: tuple[Any, ...]) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)  # which the server ignores
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    torch.save(function(rank, world, *arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
