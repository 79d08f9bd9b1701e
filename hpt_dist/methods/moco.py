"""MoCo v2: momentum contrast (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hpt_dist.errors import RequestError
from hpt_dist.methods.embeddings import feature_std, follow_modes, gather, perceptron
from hpt_dist.methods.method import Loss, Method
from hpt_dist.networks.batch_norm import grouping, interleave, regroup


class MoCoV2(Method):
    """Tells the other view of an image from a queue of other images' keys.

    Queries come from the backbone and a projector of two layers. Keys come from the key encoder,
    whose parameters are a moving average of theirs; its batch-norm statistics are not averaged but
    come from its own passes. The keys of a batch enter the queue after the step, so a batch is
    never its own negative.

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim]. Its copy becomes the key
            encoder, so frozen batch norm must be frozen before.
        feature_dim: length of the backbone's feature vector.
        queue: number of negative keys; a multiple of the global batch.
        momentum: share of its old value that a key parameter keeps in a step.
        temperature: divisor of the cosine similarities.
        dim: length of an embedding.
        seed: of the initial projector and queue, which depend on nothing else.
    """

    phases = 1
    queue: Tensor  # [queue, dim], float32, unit rows
    pointer: Tensor  # [], int64: the row that the next key overwrites

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        queue: int,
        momentum: float,
        temperature: float,
        dim: int,
        seed: int,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.backbone = backbone
        self.projector = perceptron(feature_dim, feature_dim, dim, generator=generator)
        self.key_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.temperature = temperature
        self.register_buffer(
            "queue", functional.normalize(torch.randn(queue, dim, generator=generator), dim=1)
        )
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        self._batch_keys: Tensor | None = None
        self._key_groups = 1

    def forward(self, inputs: tuple[Tensor, ...], phase: int = 0) -> Loss:  # noqa: ARG002 - one phase
        """Return the InfoNCE loss of a batch against the queue (arXiv 1911.05722, eq. 1).

        Args:
            inputs: the views of the queries and of the keys, each [b, 3, h, w].
            phase: always 0.

        Returns:
            The loss, with the metrics "loss", "contrast_top1" (share of queries nearer to their
            own key than to any in the queue) and "feature_std" (see `feature_std`).
        """
        query_view, key_view = inputs
        query = self.projector(self.backbone(query_view))
        keys = self._embed_keys(key_view)
        with torch.autocast(query.device.type, enabled=False):
            query = functional.normalize(query.float(), dim=1)
            scaled = query / self.temperature  # rather than the many more logits
            positive = (scaled * keys).sum(dim=1, keepdim=True)
            logits = torch.cat([positive, scaled @ self.queue.T], dim=1)  # [b, 1 + queue]
            own_key = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            total = functional.cross_entropy(logits, own_key)
        self._batch_keys = keys
        own, others = torch.split(logits.detach(), [1, len(self.queue)], dim=1)
        metrics = {
            "loss": total.detach(),
            # Not argmax: it would call the ties of a collapsed encoder correct.
            "contrast_top1": (own[:, 0] > others.amax(dim=1)).float().mean(),
            "feature_std": feature_std(query.detach()),
        }
        return Loss(total, metrics)

    @torch.no_grad()
    def after_step(self, done: int) -> None:  # noqa: ARG002 - every step is alike
        """Move the key encoder towards the new query encoder, and enqueue the batch's keys.

        The paper's algorithm averages before each key pass. Here it is after each step, which is
        the same sequence: before the first pass both encoders are equal.

        Raises:
            RequestError: if the queue is no multiple of the global batch.
        """
        self._average(
            [*self.key_backbone.parameters(), *self.key_projector.parameters()],
            [*self.backbone.parameters(), *self.projector.parameters()],
            None,
        )
        if self._batch_keys is None:
            raise RuntimeError("after_step follows a forward pass")
        keys = gather(self._batch_keys)
        self._batch_keys = None
        if len(self.queue) % len(keys):
            raise RequestError(
                f"a queue of {len(self.queue)} keys does not hold whole batches of {len(keys)}",
                where="moco.queue",
                allowed="a multiple of batch",
            )
        # On the device and without reading the pointer, so that no step waits for the device.
        rows = self.pointer + torch.arange(len(keys), device=keys.device)
        self.queue[rows] = keys
        self.pointer.add_(len(keys)).remainder_(len(self.queue))

    def group_batch_norm(self, batch: int, bn_group: int | None, world: int) -> None:
        """Group queries by neighbours and keys across, so that no key shares its query's group.

        Otherwise the statistics of a small group would tell a query its own key. The paper
        shuffles the keys between GPUs for this, whose number then is part of the result.
        """
        super().group_batch_norm(batch, bn_group, world)
        if bn_group is None or bn_group == batch:
            return
        across = grouping(batch, bn_group, world=world, interleaved=True)
        for encoder in (self.key_backbone, self.key_projector):
            regroup(encoder, across)
        self._key_groups = batch // bn_group

    @torch.no_grad()
    def _embed_keys(self, view: Tensor) -> Tensor:
        """Return the unit keys [b, dim] of a view, with the batch-norm modes of the backbone."""
        follow_modes(self.key_backbone, self.backbone)
        if self._key_groups == 1:
            keys: Tensor = self.key_projector(self.key_backbone(view))
        else:
            order, back = interleave(len(view), self._key_groups, view.device)
            grouped = torch.empty_like(view).copy_(view[order])  # in the same memory format
            keys = self.key_projector(self.key_backbone(grouped))[back]
        return functional.normalize(keys.float(), dim=1)
