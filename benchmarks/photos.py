"""JPEG photographs for the benchmarks: 500 x 375 pixels and about 21 KB, like ImageNet's."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = (500, 375)
_QUALITY = (40, 60)  # of scikit-learn's two photographs; about 21 KB on average


@cache
def photos(count: int) -> tuple[bytes, ...]:
    """Return that many different JPEGs, each a random part of one of two real photographs."""
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    return tuple(_photo(originals[k % 2], _QUALITY[k % 2], rng) for k in range(count))


def _photo(original: Image.Image, quality: int, rng: np.random.Generator) -> bytes:
    width, height = SIZE
    left = int(rng.integers(original.width - width + 1))
    top = int(rng.integers(original.height - height + 1))
    data = io.BytesIO()
    original.crop((left, top, left + width, top + height)).save(data, "JPEG", quality=quality)
    return data.getvalue()
