"""A backbone as a line of parts, cut where its stride grows: where detectors take feature maps.

The parts are the backbone's own modules, in the order in which its own `forward` calls them, so
the maps are its own and its parameters keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.efficientnet import EfficientNet as TimmEfficientNet
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn
from torchvision.models import ConvNeXt, EfficientNet, ResNet

from hpt_dist.errors import RequestError
from hpt_dist.recipe.kinds.detect import FAMILIES

# Images whose sides are a multiple of it have maps of every stride without a remainder.
DIVISOR = 32
_TRIED = 2 * DIVISOR  # side of the images that strides are measured with, pixels


@dataclass(frozen=True)
class Stages:
    """The parts of a backbone, and where its stride grows.

    Args:
        parts: modules, each [b, c, h, w] -> [b, c, h, w], in order.
        strides: by part, how many pixels of an image a step of its output is.
        channels: by part, of its output.
    """

    parts: Sequence[nn.Module]
    strides: Sequence[int]
    channels: Sequence[int]

    def end_of(self, stride: int) -> int:
        """Return how many parts end with the last output of a stride.

        Raises:
            RequestError: the backbone has no output of that stride.
        """
        ends = [number + 1 for number, one in enumerate(self.strides) if one == stride]
        if not ends:
            raise RequestError(
                f"this backbone has no feature map of stride {stride}",
                where="backbone",
                allowed=", ".join(map(str, sorted(set(self.strides)))),
                fix="use a ResNet, an EfficientNet or a ConvNeXt",
            )
        return ends[-1]

    def channels_of(self, stride: int) -> int:
        """Return the channels of the last output of a stride."""
        return self.channels[self.end_of(stride) - 1]

    def run(self, x: Tensor, start: int, stop: int | None = None) -> Tensor:
        """Return what parts start to stop - 1 make of x [b, c, h, w]."""
        for part in self.parts[start:stop]:
            x = part(x)
        return x

    def maps(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Return the last map of each of some ascending strides.

        Args:
            images: float [b, 3, h, w], whose sides are multiples of the strides.
            strides: of the maps.

        Returns:
            For each stride s float [b, c_s, h / s, w / s].
        """
        found, start = [], 0
        for stride in strides:
            stop = self.end_of(stride)
            images, start = self.run(images, start, stop), stop
            found.append(images)
        return found


def of(backbone: nn.Module) -> Stages:
    """Return the stages of a backbone, which is left in its modes.

    Raises:
        RequestError: its family is none whose parts are known.
    """
    parts = _parts(backbone)
    modes = [(module, module.training) for module in backbone.modules()]
    strides, channels = [], []
    x = torch.zeros(1, 3, _TRIED, _TRIED, device=next(backbone.parameters()).device)
    try:
        with torch.no_grad():
            backbone.eval()
            for part in parts:
                x = part(x)
                strides.append(_TRIED // x.shape[-1])
                channels.append(x.shape[1])
    finally:
        for module, training in modes:
            module.training = training
    return Stages(parts, strides, channels)


def learn_only(backbone: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Let what stands outside of some parts, such as a ConvNeXt's last norm, learn nothing.

    Ranks wait for a gradient of each parameter that learns; these would get none.
    """
    used = {parameter for part in parts for parameter in part.parameters()}
    for parameter in backbone.parameters():
        if parameter not in used:
            parameter.requires_grad_(False)


def _parts(backbone: nn.Module) -> list[nn.Module]:
    match backbone:
        case ResNet():
            head = [backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool]
            return [*head, backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
        case TimmResNet():
            head = [backbone.conv1, backbone.bn1, backbone.act1, backbone.maxpool]
            return [*head, backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
        case EfficientNet() | ConvNeXt():
            return list(backbone.features)
        case TimmEfficientNet():
            blocks = [backbone.conv_stem, backbone.bn1, *backbone.blocks]
            return [*blocks, backbone.conv_head, backbone.bn2]
        case TimmConvNeXt():
            return [backbone.stem, *backbone.stages, backbone.norm_pre]
    raise RequestError(
        f"a {type(backbone).__name__} is no backbone of a detector",
        where="backbone",
        allowed=FAMILIES,
    )
