"""Boxes and masks: one JSON form, equal to pycocotools, and nothing wrong gets through."""

import json

import numpy as np
import pycocotools.mask as coco
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hpt_dist.errors import DataError
from hpt_dist.images import run_lengths
from hpt_dist.images.boxes import Boxes

PLACE = "train/a-train-000000.tar: a.json"


@st.composite
def masks(draw, count=None):
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return draw(arrays.arrays(np.bool_, size if count is None else (count, *size)))


@given(masks())
def test_run_lengths_are_those_of_pycocotools(mask):
    counts = run_lengths.encode(mask)
    assert counts == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(run_lengths.decode(counts, mask.shape), mask)
    runs = run_lengths.runs_in(counts, mask.shape).tolist()
    assert run_lengths.checked(runs, mask.shape) == counts


def test_long_runs_have_many_groups():
    mask = np.zeros((3000, 5000), np.bool_)
    mask[-1, -1] = mask[1500:, 7] = True
    counts = run_lengths.encode(mask)
    assert counts == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(run_lengths.decode(counts, mask.shape), mask)


@given(st.binary(max_size=30), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_any_bytes_decode_to_a_mask_or_are_refused(counts, size):
    try:
        mask = run_lengths.decode(counts, size)
    except ValueError:
        return
    assert mask.shape == size


@given(
    st.lists(
        st.lists(st.floats(-50, 90), min_size=6, max_size=10).filter(lambda x: len(x) % 2 == 0),
        min_size=1,
        max_size=3,
    )
)
def test_polygons_are_filled_within_their_image(polygons):
    mask = run_lengths.decode(run_lengths.from_polygons(polygons, (40, 60)), (40, 60))
    assert mask.shape == (40, 60)


def test_polygons_are_filled_as_pycocotools_does():
    polygons = [[2.5, 3, 30, 4.2, 20, 33], [40, 5, 50, 5, 50, 20, 40, 20]]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, 40, 60))).astype(bool)
    mask = run_lengths.decode(run_lengths.from_polygons(polygons, (40, 60)), (40, 60))
    np.testing.assert_array_equal(mask, expected)
    assert run_lengths.corners_of(mask) is not None


@st.composite
def boxes(draw):
    height, width = draw(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    count = draw(st.integers(0, 5))
    share = arrays.arrays(np.float64, (count, 2, 2), elements=st.floats(0, 1))
    corners = np.sort(draw(share), axis=1) * (width, height)
    corners = corners.astype(np.float32).reshape(count, 4)
    kept = (corners[:, 0] < corners[:, 2]) & (corners[:, 1] < corners[:, 3])
    corners, count = corners[kept], int(kept.sum())
    flags = arrays.arrays(np.bool_, count)
    with_masks = draw(st.booleans()) and height * width < 5000
    return Boxes(
        (height, width),
        corners,
        draw(arrays.arrays(np.int64, count, elements=st.integers(0, 80))),
        draw(flags),
        draw(flags),
        tuple(
            run_lengths.encode(draw(arrays.arrays(np.bool_, (height, width)))) for _ in range(count)
        )
        if with_masks
        else None,
        draw(st.none() | arrays.arrays(np.float64, count, elements=st.floats(0, 1e300))),
    )


@given(boxes())
def test_the_json_form_gives_the_same_bits_back(one):
    document = json.loads(json.dumps(one.to_json()))
    again = Boxes.from_json(document, PLACE)
    assert again == one
    assert again.corners.tobytes() == one.corners.tobytes()
    assert again.has_masks == one.has_masks
    assert (again.areas is None) == (one.areas is None)
    assert again.areas is None or again.areas.tobytes() == one.areas.tobytes()


@given(boxes(), st.data())
def test_some_of_the_objects_keep_their_areas(one, data):
    rows = data.draw(arrays.arrays(np.bool_, len(one)))
    taken = one.take(rows)
    kept = None if one.areas is None or not rows.any() else one.areas[rows].tolist()
    assert (taken.areas if taken.areas is None else taken.areas.tolist()) == kept


def a_document(**changes):
    thing = {"class": 1, "box": [2, 3, 4, 5], "crowd": False} | changes
    return {
        "width": 20,
        "height": 10,
        "objects": [{"class": 0, "box": [0, 0, 1, 1], "crowd": False}, thing],
    }


WRONG = [
    (
        {"box": [2, 3, 19, 5]},
        "objects[1]: the box 2, 3 to 21, 8 reaches out of its image of 20 x 10",
    ),
    ({"box": [2, 3, 0, 5]}, "objects[1]: the box 2, 3 to 2, 8 is empty of 20 x 10 pixels"),
    ({"box": [-1, 3, 3, 5]}, "reaches out"),
    ({"box": [2, 3, float("nan"), 5]}, "objects[1].box[2]"),
    ({"box": [2, 3, 4]}, "objects[1].box"),
    ({"area": 4.5}, "1 of 2 objects have an area, and all should"),
    ({"area": -1}, "objects[1].area"),
    ({"area": float("inf")}, "objects[1].area"),
    ({"area": "4"}, "objects[1].area"),
    ({"class": -1}, "objects[1].class"),
    ({"class": "1"}, "objects[1].class"),
    ({"colour": "red"}, "objects[1].colour"),
    ({"segmentation": [[1, 1, 5, 1, 5, 5]]}, "1 of 2 objects have a mask, and all should"),
    ({"segmentation": [[1, 1, 5]]}, "objects[1]: polygon 0 has 3 values"),
    ({"segmentation": {"size": [10, 20], "counts": "xx"}}, "objects[1]: "),
    ({"segmentation": {"size": [10, 20], "counts": [3, 4]}}, "not those of 20 x 10 pixels"),
    ({"segmentation": {"size": [20, 10], "counts": [200]}}, "the size of a mask is [20, 10]"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_what_is_wrong_is_named_with_its_place(changes, words):
    with pytest.raises(DataError) as error:
        Boxes.from_json(a_document(**changes), PLACE)
    assert error.value.problem.where == PLACE
    assert words in error.value.problem.what


def test_labels_that_are_not_those_of_the_objects_are_refused():
    with pytest.raises(DataError, match=r"labels are \[1\]"):
        Boxes.from_json(a_document() | {"labels": [1]}, PLACE)


def test_polygons_and_full_runs_become_run_lengths():
    document = a_document(segmentation={"size": [10, 20], "counts": [50, 10, 140]})
    document["objects"][0]["segmentation"] = [[0, 0, 4, 0, 4, 4, 0, 4]]
    found = Boxes.from_json(document, PLACE)
    assert found.mask(0).sum() == 16
    assert found.mask(1)[:, 5].all()
    assert found.mask(1).sum() == 10
    assert found.take(np.array([False, True])).masks == found.masks[1:]


def test_values_that_do_not_fit_each_other_are_refused():
    values = [np.zeros((1, 4), np.float32), np.zeros(1, np.int64), *[np.zeros(1, np.bool_)] * 2]
    with pytest.raises(ValueError, match="object 0: the box 0, 0 to 0, 0 is empty"):
        Boxes((5, 5), *values, None)
    values[0] = np.array([[0, 0, 5, 5]], np.float64)
    with pytest.raises(ValueError, match="corners is float64"):
        Boxes((5, 5), *values, None)
    values[0] = values[0].astype(np.float32)
    for areas, words in (
        ([-1.0], "not all finite"),
        ([np.nan], "not all"),
        ([1.0, 2.0], "areas is"),
    ):
        with pytest.raises(ValueError, match=words):
            Boxes((5, 5), *values, None, np.array(areas))
