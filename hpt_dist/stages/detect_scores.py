"""What a detector finds in a split, each image once over all ranks, and COCO's scores of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from hpt_dist.evals import detection
from hpt_dist.evals.detection import Detections, Kind
from hpt_dist.evals.features import evaluating
from hpt_dist.images import run_lengths
from hpt_dist.images.boxes import Boxes
from hpt_dist.images.photometric import Normalize
from hpt_dist.methods.detection import Detection
from hpt_dist.networks.detector_heads import Found
from hpt_dist.networks.precision import autocast
from hpt_dist.reading.box_stream import WholeImage, whole_images
from hpt_dist.reading.pool import Pool
from hpt_dist.recipe import Detect
from hpt_dist.recipe.kinds.frozen import dataset_of
from hpt_dist.stages import detection_results
from hpt_dist.stages.inputs import manifest_of, mean_std, pool_of
from hpt_dist.stages.trained import Training
from hpt_dist.train.selection import Look
from hpt_dist.trial import detections_file
from hpt_dist.trial.detections_file import Row

_IN_MASK = 0.5  # probability from which a pixel is part of an object


@dataclass(frozen=True)
class Final:
    """What a detector's trial leaves of the splits that judge it.

    Args:
        metrics: shares of 1; see `detection_results.Exhibit`.
        details: the same; those of classes are test's.
        replicates: of metrics.
        shown: files that reports show, by name.
        files: of all that is found, by name.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    replicates: dict[str, Sequence[float]] = field(default_factory=dict)
    shown: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class Judge:
    """Scores a detector; each rank looks at its share of the images.

    Args:
        training: the trial.
        method: the detector.
        spec: the trial's settings.
        classes: names of its classes.
    """

    def __init__(
        self, training: Training, method: Detection, spec: Detect, classes: Sequence[str]
    ) -> None:
        self._training, self._method, self._spec = training, method, spec
        self._classes = classes
        self._normalize = Normalize(*mean_std(training.context), training.accelerator.device)

    def look(self) -> Look:
        """Return the scores on val; a collective call."""
        truth, found, _ = self._answers("val", heeds=True)
        metrics: dict[str, float] = {}
        for kind in self._kinds:
            scores = detection.score(truth, found, self._classes, kind=kind)
            rule = "mask_" if kind == "masks" else ""
            metrics |= {
                f"val/{rule}{name}": value / 100
                for name, value in scores.metrics.items()
                if value is not None
            }
        return Look(metrics, images=len(truth))

    def final(self) -> Final:
        """Return what is left of the splits that judge: test, and val where it was looked at.

        A collective call; ranks that write nothing get nothing.
        """
        left = Final()
        for split in ("val", "test") if self._spec.looks_at_val else ("test",):
            truth, found, pool = self._answers(split)
            if not self._training.accelerator.is_main_process:
                continue
            of_split = detection_results.exhibit(
                truth,
                found,
                self._classes,
                detection_results.images_of(pool),
                split=split,
                kinds=self._kinds,
                voc=self._spec.voc_recalls,
            )
            intervals = {**left.details.get("intervals", {}), **of_split.details["intervals"]}
            left.metrics.update(of_split.metrics)
            left.details.update(of_split.details, intervals=intervals)
            left.replicates.update(of_split.replicates)
            left.shown.update(of_split.files)
            left.files[detections_file.file_of(split)] = self._file(split, found)
        return left

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        return ("boxes", "masks") if self._spec.masks else ("boxes",)

    def _answers(
        self, split: str, *, heeds: bool = False
    ) -> tuple[list[tuple[str, Boxes]], dict[str, Detections], Pool]:
        """Return the objects of each image of a split, what is found, and the images.

        A collective call.
        """
        training, accelerator = self._training, self._training.accelerator
        pool = pool_of(training.context, (f"{dataset_of(self._spec.data)}/{split}",))
        ranks = accelerator.num_processes
        images = whole_images(
            pool,
            size=self._spec.test_size,
            max_size=self._spec.max_size,
            rank=accelerator.process_index,
            world=ranks,
            workers=training.context.order.threads,
        )
        heeded = training.context.interrupt.heeding(images) if heeds and ranks == 1 else images
        with torch.inference_mode(), evaluating(self._method):
            ours = [(one.key, one.truth, self._found(one)) for one in heeded]
        shares: list[Any] = [ours]
        if ranks > 1:
            shares = [None] * ranks
            dist.all_gather_object(shares, ours)
        # Of equally sure detections the first counts first, so the order is that of the split.
        ordered = [shares[i % ranks][i // ranks] for i in range(len(pool))]
        truth = [(key, boxes) for key, boxes, _ in ordered]
        return truth, detection.merged([[(key, its) for key, _, its in ordered]]), pool

    def _found(self, one: WholeImage) -> Detections:
        """Return what is found in an image alone: its padding, and so this, depends on no other."""
        pixels = self._normalize(one.image[None])
        size = (one.image.shape[1], one.image.shape[2])
        with autocast(self._spec.numerics, self._training.accelerator.device):
            (found,) = self._method.detect(pixels, [size])
        return in_image(found, size, one.truth.size)

    def _file(self, split: str, found: dict[str, Detections]) -> bytes:
        manifest = manifest_of(self._training.context, self._spec.data)
        rows = [
            Row(
                key,
                its.boxes.tolist(),
                its.scores.tolist(),
                its.labels.tolist(),
                None if its.masks is None else [one.decode() for one in its.masks],
            )
            for key, its in found.items()
        ]
        return detections_file.encoded(
            rows, manifest.name, manifest.digest, split, manifest.classes
        )


def in_image(found: Found, size: tuple[int, ...], original: tuple[int, int]) -> Detections:
    """Return what is found in pixels of the image as it is stored.

    Args:
        found: in the network's image.
        size: height and width of that image, pixels.
        original: height and width of the stored one.
    """
    height, width = original
    scale = torch.tensor([width / size[1], height / size[0]] * 2, device=found.boxes.device)
    boxes = found.boxes * scale
    masks = None
    if found.masks is not None:
        masks = tuple(_encoded(found.masks, boxes, original))
    return Detections(
        boxes.cpu().numpy().astype(np.float32),
        found.scores.cpu().numpy().astype(np.float32),
        found.labels.cpu().numpy().astype(np.int64),
        masks,
    )


def _encoded(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[bytes]:
    """Yield the run lengths of masks [m, side, side] pasted into an image, one at a time."""
    for mask, box in zip(masks.cpu(), boxes.cpu(), strict=True):
        pasted = paste_masks_in_image(mask[None, None], box[None], size)
        yield run_lengths.encode((pasted[0, 0] >= _IN_MASK).numpy())
