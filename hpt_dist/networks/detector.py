"""Faster R-CNN and Mask R-CNN on any backbone with stages: R50-C4 as in HPT, and an FPN.

Faster R-CNN: Ren et al., arXiv 1506.01497. Mask R-CNN: He et al., arXiv 1703.06870. FPN: Lin et
al., arXiv 1612.03144. C4 with an extra norm: HPT, arXiv 2103.12718, section 4.3, after MoCo's
detectors. All of an image's random choices follow from a seed of its own, and losses are those of
the global batch, so that ranks and restarts change neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from hpt_dist.networks import detector_stages
from hpt_dist.networks.backbones import Backbone
from hpt_dist.networks.detector_heads import Conv5, Found, Heads, OneMap, Pyramid, Truth
from hpt_dist.networks.detector_rpn import Proposer
from hpt_dist.networks.detector_sampling import generator_of
from hpt_dist.networks.detector_sums import global_means

_C4_STRIDE = 16
_PYRAMID = (4, 8, 16, 32)
_CHANNELS = 256  # of a pyramid's maps
# Where the loss of boxes becomes a line: detectron2's value, and torchvision's.
_BETA = {"c4": 0.0, "fpn": 1 / 9}


@dataclass(frozen=True)
class Design:
    """What a detector is made of.

    Args:
        architecture: c4, one map of stride 16, with conv5 on regions; fpn, a pyramid of four maps.
        num_classes: without the background.
        masks: whether it predicts masks too.
        anchor_sizes: pixels; of an fpn one for each map, the coarsest of which is half of another.
        anchor_ratios: height / width.
        before_nms: proposals of a map before overlap is looked at, in training and otherwise.
        after_nms: proposals of an image after that.
        regions: of an image that are trained on in a step.
        detections: of an image, at most.
        least_score: below which nothing is reported.
    """

    architecture: Literal["c4", "fpn"]
    num_classes: int
    masks: bool = False
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    before_nms: tuple[int, int] = (12000, 6000)
    after_nms: tuple[int, int] = (2000, 1000)
    regions: int = 512
    detections: int = 100
    least_score: float = 0.05


class Inputs(NamedTuple):
    """One rank's share of a global batch; what is in all images stands in a row.

    Args:
        images: float32 [b, 3, h, w], normalised, with zeros right of and below each image.
        sizes: int64 [b, 2], height and width of each image inside that, on the CPU.
        counts: int64 [b], objects of each image, on the CPU.
        seeds: int64 [b], of the random choices in each image, on the CPU.
        boxes: float32 [n, 4], corners in pixels.
        labels: int64 [n], from 0.
        masks: uint8 [n, h, w], or [0] where no masks are learned.
    """

    images: Tensor
    sizes: Tensor
    counts: Tensor
    seeds: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor


class Detector(nn.Module):
    """A backbone with what makes boxes and masks of its maps.

    Args:
        backbone: whose parameters keep their names below `backbone`; all of it that is used learns.
        design: of the detector.
        seed: of the initial weights beside the backbone's; no other generator is drawn from.

    Raises:
        RequestError: the backbone has no stages that are known.
    """

    def __init__(self, backbone: Backbone, design: Design, *, seed: int) -> None:
        super().__init__()
        stages = detector_stages.of(backbone)
        self.backbone, self.design, self._stages = backbone, design, stages
        is_c4 = design.architecture == "c4"
        detector_stages.learn_only(backbone, stages.parts)
        with torch.random.fork_rng(devices=[]):  # torchvision's parts draw from the global one
            torch.manual_seed(seed)
            if not is_c4:
                channels = [stages.channels_of(stride) for stride in _PYRAMID]
                self.fpn = FeaturePyramidNetwork(channels, _CHANNELS, LastLevelMaxPool())
            self.rpn = _proposer(design, stages)
            self.roi_heads = _heads(design, stages)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps that regions are proposed from and pooled from.

        Args:
            images: float [b, 3, h, w], sides a multiple of 32.

        Returns:
            Of c4 the backbone's last map of stride 16; of an fpn maps of the strides 4 to 64.
        """
        if self.design.architecture == "c4":
            return self._stages.maps(images, (_C4_STRIDE,))
        maps = self._stages.maps(images, _PYRAMID)
        return list(self.fpn({str(n): one for n, one in enumerate(maps)}).values())

    def losses(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the losses of a batch; a collective call where there are several ranks.

        Returns:
            By name, float32 scalars whose mean over ranks is the loss of the global batch.
        """
        images = _on_common_canvas(inputs.images)
        sizes = [(height, width) for height, width in inputs.sizes.tolist()]
        truth = _by_image(inputs, images.shape[-2:])
        generators = [generator_of(seed, images.device) for seed in inputs.seeds.tolist()]
        maps = self.maps(images)
        proposals, scored = self.rpn.propose(images, sizes, maps)
        with torch.autocast(images.device.type, enabled=False):
            sums = self.rpn.losses(scored, [one.boxes for one in truth], generators)
        sums |= self.roi_heads.losses(maps, proposals, truth, generators)
        return global_means(sums)

    def detect(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Found]:
        """Return what is found in images.

        Args:
            images: float32 [b, 3, h, w], normalised, with zeros right of and below each image.
            sizes: height and width of each image inside that, pixels.
        """
        images = _padded(images, images.shape[-2:])
        maps = self.maps(images)
        proposals, _ = self.rpn.propose(images, sizes, maps)
        return self.roi_heads.detect(maps, [one.boxes for one in proposals], sizes)


def _proposer(design: Design, stages: detector_stages.Stages) -> Proposer:
    if design.architecture == "c4":
        channels, sizes = stages.channels_of(_C4_STRIDE), [design.anchor_sizes]
    else:
        channels, sizes = _CHANNELS, [(size,) for size in design.anchor_sizes]
    return Proposer(
        channels,
        sizes,
        design.anchor_ratios,
        design.before_nms,
        design.after_nms,
        _BETA[design.architecture],
    )


def _heads(design: Design, stages: detector_stages.Stages) -> Heads:
    pool: nn.Module
    if design.architecture == "c4":
        pool = OneMap(_C4_STRIDE, 14)
        conv5 = Conv5(stages, stages.end_of(_C4_STRIDE))
    else:
        pool, conv5 = Pyramid(_PYRAMID, 7), None
    return Heads(
        pool,
        conv5,
        design.num_classes,
        masks=design.masks,
        trained_on=design.regions,
        detections=design.detections,
        least_score=design.least_score,
        beta=_BETA[design.architecture],
        strides=_PYRAMID,
    )


def _on_common_canvas(images: Tensor) -> Tensor:
    """Return images padded to the largest height and width that any rank has.

    Padding shows in features near it and in batch statistics, so that each rank pads alike.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return _padded(images, images.shape[-2:])
    largest = torch.tensor(images.shape[-2:], device=images.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return _padded(images, largest.tolist())


def _padded(images: Tensor, size: Sequence[int]) -> Tensor:
    """Return [..., h, w] with zeros right and below up to a size, and then to multiples of 32."""
    height, width = (-(-side // detector_stages.DIVISOR) * detector_stages.DIVISOR for side in size)
    right, below = width - images.shape[-1], height - images.shape[-2]
    return functional.pad(images, (0, right, 0, below)) if right or below else images


def _by_image(inputs: Inputs, size: Sequence[int]) -> list[Truth]:
    counts = inputs.counts.tolist()
    boxes, labels = torch.split(inputs.boxes, counts), torch.split(inputs.labels, counts)
    if inputs.masks.ndim == 1:
        return [Truth(*pair) for pair in zip(boxes, labels, strict=True)]
    masks = torch.split(_padded(inputs.masks, size), counts)
    return [Truth(*its) for its in zip(boxes, labels, masks, strict=True)]
