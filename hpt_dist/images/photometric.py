"""Photometric augmentation and normalisation of whole batches, on the device.

The policy is MoCo v2's (arXiv 2003.04297) and BYOL's (arXiv 2006.07733): colour jitter, gray,
Gaussian blur, solarizing, flip, normalise; each operation equals torchvision's on float images, and
every image has its own parameters. These come from uniform numbers that the caller gives, so that
they belong to the sample and not to the process. As the host draws them, it knows which rows an
operation changes without waiting for the device. A GPU works on a whole batch at once, a CPU on
a few images at a time, which stay in its cache from the first operation to the last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.images.normalization import RGB
from hpt_dist.recipe import Augment

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
DRAWS = 11  # uniform numbers that each view consumes
_ORDERS = np.array(list(itertools.permutations(range(4))))
_LUMA = (0.2989, 0.587, 0.114)
_CACHE_BYTES = 1 << 19  # of images that a CPU works on at a time; half of a usual L2 cache
_WHITE = 255.0  # images stay in 0..255 until they are normalised
_SOLAR = 128.0  # solarizing inverts what is at least as bright
_TINY = 1e-12  # only gray pixels have a smaller chroma in 0..255
# Red, green and blue over the hue: the axis of symmetry, the slope beside it, the value on it.
_WAVES = torch.tensor([[1 / 2, 1 / 3, 2 / 3], [6, -6, -6], [-1, 2, 2]]).view(3, 1, 3, 1, 1)


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
        solarize: bool[b], whether its bright pixels are inverted.
    """

    flip: Bools
    order: Ints
    factors: Floats
    gray: Bools
    sigma: Floats
    solarize: Bools

    def __getitem__(self, rows: slice) -> Parameters:
        """Return the parameters of some of the images."""
        return Parameters(*(getattr(self, field.name)[rows] for field in fields(self)))


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
        solarize=u[10] < policy.solarize,
    )


class Normalize:
    """Images in 0..255 to what the network reads.

    Args:
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
        device: computes the result and holds it.
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
        x = images.to(self.device, non_blocking=True)
        return self.in_place(x.to(torch.float32, memory_format=torch.channels_last, copy=True))

    def in_place(self, x: Tensor) -> Tensor:
        """Normalise float32 images in 0..255 where they lie, and return them."""
        return x.mul_(self._scale).add_(self._shift)


class Photometric:
    """Random colours, blur, solarizing and flip, then normalisation.

    Args:
        policy: probabilities and ranges; its crop is not used here.
        mean: of each channel, in 0..1.
        std: of each channel, in 0..1.
        device: computes the result and holds it.
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
        parameters = draw(self.policy, uniforms)
        views = torch.empty(x.shape, device=x.device, memory_format=torch.channels_last)
        count = len(x)
        if x.device.type == "cpu":
            count = max(1, _CACHE_BYTES // (4 * x[:1].numel()))
        for start in range(0, len(x), count):
            rows = slice(start, start + count)
            part = self._normalize.in_place(transform(x[rows], parameters[rows]))
            for channel in range(part.shape[1]):  # half the time of one copy between the layouts
                views[rows, channel] = part[:, channel]
        return views


def transform(images: Tensor, parameters: Parameters) -> Tensor:
    """Return images [b, 3, h, w] in 0..255 with these parameters as float32 in 0..255."""
    # First to planes and then to floats: half the time of both at once.
    x = images.contiguous().to(torch.float32, copy=True)
    in_order = parameters.factors[np.arange(len(x))[:, None], parameters.order]
    is_hue = parameters.order == HUE
    is_turned = is_hue & (in_order != 0)
    ratios = np.where(is_hue, 1.0, in_order)
    for k in range(4):
        x = _replace(x, is_turned[:, k], shift_hue, in_order[:, k])
        _blend(x, parameters.order[:, k], ratios[:, k])
    x = _replace(x, parameters.gray, lambda rows: rows.copy_(luma(rows)))
    blurred = parameters.sigma > 0
    if np.count_nonzero(blurred):
        weights = _kernels(parameters.sigma * (x.shape[-1] / 224), min(x.shape[-2:]) - 1)
        x = _replace(x, blurred, gaussian_blur, *weights.T)
    x = _replace(x, parameters.solarize, solarize)
    return _replace(x, parameters.flip, lambda rows: rows.flip(-1))


def luma(x: Tensor) -> Tensor:
    """Return the brightness [b, 1, h, w] of RGB images [b, 3, h, w]."""
    red, green, blue = x.chunk(3, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def shift_hue(x: Tensor, turns: Tensor | float) -> Tensor:
    """Shift the hues of RGB images [b, 3, h, w] in place by `turns` [b, 1, 1, 1] of a circle.

    A colour's largest and smallest channel values depend on saturation and value alone, so only
    the place between them is computed anew: the way of HSV and back without its detours.
    """
    red, green, blue = x.chunk(3, dim=1)
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    # The hue in sixths, times chroma, by which channel is the highest. `lerp` by 0 or 1 chooses
    # exactly, at a third of what `where` costs on a CPU; memory in use is taken again, because
    # what is new is not in the cache.
    if_green = (blue - red).add_(chroma, alpha=2)
    if_blue = (red - green).add_(chroma, alpha=4)
    not_red, not_green = (high - red).sign_(), high.sub_(green).sign_()
    sixths = (green - blue).lerp_(if_green.lerp_(if_blue, not_green), not_red)
    divisor = torch.clamp(chroma, min=_TINY, out=not_red).mul_(6)
    hue = sixths.div_(divisor).add_(turns)  # in turns; gray is red
    hue.sub_(torch.floor(hue, out=not_green))
    # Over the circle each channel is a plateau with two slopes: red's around 0, and so around 1,
    # green's around 1/3, blue's around 2/3.
    middle, slope, start = _WAVES.to(x.device)
    waves = torch.sub(hue, middle, out=x).abs_().mul_(slope).add_(start).clamp_(0, 1)
    return waves.mul_(chroma).add_(low)


def gaussian_blur(x: Tensor, *weights: Tensor | float) -> Tensor:
    """Return images [b, 3, h, w] under a symmetrical, separable kernel, their edges reflected.

    Args:
        x: the images.
        weights: of the middle of the kernel, and of the pixels at distance 1, 2, ... from it;
            each a number or [b, 1, 1, 1].
    """
    radius = len(weights) - 1
    x = functional.pad(x, (radius,) * 4, mode="reflect")
    # Weighted sums of shifted images: a grouped convolution is prepared anew for each batch
    # size, and how many images are blurred differs from batch to batch.
    for dim in (2, 3):
        length = x.shape[dim] - 2 * radius
        blurred = x.narrow(dim, radius, length) * weights[0]
        pair = torch.empty_like(blurred)
        for k in range(1, radius + 1):
            before, after = x.narrow(dim, radius - k, length), x.narrow(dim, radius + k, length)
            torch.add(before, after, out=pair)
            weight = weights[k]
            if isinstance(weight, Tensor):
                blurred.addcmul_(pair, weight)
            else:
                blurred.add_(pair, alpha=weight)
        x = blurred
    return x


def solarize(x: Tensor) -> Tensor:
    """Invert, in place, all values of at least 128 of images in 0..255."""
    return torch.where(x >= _SOLAR, _WHITE - x, x, out=x)


def _kernels(sigma: Floats, most: int) -> Floats:
    """Return halves of Gaussian kernels [b, 1 + radius], from the middle outwards.

    Args:
        sigma: [b], in pixels; 0 is no blur. Each kernel ends at the first pixel past its 3 sigma.
        most: the largest radius that the images allow.
    """
    radii = np.minimum(np.ceil(3 * sigma), most)
    offsets = np.arange(int(radii.max()) + 1)
    weights = np.exp(-0.5 * (offsets / np.maximum(sigma, _TINY)[:, None]) ** 2)
    weights[offsets > radii[:, None]] = 0
    halves: Floats = weights / (2 * weights.sum(axis=1, keepdims=True) - 1)
    return halves


def _blend(x: Tensor, operations: Ints, ratios: Floats) -> None:
    """Mix images [b, 3, h, w] in place with black, their mean gray or their own gray.

    Brightness, contrast and saturation are this one formula; a ratio of 1 changes nothing.
    """
    if not np.count_nonzero(ratios != 1):
        return
    rests: list[Tensor] = []
    for operation in (CONTRAST, SATURATION):
        shares = (1 - ratios) * (operations == operation)
        if np.count_nonzero(shares):
            gray = luma(x.mean((2, 3), keepdim=True) if operation == CONTRAST else x)
            rests.append(gray.mul_(_on(x, shares)))
    x.mul_(_on(x, ratios))
    for rest in rests:
        x.add_(rest)
    if np.count_nonzero(ratios > 1):  # others stay between the two that are mixed
        x.clamp_(0, _WHITE)


def _replace(x: Tensor, rows: Bools, operation: Callable[..., Tensor], *values: Floats) -> Tensor:
    """Return x with some rows set to operation(those rows, their values as [m, 1, 1, 1]).

    Both x and the rows that the operation gets may be overwritten.
    """
    count = np.count_nonzero(rows)  # far faster than any() and all()
    if count == len(rows):
        return operation(x, *(_on(x, value) for value in values))
    if count:
        index = torch.from_numpy(np.flatnonzero(rows)).to(x.device)
        x[index] = operation(x[index], *(_on(x, value[rows]) for value in values))
    return x


def _on(x: Tensor, values: Floats) -> Tensor | float:
    """Return values [b] as float32 [b, 1, 1, 1] on the device of x, or the only one as it is."""
    if len(values) == 1:
        return float(values[0])
    return torch.from_numpy(values.astype(np.float32)).to(x.device)[:, None, None, None]
