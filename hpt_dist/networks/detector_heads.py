"""What a detector makes of each region, by torchvision's parts: its class, its box, its mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign, RoIAlign
from torchvision.ops.poolers import initLevelMapper

from hpt_dist.networks import batch_norm
from hpt_dist.networks.detector_rpn import Proposed
from hpt_dist.networks.detector_sampling import balanced, numbers
from hpt_dist.networks.detector_stages import Stages
from hpt_dist.networks.detector_sums import Sum

_FOREGROUND = 0.5  # intersection over union with a box
_POSITIVE_SHARE = 0.25  # of the regions of an image that are trained on
_CODER = (10.0, 10.0, 5.0, 5.0)  # how much finer box deltas are than anchors' deltas
_CLASS_STD, _BOX_STD = 0.01, 0.001  # of initial weights (Girshick, arXiv 1504.08083, section 3)
_MASK_CHANNELS, _FPN_CHANNELS, _FPN_VECTOR = 256, 256, 1024

# Pools the features of regions: maps and, for each image, boxes [r, 4] -> [regions, c, s, s].
Pool = Callable[[Sequence[Tensor], list[Tensor]], Tensor]


class Truth(NamedTuple):
    """The objects of one image.

    Args:
        boxes: float32 [n, 4], corners in pixels of the network's image.
        labels: int64 [n], from 0.
        masks: [n, h, w], above 0 inside; None where masks are not learned.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Found(NamedTuple):
    """What a detector finds in one image, likeliest first.

    Args:
        boxes: float32 [m, 4], corners in pixels of the network's image.
        scores: float32 [m], probabilities.
        labels: int64 [m], from 0.
        masks: float32 [m, side, side], the probability of the object in its box; None without.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class _Regions(NamedTuple):
    """The regions of a batch that are trained on; boxes and matches by image, all else in a row.

    Args:
        boxes: float32 [r, 4] each.
        matches: int64 [r] each, the object that a region is nearest to.
        labels: int64 [regions], from 1; 0 is background.
        deltas: float32 [regions, 4], from a region to its object.
    """

    boxes: list[Tensor]
    matches: list[Tensor]
    labels: Tensor
    deltas: Tensor


class OneMap(nn.Module):
    """Pools regions from a single map, whose values lie in the middle of their pixels.

    So does detectron2's second version of RoIAlign; its first, and torchvision's models, take them
    half a pixel of the map further right and down.

    Args:
        stride: of the map.
        side: of what is pooled.
    """

    def __init__(self, stride: int, side: int) -> None:
        super().__init__()
        self.align = RoIAlign(side, 1 / stride, sampling_ratio=0, aligned=True)

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Return [regions, c, side, side] of each image's boxes, in their order."""
        pooled: Tensor = self.align(maps[0], boxes)
        return pooled


class Pyramid(nn.Module):
    """Pools each region from the map of a pyramid that fits its size (arXiv 1612.03144, eq. 1).

    Args:
        strides: of the maps, doubling from each to the next.
        side: of what is pooled.
    """

    def __init__(self, strides: Sequence[int], side: int) -> None:
        super().__init__()
        self._names = [str(number) for number in range(len(strides))]
        self.align = MultiScaleRoIAlign(self._names, side, sampling_ratio=2)
        # torchvision guesses them from the first images that it sees.
        self.align.scales = [1 / stride for stride in strides]
        levels = [stride.bit_length() - 1 for stride in strides]
        self.align.map_levels = initLevelMapper(levels[0], levels[-1])

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Return [regions, c, side, side] of each image's boxes, in their order."""
        named = dict(zip(self._names, maps, strict=False))  # the coarsest map is for proposals
        pooled: Tensor = self.align(named, boxes, [])
        return pooled


class Conv5(nn.Module):
    """The parts of a backbone from stride 32 on, and an extra batch norm (HPT, section 4.3).

    The parts stay the backbone's: they are no modules of this one.

    Args:
        stages: of the backbone.
        start: its first part that runs on regions.
    """

    def __init__(self, stages: Stages, start: int) -> None:
        super().__init__()
        self.channels = stages.channels[-1]
        self.norm = nn.BatchNorm2d(self.channels)
        self._stages, self._start = stages, start

    def forward(self, pooled: Tensor, rows: Sequence[int]) -> Tensor:
        """Return float [regions, channels, side / 2, side / 2].

        Args:
            pooled: float [regions, c, side, side].
            rows: how many regions each image has, in order.
        """
        for module in (*self._stages.parts[self._start :], self.norm):
            batch_norm.count_rows(module, rows)
        found: Tensor = self.norm(self._stages.run(pooled, self._start))
        return found


class Heads(RoIHeads):  # type: ignore[misc]
    """Classifies regions, moves their boxes, and draws masks.

    Args:
        pool: of regions.
        conv5: of a c4, on pooled regions; None for the two linear layers of a pyramid.
        num_classes: without the background, which is the predictor's class 0.
        masks: whether masks are predicted.
        trained_on: regions of an image in a step.
        detections: of an image, at most.
        least_score: below which nothing is reported.
        beta: see `detector_rpn.Proposer`.
        strides: of a pyramid's maps that regions are pooled from.
    """

    def __init__(
        self,
        pool: nn.Module,
        conv5: Conv5 | None,
        num_classes: int,
        *,
        masks: bool,
        trained_on: int,
        detections: int,
        least_score: float,
        beta: float,
        strides: Sequence[int],
    ) -> None:
        if conv5:
            box_head: nn.Module = conv5
            width = conv5.channels
        else:
            box_head, width = TwoMLPHead(_FPN_CHANNELS * 7 * 7, _FPN_VECTOR), _FPN_VECTOR
        super().__init__(
            pool,
            box_head,
            FastRCNNPredictor(width, num_classes + 1),
            _FOREGROUND,
            _FOREGROUND,
            trained_on,
            _POSITIVE_SHARE,
            _CODER,
            least_score,
            0.5,
            detections,
        )
        for layer, std in (
            (self.box_predictor.cls_score, _CLASS_STD),
            (self.box_predictor.bbox_pred, _BOX_STD),
        ):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        if masks and conv5:  # they read what the classifier reads before its mean
            self.mask_predictor = MaskRCNNPredictor(width, _MASK_CHANNELS, num_classes + 1)
        elif masks:
            self.mask_roi_pool = Pyramid(strides, 14)
            self.mask_head = MaskRCNNHeads(_FPN_CHANNELS, (_MASK_CHANNELS,) * 4, 1)
            self.mask_predictor = MaskRCNNPredictor(_MASK_CHANNELS, _MASK_CHANNELS, num_classes + 1)
        self._beta = beta

    def losses(
        self,
        maps: Sequence[Tensor],
        proposals: Sequence[Proposed],
        truth: Sequence[Truth],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Sum]:
        """Return the losses of regions that are sampled, and of the masks of those with an object.

        Args:
            maps: of features.
            proposals: of each image.
            truth: of each image.
            generators: of each image.
        """
        device = maps[0].device.type
        with torch.autocast(device, enabled=False):
            regions = self._sampled(proposals, truth, generators)
        features, logits, deltas = self._read(maps, regions.boxes)
        positive = torch.where(regions.labels > 0)[0]
        masks = None
        if self.mask_predictor is not None:
            by_image = torch.split(regions.labels, _rows(regions.boxes))
            chosen = [torch.where(one > 0)[0] for one in by_image]
            boxes = [its[rows] for its, rows in zip(regions.boxes, chosen, strict=True)]
            matches = [its[rows] for its, rows in zip(regions.matches, chosen, strict=True)]
            masks = self._masks(maps, features, boxes, positive)
        with torch.autocast(device, enabled=False):
            logits, deltas = logits.float(), deltas.float().view(len(logits), -1, 4)
            count = len(regions.labels)
            where = functional.smooth_l1_loss(
                deltas[positive, regions.labels[positive]],
                regions.deltas[positive],
                beta=self._beta,
                reduction="sum",
            )
            whether = functional.cross_entropy(logits, regions.labels, reduction="sum")
            sums = {"loss_class": Sum(whether, count), "loss_box": Sum(where, count)}
            if masks is not None:
                labels = regions.labels[positive]
                sums["loss_mask"] = _mask_loss(masks.float(), labels, boxes, matches, truth)
        return sums

    def detect(
        self,
        maps: Sequence[Tensor],
        proposals: list[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Found]:
        """Return what is found in each image.

        Args:
            maps: of features.
            proposals: of each image, float32 [p, 4].
            sizes: height and width of each image inside its padding, pixels.
        """
        device = maps[0].device.type
        _, logits, deltas = self._read(maps, proposals)
        with torch.autocast(device, enabled=False):
            boxes, scores, labels = self.postprocess_detections(
                logits.float(), deltas.float(), proposals, list(sizes)
            )
        if self.mask_predictor is None:
            triples = zip(boxes, scores, labels, strict=True)
            return [Found(box, score, label - 1) for box, score, label in triples]
        features = self.box_head(self._pooled(maps, boxes), _rows(boxes)) if self._is_c4 else None
        masks = self._masks(maps, features, boxes, None).float().sigmoid()
        flat = torch.cat(labels)
        of_label = masks[torch.arange(len(flat), device=flat.device), flat]
        chosen = torch.split(of_label, _rows(boxes))
        rows = zip(boxes, scores, labels, chosen, strict=True)
        return [Found(box, score, label - 1, mask) for box, score, label, mask in rows]

    @property
    def _is_c4(self) -> bool:
        return isinstance(self.box_head, Conv5)

    def _pooled(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        pooled: Tensor = self.box_roi_pool(maps, boxes)
        return pooled

    def _read(
        self, maps: Sequence[Tensor], boxes: list[Tensor]
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return what masks read (of C4), class logits and box deltas of regions."""
        pooled, features = self._pooled(maps, boxes), None
        if self._is_c4:
            features = self.box_head(pooled, _rows(boxes))
            vectors = features.mean(dim=(2, 3))
        else:
            vectors = self.box_head(pooled)
        logits, deltas = self.box_predictor(vectors)
        return features, logits, deltas

    def _masks(
        self,
        maps: Sequence[Tensor],
        features: Tensor | None,
        boxes: list[Tensor],
        rows: Tensor | None,
    ) -> Tensor:
        """Return mask logits [regions, classes + 1, side, side] of boxes.

        Args:
            maps: of features.
            features: of C4, what the box head gave for regions.
            boxes: of the regions, by image.
            rows: which of the features are these boxes'; None is all.
        """
        if features is None:
            features = self.mask_head(self.mask_roi_pool(maps, boxes))
        elif rows is not None:
            features = features[rows]
        masks: Tensor = self.mask_predictor(features)
        return masks

    def _sampled(
        self,
        proposals: Sequence[Proposed],
        truth: Sequence[Truth],
        generators: Sequence[torch.Generator],
    ) -> _Regions:
        """Return the regions that are trained on; an object's own box is a proposal too."""
        regions, matches, labels, deltas = [], [], [], []
        for its, objects, generator in zip(proposals, truth, generators, strict=True):
            boxes = torch.cat([its.boxes, objects.boxes])
            every = torch.arange(its.anchors + len(objects.boxes), device=boxes.device)
            places = torch.cat([its.places, every[its.anchors :]])
            draws = numbers(len(every), generator)[places]
            (match,), (label,) = self.assign_targets_to_proposals(
                [boxes], [objects.boxes], [objects.labels + 1]
            )
            count = self.fg_bg_sampler.batch_size_per_image
            rows = torch.cat(balanced(label, count, _POSITIVE_SHARE, draws))
            rows = rows[places[rows].argsort()]  # whatever their scores
            boxes, match, label = boxes[rows], match[rows], label[rows]
            own = objects.boxes if len(objects.boxes) else boxes.new_zeros(1, 4)
            regions.append(boxes)
            matches.append(match)
            labels.append(label)
            deltas.append(self.box_coder.encode_single(own[match], boxes))
        return _Regions(regions, matches, torch.cat(labels), torch.cat(deltas))


def _mask_loss(
    logits: Tensor,
    labels: Tensor,
    boxes: Sequence[Tensor],
    matches: Sequence[Tensor],
    truth: Sequence[Truth],
) -> Sum:
    """Return the binary cross-entropy of masks, which counts pixels (arXiv 1703.06870)."""
    side = logits.shape[-1]
    wanted = [
        project_masks_on_boxes(one.masks, box, match, side)
        for one, box, match in zip(truth, boxes, matches, strict=True)
        if len(match)
    ]
    if not wanted:
        return Sum(logits.sum() * 0, 0)
    chosen = logits[torch.arange(len(labels), device=labels.device), labels]
    target = torch.cat(wanted)
    total = functional.binary_cross_entropy_with_logits(chosen, target, reduction="sum")
    return Sum(total, target.numel())


def _rows(boxes: Sequence[Tensor]) -> list[int]:
    return [len(one) for one in boxes]
