"""What a pretraining saw and what it changed, as pictures beside its result.

Views: the crops and colours of the first images of its first batch, as the network got them.
Neighbours: of twelve images, those that were most similar before and those that are now. They are
shown, and choose nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.errors import HptError
from hpt_dist.images.sheet import Pixels, encoded
from hpt_dist.networks.precision import torch_format
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import Ints
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.stream import Stream, View, center_batches, network_views
from hpt_dist.recipe import Pretrain
from hpt_dist.stages import monitor
from hpt_dist.stages.inputs import backbone_of, mean_std, photometric_of
from hpt_dist.stages.trained import Training
from hpt_dist.trial.context import Context

VIEWS, NEIGHBOURS = "views.webp", "neighbours.webp"
IMAGES = 8  # of which views are shown
QUERIES, NEAREST = 12, 5
GALLERY = 200  # images among which neighbours are looked for
_VIEW_PX, _NEIGHBOUR_PX = 96, 56
_CPU = torch.device("cpu")

log = logging.getLogger(__name__)


def of_training(
    context: Context, spec: Pretrain, pool: Pool, state: Mapping[str, Tensor], training: Training
) -> dict[str, bytes]:
    """Return the pictures of a training by the names of their files; none on ranks but the first.

    A picture that cannot be made is left out with a warning: the training is done. A collective
    call.

    Args:
        context: of the trial.
        spec: its settings.
        pool: what it trained on.
        state: of the backbone that it leaves.
        training: that has ended.
    """
    gallery = None
    before = after = torch.empty(0)
    if spec.monitor:
        gallery = gallery_of(monitor.watched_pool(context, spec, spec.monitor))
        before, after = _before_and_after(context, spec, gallery, state, training)
    if training.accelerator.process_index:
        return {}
    makers: dict[str, Callable[[], bytes]] = {VIEWS: partial(views, context, spec, pool)}
    if gallery is not None and len(gallery) > 1:
        size = context.order.image_size
        makers = {NEIGHBOURS: partial(neighbours, gallery, before, after, size)} | makers
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except HptError as error:
            log.warning("%s is left out: %s", name, error)
    return found


def _before_and_after(
    context: Context, spec: Pretrain, gallery: Pool, state: Mapping[str, Tensor], training: Training
) -> tuple[Tensor, Tensor]:
    """Return the features [n, d] of a gallery by the weights of the start, and by those left."""
    accelerator, replacements = training.accelerator, training.replacements
    layout = torch_format(spec.numerics)
    with torch.random.fork_rng(devices=[]):  # a new network draws weights
        network = backbone_of(context).to(accelerator.device).to(memory_format=layout)
    before = monitor.features_of(context, network, accelerator, gallery, replacements)
    network.load_state_dict(state)
    return before, monitor.features_of(context, network, accelerator, gallery, replacements)


def views(context: Context, spec: Pretrain, pool: Pool) -> bytes:
    """Return both views of the first images of the first batch, the one above the other.

    They are drawn anew, from the same numbers, so a resumed training shows the same.
    """
    most = min(IMAGES, spec.batch)
    share = next(n for n in range(most, spec.batch + 1) if spec.batch % n == 0)
    policies = (spec.augment, spec.augment_other or spec.augment)
    with Stream(
        pool,
        batch=spec.batch,
        seed=spec.seed,
        views=[View(context.order.image_size, policy.crop_area) for policy in policies],
        streams=spec.shuffle.streams,
        window=spec.shuffle.window,
        world=spec.batch // share,
        workers=0,
        replacements=Replacements(spec.max_bad),
    ) as stream:
        batch = next(stream)
    photometrics = [photometric_of(context, policy, _CPU) for policy in policies]
    both = network_views(batch, photometrics, spec.seed)
    return encoded([_pixels(view[:IMAGES], context) for view in both], _VIEW_PX)


def _pixels(view: Tensor, context: Context) -> list[Pixels]:
    """Return normalised images [b, 3, h, w] as pixels."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in mean_std(context))
    shares = (view.float().cpu() * std + mean).clamp(0, 1)
    return list((shares * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())


def gallery_of(pool: Pool) -> Pool:
    """Return the images among which neighbours are looked for: the first ones of a pool."""
    return pool.subset(np.arange(min(GALLERY, len(pool))))


def neighbours(gallery: Pool, before: Tensor, after: Tensor, size: int) -> bytes:
    """Return twelve images, the nearest others of each before, and the nearest others now.

    Args:
        gallery: at least two images.
        before: features [n, d] of its images.
        after: [n, d].
        size: side of the network's images, pixels.
    """
    queries = np.unique(np.linspace(0, len(gallery) - 1, QUERIES).round().astype(np.int64))
    k = min(NEAREST, len(gallery) - 1)
    nearest = [_nearest(features, queries, k) for features in (before, after)]
    shown = np.concatenate([queries[:, None], *nearest], axis=1)  # [queries, 1 + 2 k]
    images = _images(gallery, np.unique(shown), size)
    rows = [[images[i] for i in row] for row in shown.tolist()]
    return encoded(rows, _NEIGHBOUR_PX, wide_gap_after=(0, k))


def _nearest(features: Tensor, queries: Ints, k: int) -> Ints:
    """Return the indices [queries, k] of the nearest others by cosine."""
    unit = functional.normalize(features.double(), dim=1)
    rows = torch.from_numpy(queries)
    similarities = unit[rows] @ unit.T
    similarities[torch.arange(len(rows)), rows] = -torch.inf
    found: Ints = similarities.topk(k, dim=1).indices.numpy()
    return found


def _images(pool: Pool, rows: Ints, size: int) -> dict[int, Pixels]:
    """Return images by their row, cut out of the middle as evaluations see them."""
    found: dict[int, Pixels] = {}
    for batch in center_batches(pool, batch=64, size=size, workers=0, rows=rows):
        pixels = batch.images[0].permute(0, 2, 3, 1).contiguous().numpy()
        found |= dict(zip(batch.indices.tolist(), pixels, strict=True))
    return found
