"""The class of each patch is that of most of its pixels, as the network sees the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hpt_dist.evals.dense_labels import IGNORED, class_map, patch_classes
from hpt_dist.images import run_lengths
from hpt_dist.reading.boxes import Boxes

CLASSES = 3


def boxes_of(masks, labels, *, size=None, difficult=None, crowd=None):
    size = size or masks[0].shape
    count = len(masks)
    none = [False] * count
    return Boxes(
        size,
        np.tile(np.float32([0, 0, size[1], size[0]]), (count, 1)).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(difficult or none, np.bool_),
        np.array(crowd or none, np.bool_),
        tuple(run_lengths.encode(mask) for mask in masks),
    )


def half(size=(256, 256), *, left):
    mask = np.zeros(size, np.bool_)
    mask[:, : size[1] // 2] = left
    mask[:, size[1] // 2 :] = not left
    return mask


def test_the_middle_square_is_cut_out_and_most_pixels_decide():
    # Of 256 pixels 16 to 240 are seen; a class from 100 on covers of patches of 56 pixels
    # 72 to 128 one half, 28 of 56, which is no majority.
    mask = np.zeros((256, 256), np.bool_)
    mask[:, 100:] = True
    found = patch_classes(boxes_of([mask], [1]), 224, (2, 4), CLASSES)
    assert found.tolist() == [[0, 0, 2, 2]] * 2
    mask[:, 98] = mask[:, 99] = True
    found = patch_classes(boxes_of([mask], [1]), 224, (2, 4), CLASSES)
    assert found.tolist() == [[0, 2, 2, 2]] * 2
    # A long image: only its middle counts.
    wide = np.zeros((256, 1000), np.bool_)
    wide[:, :380] = True
    assert patch_classes(boxes_of([wide], [0]), 64, (1, 1), CLASSES).tolist() == [[0]]
    wide[:, :520] = True
    assert patch_classes(boxes_of([wide], [0]), 64, (1, 1), CLASSES).tolist() == [[1]]


def test_the_smaller_object_lies_above_and_what_nobody_knows_has_no_class():
    whole, left = np.ones((256, 256), np.bool_), half(left=True)
    for order in ((whole, left), (left, whole)):
        labels = [2 if mask is whole else 0 for mask in order]
        found = patch_classes(boxes_of(order, labels), 224, (1, 2), CLASSES)
        assert found.tolist() == [[1, 3]]
    for flag in ("crowd", "difficult"):
        boxes = boxes_of([left, whole], [0, 2], **{flag: [False, True]})
        found = patch_classes(boxes, 224, (1, 2), CLASSES)
        assert found.tolist() == [[1, IGNORED]]
    nothing = boxes_of([], [], size=(30, 40))
    assert patch_classes(nothing, 32, (2, 2), CLASSES).tolist() == [[0, 0], [0, 0]]
    flags = np.zeros(1, np.bool_)
    without = Boxes((8, 8), np.float32([[0, 0, 8, 8]]), np.zeros(1, np.int64), flags, flags, None)
    with pytest.raises(ValueError, match="its objects have no masks"):
        patch_classes(without, 32, (2, 2), CLASSES)


@given(
    arrays.arrays(np.bool_, (2, 64, 64)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from([(1, 1), (2, 4), (7, 7), (8, 8)]),
)
def test_what_is_flipped_has_its_patches_flipped(masks, labels, grid):
    boxes = boxes_of(list(masks), labels)
    flipped = boxes_of([mask[:, ::-1] for mask in masks], labels)
    # Sides that are cut evenly: of 64 pixels 4 to 60 are seen, as 56.
    one, other = (patch_classes(each, 56, grid, CLASSES) for each in (boxes, flipped))
    np.testing.assert_array_equal(one, other[:, ::-1])


@given(arrays.arrays(np.bool_, (2, 64, 64)), st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_a_patch_of_one_pixel_has_its_class(masks, labels):
    boxes = boxes_of(list(masks), labels)
    found = patch_classes(boxes, 56, (56, 56), CLASSES)
    np.testing.assert_array_equal(found, class_map(boxes)[4:60, 4:60])
