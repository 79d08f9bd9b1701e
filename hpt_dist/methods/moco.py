"""MoCo v2: momentum contrast (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297)."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hpt_dist.errors import RequestError
from hpt_dist.methods.method import Loss, Method, seeded_linear


class MoCoV2(Method):
    """Tells the other view of an image from a queue of other images' keys.

    Queries come from the backbone and a projector of two layers. Keys come from the key encoder,
    whose parameters are a moving average of theirs; its batch-norm statistics are not averaged but
    come from its own passes. The keys of a batch enter the queue after the step, so a batch is
    never its own negative. Batches are not shuffled between ranks for batch norm.

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
        self.projector = nn.Sequential(
            seeded_linear(feature_dim, feature_dim, generator=generator),
            nn.ReLU(),
            seeded_linear(feature_dim, dim, generator=generator),
        )
        self.key_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.temperature = temperature
        self.register_buffer(
            "queue", functional.normalize(torch.randn(queue, dim, generator=generator), dim=1)
        )
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        self._batch_keys: Tensor | None = None

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
            positive = (query * keys).sum(dim=1, keepdim=True)
            logits = torch.cat([positive, query @ self.queue.T], dim=1)  # [b, 1 + queue]
            logits = logits / self.temperature
            own_key = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            total = functional.cross_entropy(logits, own_key)
        self._batch_keys = keys
        metrics = {
            "loss": total.detach(),
            # Not argmax: it would call the ties of a collapsed encoder correct.
            "contrast_top1": (logits[:, 0] > logits[:, 1:].amax(dim=1)).float().mean(),
            "feature_std": feature_std(query.detach()),
        }
        return Loss(total, metrics)

    @torch.no_grad()
    def after_step(self) -> None:
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
        keys = _gather(self._batch_keys)
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

    @torch.no_grad()
    def _embed_keys(self, view: Tensor) -> Tensor:
        """Return the unit keys [b, dim] of a view, with the batch-norm modes of the backbone."""
        for ours, theirs in zip(self.key_backbone.modules(), self.backbone.modules(), strict=True):
            ours.training = theirs.training
        keys: Tensor = self.key_projector(self.key_backbone(view))
        return functional.normalize(keys.float(), dim=1)


def feature_std(embeddings: Tensor) -> Tensor:
    """Return how spread unit embeddings are: 1 on the whole sphere, 0 where all are the same.

    Args:
        embeddings: [b, dim] with rows of length 1.

    Returns:
        The standard deviation over the batch, averaged over dimensions, times sqrt(dim)
        (arXiv 2011.10566, section 4.1); a scalar.
    """
    dim = embeddings.shape[1]
    spread: Tensor = embeddings.std(dim=0, correction=0).mean() * dim**0.5
    return spread


def _gather(keys: Tensor) -> Tensor:
    """Return the keys of all ranks in the order of the global batch: rank by rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return keys
    shares = [torch.empty_like(keys) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, keys)
    return torch.cat(shares)
