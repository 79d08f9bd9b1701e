"""Random views of an image together with its boxes and masks, by torchvision's v2 transforms.

What is drawn is a pure function of uniform numbers that the caller gives, so that it belongs to the
sample and not to the process. The order is that of Detectron2: crop, resize, flip, colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from hpt_dist.images.boxes import Boxes

VIEW_DRAWS = 13  # uniform numbers that each view consumes
_STRENGTHS = ("brightness", "contrast", "saturation", "hue")
_ORDERS = tuple(itertools.permutations(_STRENGTHS))
_ADJUST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
    "hue": functional.adjust_hue,
}
_LEAST_PX = 1.0  # a crop leaves out what it cuts to less

Size = tuple[int, int]  # height, width
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BoxAugment:
    """The random views of images with boxes.

    Args:
        sizes: one of them is the short side after resizing, pixels.
        max_size: of the long side after resizing, pixels; it may make the short one smaller.
        flip: probability of a horizontal flip.
        crop: probability of a crop.
        crop_share: the least share of each side that a crop keeps.
        jitter: probability of colour jitter.
        brightness: factors of 1 - this to 1 + this, and so for the next two.
        contrast: see brightness.
        saturation: see brightness.
        hue: shifts of so many turns at most.

    Raises:
        ValueError: one of them is out of its range.
    """

    sizes: tuple[int, ...] = (800,)
    max_size: int = 1333
    flip: float = 0.5
    crop: float = 0.0
    crop_share: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.max_size < max(self.sizes):
            raise ValueError(f"sizes {self.sizes} are not 1 to max_size {self.max_size} pixels")
        shares = (self.flip, self.crop, self.jitter, self.brightness, self.contrast)
        if any(not 0 <= one <= 1 for one in (*shares, self.saturation)) or not 0 <= self.hue <= 0.5:
            raise ValueError("probabilities and strengths are 0 to 1, and that of hue 0 to 0.5")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"a crop cannot keep {self.crop_share} of each side")


class Crop(NamedTuple):
    """A part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class BoxView:
    """What happens to one image.

    Args:
        size: height and width of the result, pixels.
        crop: the part that is resized to that; None for the whole.
        flip: whether it is mirrored.
        colours: adjustments in their order, each with its factor or, of hue, its shift in turns.
    """

    size: Size
    crop: Crop | None = None
    flip: bool = False
    colours: tuple[tuple[str, float], ...] = ()


class Viewed(NamedTuple):
    """An image and its objects in a view.

    Attributes:
        image: uint8 [3, h, w].
        corners: float32 [m, 4], x1, y1, x2, y2 in its pixels.
        rows: int64 [m], which of the objects these are, ascending.
        masks: bool [m, h, w], or None where none are wanted.
    """

    image: Tensor
    corners: Tensor
    rows: Tensor
    masks: Tensor | None


def resized(size: Size, short: int, longest: int) -> Size:
    """Return height and width after resizing, with the proportions kept up to rounding.

    Args:
        size: height and width, pixels.
        short: side that the shorter one becomes, pixels.
        longest: that the longer one may become at most; the shorter one is then smaller.
    """
    scale = min(short / min(size), longest / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def drawn(policy: BoxAugment, uniforms: Floats, size: Size) -> BoxView:
    """Return the view that uniform numbers stand for.

    Args:
        policy: what may happen.
        uniforms: [VIEW_DRAWS] in [0, 1).
        size: height and width of the image, pixels.
    """
    u = uniforms.tolist()
    crop = _crop(policy, u[3:7], size) if u[2] < policy.crop else None
    short = policy.sizes[int(u[0] * len(policy.sizes))]
    colours = _colours(policy, u[8:12], u[12]) if u[7] < policy.jitter else ()
    part = (crop.height, crop.width) if crop else size
    return BoxView(resized(part, short, policy.max_size), crop, u[1] < policy.flip, colours)


def viewed(view: BoxView, image: Tensor, boxes: Boxes, *, masks: bool = False) -> Viewed:
    """Return an image and its objects in a view.

    An object that a crop leaves none of, or of less than a pixel a side, is left out.

    Args:
        view: what happens.
        image: uint8 [h, w, 3], upright, of the size of the boxes; it stays as it is.
        boxes: its objects.
        masks: whether their masks are wanted.

    Raises:
        ValueError: masks are wanted, and there are none or they are damaged.
    """
    size = boxes.size
    picture = tv_tensors.Image(image.permute(2, 0, 1))
    corners = tv_tensors.BoundingBoxes(
        torch.from_numpy(boxes.corners.copy()), format="XYXY", canvas_size=size
    )
    shapes = tv_tensors.Mask(_stacked(boxes)) if masks else None
    rows = torch.arange(len(boxes))
    if view.crop:
        picture, corners, shapes, rows = _cropped(view.crop, picture, corners, shapes)
    picture = functional.resize(picture, list(view.size), antialias=True)
    corners = functional.resize(corners, list(view.size))
    if shapes is not None:
        # As images: masks would be resized by an older rule, which moves edges by up to a pixel.
        exact = InterpolationMode.NEAREST_EXACT
        plain = functional.resize(shapes.as_subclass(torch.Tensor), list(view.size), exact)
        shapes = tv_tensors.Mask(plain)
    if view.flip:
        picture, corners = functional.horizontal_flip(picture), functional.horizontal_flip(corners)
        shapes = None if shapes is None else functional.horizontal_flip(shapes)
    for name, factor in view.colours:
        picture = _ADJUST[name](picture, factor)
    return Viewed(
        picture.as_subclass(torch.Tensor).contiguous(),
        corners.as_subclass(torch.Tensor),
        rows,
        None if shapes is None else shapes.as_subclass(torch.Tensor).bool(),
    )


def _crop(policy: BoxAugment, u: list[float], size: Size) -> Crop:
    shares = [policy.crop_share + (1 - policy.crop_share) * one for one in u[:2]]
    height, width = (max(1, round(side * s)) for side, s in zip(size, shares, strict=True))
    top, left = int(u[2] * (size[0] - height + 1)), int(u[3] * (size[1] - width + 1))
    return Crop(top, left, height, width)


def _colours(policy: BoxAugment, u: list[float], order: float) -> tuple[tuple[str, float], ...]:
    centres = dict.fromkeys(_STRENGTHS, 1.0) | {"hue": 0.0}
    factors = {
        name: centres[name] + getattr(policy, name) * (2 * one - 1)
        for name, one in zip(_STRENGTHS, u, strict=True)
    }
    names = _ORDERS[int(order * len(_ORDERS))]
    return tuple((name, factors[name]) for name in names if getattr(policy, name))


def _stacked(boxes: Boxes) -> Tensor:
    """Return the masks of an image, uint8 [n, h, w]."""
    if boxes.masks is None:
        raise ValueError("the dataset has no masks")
    masks = [torch.from_numpy(boxes.mask(i).astype(np.uint8)) for i in range(len(boxes))]
    return torch.stack(masks) if masks else torch.zeros((0, *boxes.size), dtype=torch.uint8)


def _cropped(
    crop: Crop,
    picture: tv_tensors.Image,
    corners: tv_tensors.BoundingBoxes,
    shapes: tv_tensors.Mask | None,
) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, tv_tensors.Mask | None, Tensor]:
    picture = functional.crop(picture, *crop)
    cut = functional.clamp_bounding_boxes(functional.crop(corners, *crop))
    before, after = (one[:, 2:] - one[:, :2] for one in (corners, cut))
    kept = (after >= torch.clamp(before, max=_LEAST_PX)).all(dim=1)
    if shapes is not None:
        shapes = functional.crop(shapes, *crop)
        kept &= shapes.bool().any(dim=2).any(dim=1)
        shapes = tv_tensors.Mask(shapes[kept])
    rows = torch.nonzero(kept)[:, 0].as_subclass(torch.Tensor)
    canvas = (crop.height, crop.width)
    boxes = tv_tensors.BoundingBoxes(cut[kept], format="XYXY", canvas_size=canvas)
    return picture, boxes, shapes, rows
