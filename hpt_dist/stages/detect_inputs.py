"""What a detector is trained on: images with boxes as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.images.box_views import BoxAugment
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks.detector import Inputs
from hpt_dist.reading.box_stream import BoxBatch, BoxStream, Target, batch_of, with_objects
from hpt_dist.reading.order import uniforms
from hpt_dist.reading.stream import Pool
from hpt_dist.recipe import Detect
from hpt_dist.recipe.kinds.frozen import trained_on
from hpt_dist.stages.inputs import ahead, mean_std, pool_of
from hpt_dist.stages.trained import Training
from hpt_dist.train import loop
from hpt_dist.train.loop import Feed
from hpt_dist.trial.context import Context

Sample = tuple[Tensor, Target]
_SEEDS = 2**53  # as many as a double tells apart


@dataclass(frozen=True)
class Learned:
    """The images that a detector learns from.

    Args:
        pool: of them.
        left_out: how many others are left out, as they have no boxes.
    """

    pool: Pool
    left_out: int


def learned_from(context: Context, spec: Detect) -> Learned:
    """Return the images that a detector learns from; crowds alone are no boxes."""
    pool = pool_of(context, (trained_on(spec.data),))
    if spec.images_without_boxes == "keep":
        return Learned(pool, 0)
    kept = with_objects(pool)
    return Learned(kept, len(pool) - len(kept))


def inputs_of(samples: Sequence[Sample], normalize: Normalize, *, seed: int, step: int) -> Inputs:
    """Return a rank's share of a batch as a detector takes it.

    Args:
        samples: of the share, in order; all with masks, or none.
        normalize: pixels for the network, on its device.
        seed: of the training; with the step and an image's place in it, of its random choices.
        step: of the batch.
    """
    height, width = (max(image.shape[side] for image, _ in samples) for side in (1, 2))
    targets = [target for _, target in samples]
    device = normalize.device

    def padded(x: Tensor) -> Tensor:
        return functional.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    masks = [padded(one["masks"].to(torch.uint8)) for one in targets if "masks" in one]
    return Inputs(
        images=torch.cat([padded(normalize(image[None])) for image, _ in samples]),
        sizes=torch.tensor([list(image.shape[1:]) for image, _ in samples]),
        counts=torch.tensor([len(one["labels"]) for one in targets]),
        seeds=seeds(seed, step, [one["index"] for one in targets]),
        boxes=torch.cat([one["boxes"] for one in targets]).to(device),
        labels=torch.cat([one["labels"] for one in targets]).to(device),
        masks=torch.cat(masks).to(device) if masks else torch.zeros(0, device=device),
    )


def seeds(seed: int, step: int, places: Sequence[int]) -> Tensor:
    """Return the seeds of the random choices in images, int64 [b].

    Args:
        seed: of the training.
        step: of the batch.
        places: of the images in the global batch.
    """
    steps = np.full(len(places), step, np.int64)
    draws = uniforms(seed, steps, np.array(places, np.int64), 0, 1, purpose="detector")[:, 0]
    return torch.from_numpy((draws * _SEEDS).astype(np.int64))


def feed_of(training: Training, spec: Detect, pool: Pool) -> Feed:
    """Feed batches of images with boxes."""
    accelerator = training.accelerator
    normalize = Normalize(*mean_std(training.context), accelerator.device)

    def inputs(batch: BoxBatch) -> tuple[loop.Inputs, ...]:
        found = inputs_of(batch.samples, normalize, seed=spec.seed, step=batch.step)
        images = found.images.contiguous(memory_format=training.memory_format)
        return (found._replace(images=images),)

    @contextmanager
    def feed(start: int) -> Iterator[Iterator[tuple[loop.Inputs, ...]]]:
        with _stream(training, spec, pool) as stream:
            stream.load_state_dict({"step": start})
            with ahead(map(inputs, stream), accelerator.device) as batches:
                yield batches

    return feed


def keys_of(spec: Detect, pool: Pool, step: int) -> list[str]:
    """Return the images of a step by name, for messages."""
    indices, _ = batch_of(pool, step, batch=spec.batch, seed=spec.seed, together=_together(spec))
    return [pool.name(i) for i in indices.tolist()]


def _together(spec: Detect) -> int:
    return spec.batch if spec.by_shape else 1


def _stream(training: Training, spec: Detect, pool: Pool) -> BoxStream:
    accelerator = training.accelerator
    augment = BoxAugment(
        sizes=spec.sizes,
        max_size=spec.max_size,
        flip=spec.flip,
        crop=spec.crop,
        jitter=spec.jitter,
    )
    return BoxStream(
        pool,
        batch=spec.batch,
        seed=spec.seed,
        augment=augment,
        masks=spec.masks,
        difficult=spec.difficult == "learn",
        empty=True,  # those that are left out are not in the pool
        together=_together(spec),
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=training.context.order.threads,
        replacements=training.replacements,
    )
