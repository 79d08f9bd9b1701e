"""How pixels are normalised: the means and standard deviations that recipes name."""

from __future__ import annotations

RGB = tuple[float, float, float]

# How a recipe's `image.normalize` names the mean and the standard deviation of pixels.
NORMALIZE: dict[str, tuple[RGB, RGB]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
