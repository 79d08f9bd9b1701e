"""Photometric augmentation and normalisation of whole batches, on the device.

The policy is MoCo v2's (arXiv 2003.04297): colour jitter, gray, Gaussian blur, flip, normalise;
each operation equals torchvision's on float images, and every image has its own parameters. These
come from uniform numbers that the caller gives, so that they belong to the sample and not to the
process. Drawing them on the host also tells which rows an operation concerns without a question
to the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.recipe import Augment

RGB = tuple[float, float, float]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
DRAWS = 10  # uniform numbers that each view consumes
_ORDERS = np.array(list(itertools.permutations(range(4))))
_LUMA = (0.2989, 0.587, 0.114)
_WHITE = 255.0  # images stay in 0..255 until they are normalised
_TINY = 1e-12  # a chroma in 0..255 that only gray pixels fall below


@dataclass(frozen=True)
class Parameters:
    """What happens to each image of a batch.

    Args:
        flip: bool[b], whether it is mirrored.
        order: int[b, 4], the jitter operations (BRIGHTNESS, ...) in the order of their use.
        factors: float[b, 4], brightness, contrast and saturation factors and the hue shift in
            turns, by operation; (1, 1, 1, 0) leaves an image as it is.
        gray: bool[b], whether its colours go.
        sigma: float[b], of the Gaussian blur in pixels at 224; 0 is no blur.
    """

    flip: Bools
    order: Ints
    factors: Floats
    gray: Bools
    sigma: Floats


def draw(policy: Augment, uniforms: Floats) -> Parameters:
    """Return the parameters that uniform numbers [b, DRAWS] in [0, 1) stand for."""
    u = uniforms.T
    strengths = np.array([policy.brightness, policy.contrast, policy.saturation, policy.hue])
    low = np.array([1.0, 1.0, 1.0, 0.0]) - strengths
    factors = low + 2 * strengths * uniforms[:, 2:6]
    factors[u[1] >= policy.jitter] = (1.0, 1.0, 1.0, 0.0)
    sigma_low, sigma_high = policy.blur_sigma
    sigma = sigma_low + (sigma_high - sigma_low) * u[9]
    return Parameters(
        flip=u[0] < policy.flip,
        order=_ORDERS[(u[6] * len(_ORDERS)).astype(np.int64)],
        factors=factors,
        gray=u[7] < policy.gray,
        sigma=np.where(u[8] < policy.blur, sigma, 0.0),
    )


class Normalize:
    """Images in 0..255 to what the network reads.

    Args:
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
        device: where the work is done and the result is wanted.
    """

    def __init__(self, mean: RGB, std: RGB, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        means, stds = (
            torch.tensor(rgb, device=self.device).view(1, 3, 1, 1) for rgb in (mean, std)
        )
        self._scale = 1 / (stds * _WHITE)
        self._shift = -means / stds

    def __call__(self, images: Tensor) -> Tensor:
        """Return images [b, 3, h, w] in 0..255 normalised: float32, channels last."""
        x = images.to(self.device, torch.float32, non_blocking=True)
        x = torch.addcmul(self._shift, x, self._scale)
        return x.contiguous(memory_format=torch.channels_last)


class Photometric:
    """Random colours, blur and flip, then normalisation.

    Args:
        policy: probabilities and ranges; its crop is not used here.
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
        device: where the work is done and the result is wanted.
    """

    def __init__(
        self, policy: Augment, mean: RGB, std: RGB, device: torch.device | str = "cpu"
    ) -> None:
        self.policy = policy
        self._normalize = Normalize(mean, std, device)

    def __call__(self, images: Tensor, uniforms: Floats) -> Tensor:
        """Return one random version of each image, ready for the network.

        Args:
            images: uint8 [b, 3, h, w].
            uniforms: [b, DRAWS] in [0, 1).

        Returns:
            float32 [b, 3, h, w], normalised, channels last.
        """
        x = images.to(self._normalize.device, non_blocking=True)
        return self._normalize(transform(x, draw(self.policy, uniforms)))


def transform(images: Tensor, parameters: Parameters) -> Tensor:
    """Return images [b, 3, h, w] in 0..255 with these parameters as float32 in 0..255."""
    x = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    for operations in parameters.order.T:
        factors = np.take_along_axis(parameters.factors, operations[:, None], axis=1)[:, 0]
        turned = (operations == HUE) & (factors != 0)
        _replace(x, turned, shift_hue, factors)
        _blend(x, operations, np.where(operations == HUE, 1.0, factors))
    _replace(x, parameters.gray, lambda rows: luma(rows).expand_as(rows))
    sigma = parameters.sigma * (x.shape[-1] / 224)
    _replace(x, sigma > 0, partial(gaussian_blur, radius=math.ceil(3 * sigma.max())), sigma)
    _replace(x, parameters.flip, lambda rows: rows.flip(-1))
    return x


def luma(x: Tensor) -> Tensor:
    """Return the brightness [b, 1, h, w] of RGB images [b, 3, h, w]."""
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Return RGB images [b, 3, h, w] with their hues shifted by `turns` [b, 1, 1, 1] of a circle.

    A colour's largest and smallest channel values depend on saturation and value alone, so only
    the place between them is computed anew: the way of HSV and back without its detours.
    """
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    sixths = torch.where(
        high == red,
        green - blue,
        torch.where(high == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    hue = sixths.div_(chroma.clamp(min=_TINY)).div_(6).add_(turns)  # in turns; gray is red
    peaks = torch.tensor([0.0, 1 / 3, 2 / 3], device=x.device).view(1, 3, 1, 1)
    distance = hue - peaks
    distance.sub_(distance.floor()).sub_(0.5).abs_()  # 1/2 at the channel's own hue, 0 opposite
    return distance.mul_(6).sub_(1).clamp_(0, 1).mul_(chroma).add_(low)


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Return blurred images, their edges reflected.

    Args:
        x: [b, 3, h, w].
        sigma: [b, 1, 1, 1], in pixels. Each kernel ends at the first pixel past its 3 sigma.
        radius: of the widest kernel, in pixels.
    """
    radius = min(radius, *(side - 1 for side in x.shape[-2:]))
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    exponents = -0.5 * (offsets / sigma) ** 2
    exponents.masked_fill_(offsets.abs() > (3 * sigma).ceil(), -math.inf)
    weights = torch.softmax(exponents, dim=-1)  # [b, 1, 1, 2 radius + 1]
    x = functional.pad(x, (radius,) * 4, mode="reflect")
    # Weighted sums of shifted images: a grouped convolution is prepared anew for each batch
    # size, and how many images are blurred differs from batch to batch.
    for dim in (2, 3):
        length = x.shape[dim] - 2 * radius
        blurred = x.narrow(dim, radius, length) * weights[..., radius, None]
        for k in range(1, radius + 1):
            pair = x.narrow(dim, radius - k, length) + x.narrow(dim, radius + k, length)
            blurred.addcmul_(pair, weights[..., radius + k, None])
        x = blurred
    return x


def _blend(x: Tensor, operations: Ints, ratios: Floats) -> None:
    """Mix images [b, 3, h, w] in place with black, their mean gray or their own gray.

    Brightness, contrast and saturation are this one formula; a ratio of 1 changes nothing.
    """
    if (ratios == 1).all():
        return
    columns = np.stack([ratios, operations == CONTRAST, operations == SATURATION])
    ratio, contrast, saturation = _on(x, columns)
    gray = luma(x)
    other = gray * saturation + gray.mean((2, 3), keepdim=True) * contrast
    torch.lerp(other, x, ratio, out=x)
    x.clamp_(0, _WHITE)


def _replace(x: Tensor, rows: Bools, operation: Callable[..., Tensor], *values: Floats) -> None:
    """Set some rows of x to operation(those rows, their values as [m, 1, 1, 1])."""
    if rows.any():
        index = torch.from_numpy(np.flatnonzero(rows)).to(x.device)
        x[index] = operation(x[index], *(_on(x, value[rows]) for value in values))


def _on(x: Tensor, values: npt.NDArray[Any]) -> Tensor:
    """Return values [..., b] as float32 [..., b, 1, 1, 1] on the device of x."""
    return torch.from_numpy(values.astype(np.float32)).to(x.device)[..., None, None, None]
