"""MoCo v2 from lightly's building blocks, put together as its documentation does.

https://docs.lightly.ai/self-supervised-learning/examples/moco.html (MIT)
"""

from __future__ import annotations

import copy

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import (
    batch_shuffle,
    batch_unshuffle,
    deactivate_requires_grad,
    update_momentum,
)
from torch import Tensor, nn

from benchmarks.engine_step import Setting
from hpt_dist.networks.precision import autocast, torch_format


class LightlyMoCo:
    """A step on the same backbone, batch, optimizer, precision and memory format; call it.

    The optimizer is PyTorch's own with its defaults, as in lightly's example. The shuffle is
    theirs too: it is there for batch norm on several devices, and they do it on one as well.

    Args:
        setting: what is trained.
        views: the two views, on the device.
    """

    def __init__(self, setting: Setting, views: tuple[Tensor, Tensor]) -> None:
        device, layout = views[0].device, torch_format(setting.numerics)
        self._setting, self._views = setting, views
        backbone = setting.create()
        dim = backbone.feature_dim
        head = MoCoProjectionHead(dim, dim, 128)
        self.query = nn.Sequential(backbone, head).to(device).to(memory_format=layout).train()
        self.momentum = copy.deepcopy(self.query)
        deactivate_requires_grad(self.momentum)
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(setting.queue, 128))
        self.criterion.to(device)
        self._optimizer = _optimizer(setting, self.query)

    def __call__(self) -> Tensor:
        """Take a step and return its loss."""
        first, second = self._views
        update_momentum(self.query, self.momentum, m=self._setting.momentum)
        with autocast(self._setting.numerics, first.device):
            queries = self.query(first)
            shuffled, order = batch_shuffle(second)
            keys = batch_unshuffle(self.momentum(shuffled).detach(), order)
            loss: Tensor = self.criterion(queries, keys)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()


def _optimizer(setting: Setting, module: nn.Module) -> torch.optim.Optimizer:
    wanted = setting.optimizer
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if wanted.name == "sgd":
        return torch.optim.SGD(
            parameters, wanted.lr, momentum=wanted.momentum, weight_decay=wanted.weight_decay
        )
    return torch.optim.AdamW(parameters, wanted.lr, weight_decay=wanted.weight_decay)
