"""Crops of squashed images, the form of MME's code: where they lie, and what they show."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import picture
from PIL import Image

from hpt_dist.images.crops import squashed_box
from hpt_dist.images.pixels import resize_box

SHARES = st.floats(0, 1, exclude_max=True)
SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.integers(1, 600), SHARES, SHARES)
def test_a_crop_is_the_same_share_of_both_sides_and_lies_inside(width, height, size, across, down):
    left, top, right, bottom = squashed_box(width, height, size, across, down)
    squashed = size + round(size / 7)
    assert -1e-9 <= left < right <= width * (1 + 1e-12)
    assert -1e-9 <= top < bottom <= height * (1 + 1e-12)
    np.testing.assert_allclose((right - left) / width, size / squashed)
    np.testing.assert_allclose((bottom - top) / height, size / squashed)


def test_of_224_pixels_all_33_places_of_a_square_of_256_are_as_likely():
    shares = (np.arange(3300) + 0.5) / 3300
    lefts = [squashed_box(256, 256, 224, share, 0.5)[0] for share in shares]
    assert np.unique(lefts, return_counts=True)[0].tolist() == list(range(33))
    assert set(np.unique(lefts, return_counts=True)[1]) == {100}
    assert squashed_box(256, 256, 224, 0.5, 0.5) == (16, 16, 240, 240)


@given(st.integers(0, 32), st.integers(0, 32))
def test_it_shows_what_squashing_and_then_cutting_does(across, down):
    image = picture(3, (320, 180))
    cut = torch.empty((224, 224, 3), dtype=torch.uint8)
    box = squashed_box(320, 180, 224, (across + 0.5) / 33, (down + 0.5) / 33)
    resize_box(torch.from_numpy(np.array(image)), box, cut)
    square = np.array(image.resize((256, 256), Image.Resampling.BILINEAR), int)
    expected = square[down : down + 224, across : across + 224]
    assert np.abs(cut.numpy() - expected).max() <= 1, "a level of 255, by the order of float sums"
