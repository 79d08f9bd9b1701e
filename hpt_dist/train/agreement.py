"""What the ranks of a training agree on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpt_dist.errors import TrainingError


def check_agreed(accelerator: Any, start: int) -> None:
    """Refuse to train if ranks loaded different states: they would wait for each other for ever."""
    starts = accelerator.gather(torch.tensor([start], device=accelerator.device)).tolist()
    if len(set(starts)) > 1:
        raise TrainingError(
            f"the ranks loaded states of different steps: {starts}",
            fix="launch again; if it happens again, the store gives its readers different answers",
        )


def united(accelerator: Any, names: Iterable[str]) -> list[str]:
    """Return the names that any rank has, sorted; every rank calls it, and gets the same."""
    shares: list[list[str]] = [[]] * accelerator.num_processes
    dist.all_gather_object(shares, list(names))
    return sorted({name for share in shares for name in share})


class Vote:
    """Whether any rank was asked to stop; every rank gets the same answer at the same step.

    With several ranks the answer is that of the step before: the vote runs beside the step, and no
    device waits for it.
    """

    def __init__(self, accelerator: Any) -> None:
        self._group: Any = None
        if accelerator.num_processes > 1:
            self._group = dist.new_group(backend="gloo")
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, asked: bool) -> bool:
        """Return whether any rank was asked; each calls it once a step."""
        if self._group is None:
            return asked
        answer = False
        if self._pending:
            work, flag = self._pending
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor([int(asked)])
        self._pending = dist.all_reduce(flag, group=self._group, async_op=True), flag
        return answer
