"""Region proposals (Ren et al., arXiv 1506.01497): torchvision's parts, trained per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import (
    AnchorGenerator,
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from hpt_dist.networks.detector_sampling import balanced, numbers
from hpt_dist.networks.detector_sums import Sum

_FOREGROUND, _BACKGROUND = 0.7, 0.3  # intersection over union with a box
_TRAINED_ON, _POSITIVE_SHARE = 256, 0.5  # anchors of an image
_OVERLAP = 0.7  # above which the less likely of two proposals goes


class Proposed(NamedTuple):
    """The boxes of an image that may hold an object, likeliest first.

    Args:
        boxes: float32 [p, 4], corners in pixels of the network's image.
        places: int64 [p], the anchor that each was made from.
        anchors: how many there are.
    """

    boxes: Tensor
    places: Tensor
    anchors: int


class Scored(NamedTuple):
    """What the head says of every anchor.

    Args:
        objectness: float32 [b, anchors], logits.
        deltas: float32 [b, anchors, 4], from anchors to boxes.
        anchors: float32 [anchors, 4], corners in pixels; the same for every image.
    """

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor


class Proposer(RegionProposalNetwork):  # type: ignore[misc]
    """Maps features to the boxes of an image that may hold an object.

    Args:
        channels: of the feature maps.
        sizes: of the anchors by feature map, pixels.
        ratios: height / width of the anchors.
        before: how many of a map's likeliest proposals overlap is looked at for, in training and
            otherwise.
        after: how many proposals of an image are left then.
        beta: where the loss of boxes turns from a parabola to a line; 0 is a line.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sequence[Sequence[int]],
        ratios: Sequence[float],
        before: tuple[int, int],
        after: tuple[int, int],
        beta: float,
    ) -> None:
        places = tuple(tuple(one) for one in sizes)
        anchors = AnchorGenerator(places, (tuple(ratios),) * len(places))
        super().__init__(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]),
            _FOREGROUND,
            _BACKGROUND,
            _TRAINED_ON,
            _POSITIVE_SHARE,
            dict(zip(("training", "testing"), before, strict=True)),
            dict(zip(("training", "testing"), after, strict=True)),
            _OVERLAP,
        )
        self._beta = beta

    def propose(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], maps: Sequence[Tensor]
    ) -> tuple[list[Proposed], Scored]:
        """Return the proposals of each image, without gradients, and what they were made from.

        Args:
            images: [b, 3, h, w]; their shape alone counts.
            sizes: height and width of each image inside its padding, pixels.
            maps: of features, float [b, c, h / stride, w / stride].

        """
        objectness, deltas = self.head(list(maps))
        with torch.autocast(images.device.type, enabled=False):
            maps = [one.float() for one in maps]
            objectness, deltas = ([one.float() for one in x] for x in (objectness, deltas))
            anchors = self.anchor_generator(ImageList(images, list(sizes)), maps)
            counts = [one[0].numel() for one in objectness]
            flat, flat_deltas = concat_box_prediction_layers(objectness, deltas)
            proposals = self.box_coder.decode(flat_deltas.detach(), anchors)
            scored = Scored(
                flat.view(len(sizes), -1), flat_deltas.view(len(sizes), -1, 4), anchors[0]
            )
            by_image = zip(
                proposals.view(len(sizes), -1, 4), scored.objectness.detach(), sizes, strict=True
            )
            return [self._likeliest(*its, counts) for its in by_image], scored

    def _likeliest(
        self, boxes: Tensor, logits: Tensor, size: tuple[int, int], counts: Sequence[int]
    ) -> Proposed:
        """Return what is left of the boxes of all anchors of an image.

        As `filter_proposals` of torchvision, which does not return what they were made from.
        """
        tops = [
            part.topk(min(self.pre_nms_top_n(), len(part))).indices
            for part in torch.split(logits, list(counts))
        ]
        starts = [sum(counts[:level]) for level in range(len(counts))]
        places = torch.cat([start + top for start, top in zip(starts, tops, strict=True)])
        levels = torch.cat([torch.full_like(top, level) for level, top in enumerate(tops)])
        boxes = clip_boxes_to_image(boxes[places], size)
        large = remove_small_boxes(boxes, self.min_size)
        boxes, places, levels = boxes[large], places[large], levels[large]
        kept = batched_nms(boxes, logits[places].sigmoid(), levels, self.nms_thresh)
        kept = kept[: self.post_nms_top_n()]
        return Proposed(boxes[kept], places[kept], len(logits))

    def losses(
        self,
        scored: Scored,
        boxes: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Sum]:
        """Return the losses of anchors that are sampled: whether one holds an object, and where.

        Both count sampled anchors.

        Args:
            scored: by `propose`.
            boxes: of the objects of each image, float32 [n, 4].
            generators: of each image.
        """
        count, whether, where = 0, scored.objectness.sum() * 0, scored.deltas.sum() * 0
        for row, (its, generator) in enumerate(zip(boxes, generators, strict=True)):
            targets = [{"boxes": its}]
            labels, matched = self.assign_targets_to_anchors([scored.anchors], targets)
            positives, negatives = balanced(
                labels[0],
                self.fg_bg_sampler.batch_size_per_image,
                _POSITIVE_SHARE,
                numbers(len(scored.anchors), generator),
            )
            sampled = torch.cat([positives, negatives])
            count += len(sampled)
            whether = whether + functional.binary_cross_entropy_with_logits(
                scored.objectness[row, sampled], labels[0][sampled], reduction="sum"
            )
            wanted = self.box_coder.encode_single(matched[0][positives], scored.anchors[positives])
            where = where + functional.smooth_l1_loss(
                scored.deltas[row, positives], wanted, beta=self._beta, reduction="sum"
            )
        return {"loss_objectness": Sum(whether, count), "loss_rpn_box": Sum(where, count)}
