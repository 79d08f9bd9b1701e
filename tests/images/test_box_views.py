"""Boxes and masks stay on their objects, whatever happens to the image."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.images import run_lengths
from hpt_dist.images.box_views import (
    VIEW_DRAWS,
    BoxAugment,
    BoxView,
    Crop,
    drawn,
    resized,
    viewed,
)
from hpt_dist.images.boxes import Boxes

HALF = 0.5 + 1e-3


def boxes_of(size, rectangles, masks=True):
    """Return boxes on whole pixels, each with its rectangle as its mask."""
    counts = []
    for x1, y1, x2, y2 in rectangles:
        mask = np.zeros(size, np.bool_)
        mask[y1:y2, x1:x2] = True
        counts.append(run_lengths.encode(mask))
    n = len(rectangles)
    corners = np.array(rectangles, np.float32).reshape(n, 4)
    flags = np.zeros(n, np.bool_)
    labels = np.arange(n, dtype=np.int64)
    return Boxes(size, corners, labels, flags, flags, tuple(counts) if masks else None)


@st.composite
def scenes(draw):
    """Return boxes, and a view of their image."""
    size = height, width = draw(st.tuples(st.integers(8, 70), st.integers(8, 70)))
    rectangles = []
    for _ in range(draw(st.integers(0, 4))):
        x1, x2 = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
        y1, y2 = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
        rectangles.append((x1, y1, x2, y2))
    crop = None
    if draw(st.booleans()):
        h, w = draw(st.integers(4, height)), draw(st.integers(4, width))
        crop = Crop(draw(st.integers(0, height - h)), draw(st.integers(0, width - w)), h, w)
    out = draw(st.tuples(st.integers(4, 150), st.integers(4, 150)))
    return boxes_of(size, rectangles), BoxView(out, crop, draw(st.booleans()))


def by_hand(boxes, view):
    """Return the corners that points would move to, cut at the edge; without area where gone."""
    top, left, h, w = view.crop or Crop(0, 0, *boxes.size)
    corners = boxes.corners.astype(np.float64) - [left, top, left, top]
    corners = np.clip(corners, 0, [w, h, w, h])
    corners *= np.array([view.size[1] / w, view.size[0] / h] * 2)
    if view.flip:
        corners[:, [0, 2]] = view.size[1] - corners[:, [2, 0]]
    return corners


@given(scenes())
def test_corners_move_as_points_do(scene):
    boxes, view = scene
    image = torch.zeros((*boxes.size, 3), dtype=torch.uint8)
    found = viewed(view, image, boxes)
    expected = by_hand(boxes, view)
    has_area = (expected[:, :2] < expected[:, 2:]).all(axis=1)
    assert found.rows.tolist() == np.flatnonzero(has_area).tolist()
    np.testing.assert_allclose(found.corners.numpy(), expected[has_area], atol=1e-3)
    assert found.image.shape == (3, *view.size)
    assert found.image.dtype == torch.uint8
    assert found.masks is None


@given(scenes())
def test_masks_stay_within_half_a_pixel_of_their_boxes(scene):
    boxes, view = scene
    found = viewed(view, torch.zeros((*boxes.size, 3), dtype=torch.uint8), boxes, masks=True)
    assert found.masks.shape == (len(found.rows), *view.size)
    assert found.masks.dtype == torch.bool
    for corners, mask in zip(found.corners.numpy(), found.masks.numpy(), strict=True):
        own = run_lengths.corners_of(mask)
        if own is None:  # less than a pixel after shrinking: between two centres
            assert (corners[2:] - corners[:2]).min() <= 1
        else:
            np.testing.assert_allclose(corners, own, atol=HALF)


@given(scenes())
def test_the_picture_moves_with_its_boxes(scene):
    """A white object on black is where its box says, as far as interpolation is sharp."""
    boxes, view = scene
    for number, (x1, y1, x2, y2) in enumerate(boxes.corners.astype(int).tolist()):
        image = torch.zeros((*boxes.size, 3), dtype=torch.uint8)
        image[y1:y2, x1:x2] = 255
        found = viewed(view, image, boxes.take(np.array([number])))
        if not len(found.rows):
            continue
        left, top, right, bottom = found.corners[0].tolist()
        # By half an input pixel at an edge, and one of the output.
        part = view.crop or Crop(0, 0, *boxes.size)
        down, across = (
            out / whole / 2 + 1
            for out, whole in zip(view.size, (part.height, part.width), strict=True)
        )
        rows = slice(int(np.ceil(top) + down), max(0, int(int(bottom) - down)))
        columns = slice(int(np.ceil(left) + across), max(0, int(int(right) - across)))
        assert (found.image[:, rows, columns] == 255).all()
        outside = found.image.clone()
        rows = slice(max(0, int(top - down - 1)), int(bottom + down + 2))
        columns = slice(max(0, int(left - across - 1)), int(right + across + 2))
        outside[:, rows, columns] = 0
        assert (outside == 0).all()


@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=VIEW_DRAWS, max_size=VIEW_DRAWS),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_what_is_drawn_keeps_to_the_policy(uniforms, size):
    policy = BoxAugment(sizes=(48, 64, 80), max_size=120, crop=0.5, crop_share=0.4, jitter=0.5)
    view = drawn(policy, np.array(uniforms), size)
    part = view.crop or Crop(0, 0, *size)
    assert 0 <= part.top <= size[0] - part.height
    assert 0 <= part.left <= size[1] - part.width
    for side, whole in zip(part[2:], size, strict=True):
        assert round(0.4 * whole) <= side <= whole
    assert max(view.size) <= 120
    assert min(view.size) in policy.sizes or max(view.size) == 120
    assert view.flip == (uniforms[1] < 0.5)
    assert (view.crop is not None) == (uniforms[2] < 0.5)
    assert len(view.colours) == (4 if uniforms[7] < 0.5 else 0)
    for name, factor in view.colours:
        low, high = (-0.1, 0.1) if name == "hue" else (0.6, 1.4)
        assert low <= factor <= high


def test_every_size_and_every_order_of_colours_comes():
    policy = BoxAugment(sizes=(480, 512, 544), max_size=800, jitter=1.0)
    rng = np.random.default_rng(0)
    views = [drawn(policy, rng.random(VIEW_DRAWS), (500, 400)) for _ in range(600)]
    assert {min(one.size) for one in views} == set(policy.sizes)
    orders = {tuple(name for name, _ in one.colours) for one in views}
    assert len(orders) == len(list(itertools.permutations(range(4))))


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((720, 1280), 362, 1200, (362, 644)),
        ((1, 1000), 100, 200, (1, 200)),
    ],
)
def test_the_short_side_becomes_what_the_long_one_allows(size, short, longest, expected):
    assert resized(size, short, longest) == expected


def test_colours_change_and_nothing_else_does():
    boxes = boxes_of((20, 30), [(2, 3, 20, 10)])
    image = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8, generator=torch.Generator())
    plain = viewed(BoxView((20, 30)), image, boxes)
    assert torch.equal(plain.image, image.permute(2, 0, 1))
    view = BoxView((20, 30), colours=(("brightness", 0.5), ("hue", 0.1)))
    jittered = viewed(view, image, boxes)
    assert torch.equal(jittered.corners, plain.corners)
    assert 0.4 < jittered.image.float().mean() / plain.image.float().mean() < 0.6


def test_wrong_policies_and_missing_masks_are_refused():
    for wrong in ({"sizes": ()}, {"sizes": (900,), "max_size": 800}, {"crop_share": 0}, {"hue": 1}):
        with pytest.raises(ValueError, match=r"sizes|crop|hue"):
            BoxAugment(**wrong)
    boxes = boxes_of((20, 30), [(2, 3, 20, 10)], masks=False)
    with pytest.raises(ValueError, match="no masks"):
        viewed(BoxView((20, 30)), torch.zeros((20, 30, 3), dtype=torch.uint8), boxes, masks=True)
