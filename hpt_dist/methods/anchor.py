"""A frozen network's features as an anchor of those that are trained (after GFM)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpt_dist.errors import HptError
from hpt_dist.methods.method import Loss, Method

METRIC = "anchor"


class Anchored(Method):
    """Trains like another method, with the backbone's features held near those of the base.

    The base is the backbone as it is when this object is made: a copy in evaluation mode, with
    batch-norm statistics of its own, that never learns. The loss is that of the method plus
    weight (1 - cos(f, f_base)). Its mean is over all images that the backbone reads with gradients:
    one view of MoCo v2, whose keys another encoder makes, and both views of BYOL and SimCLR. f and
    f_base are the pooled features of the same pixels, before any projector. Only f has gradients.

    GFM (arXiv 2302.04476) adds such a cosine to masked image modelling. Its trained network begins
    with random weights, and a linear layer projects that network's features before they are
    compared with those of a stage of the teacher. Here both networks begin as the same one, so
    their features are compared as they are: a projection could undo a rotation, which whatever
    reads the features later would notice.

    The base is no submodule: it is in no saved state, no optimizer and no exported weights, and a
    restart makes it again from the weights that the training began with.

    Args:
        method: what trains the backbone, with one phase, on its device, before `group_batch_norm`.
        weight: lambda; 0 measures the distance and changes no weight.

    Raises:
        HptError: in the first step, where the method's forward pass shows no features, or has a
            metric of the same name.
    """

    def __init__(self, method: Method, weight: float) -> None:
        super().__init__()
        self.method = method
        self.phases = method.phases
        self.weight = weight
        base = copy.deepcopy(method.backbone).requires_grad_(False).eval()
        self._base = (base,)  # a tuple's modules are nobody's submodules

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The backbone that the method trains."""
        return self.method.backbone

    def forward(self, inputs: tuple[Tensor, ...], phase: int) -> Loss:
        """Return the method's loss and the anchor's.

        Returns:
            The sum of both; the metrics of the method, whose "loss" is its own part, and "anchor",
            the mean of 1 - cos without the weight, from 0 to 2.
        """
        distances: list[Tensor] = []

        def compare(_: nn.Module, views: Any, named: Any, features: Tensor) -> None:
            if features.requires_grad:  # not those of a pass that only makes targets
                distances.append(self._distances(features, *views, **named))

        # For this pass alone, so that looks at validation cost no second one.
        hook = self.backbone.register_forward_hook(compare, with_kwargs=True)
        try:
            loss = self.method(inputs, phase)
        finally:
            hook.remove()
        self._check(loss, shown=bool(distances))
        anchor = torch.cat(distances).mean()
        metrics = {**loss.metrics, METRIC: anchor.detach()}
        return Loss(loss.total + self.weight * anchor, metrics)

    def after_step(self, done: int) -> None:
        """Do what the method does after a step."""
        self.method.after_step(done)

    def group_batch_norm(self, batch: int, bn_group: int | None, world: int) -> None:
        """Group the statistics of the method; the base normalises by its running ones."""
        self.method.group_batch_norm(batch, bn_group, world)

    def _distances(self, features: Tensor, *views: Any, **named: Any) -> Tensor:
        """Return 1 - cos [b] between features [b, d] and those of the base, float32."""
        with torch.no_grad():
            target: Tensor = self._base[0](*views, **named)
        with torch.autocast(features.device.type, enabled=False):
            cosines = functional.cosine_similarity(features.float(), target.float(), dim=1)
            return 1 - cosines

    def _check(self, loss: Loss, *, shown: bool) -> None:
        name = type(self.method).__name__
        if not shown:
            raise HptError(
                f"{name} shows no features: it never calls its backbone with gradients",
                where=METRIC,
                fix="leave out anchor, or let the method call self.backbone(view)",
            )
        if METRIC in loss.metrics:
            raise HptError(
                f"{name} has a metric that is called {METRIC}, too",
                where=METRIC,
                fix="leave out anchor, or give the method's metric another name",
            )
