"""What a detector's trial leaves of a split, by one function: metrics, intervals, pictures."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from detections import SIDE, boxes_of, found_of
from PIL import Image
from ranks import on_ranks

from hpt_dist.errors import DataError
from hpt_dist.evals import detection_document
from hpt_dist.stages import detection_results

CLASSES = ("cat", "dog", "owl")
NEAR, FAR = (0, 0, 40, 40), (60, 60, 100, 100)


@pytest.fixture(scope="module")
def answers():
    truth, found = [], {}
    for number in range(8):
        label = number % 2
        key = f"image-{number}"
        truth.append((key, boxes_of([(NEAR, label, False, False, False)], masks=True)))
        # Every third image is answered wrongly.
        place = FAR if number % 3 == 0 else NEAR
        found[key] = found_of([(place, label, 0.5 + number / 20, False)], masks=True)
    return truth, found


def test_all_that_a_trial_leaves_comes_from_one_call(answers):
    truth, found = answers
    asked = []

    def images(keys):
        asked.append(list(keys))
        return {key: np.full((SIDE, SIDE, 3), 128, np.uint8) for key in keys}

    left = detection_results.exhibit(
        truth, found, CLASSES, images, split="test", kinds=("boxes", "masks"), voc="11"
    )
    assert {"test/AP", "test/AP50", "test/AP75", "test/APm"} <= set(left.metrics)
    assert {"test/mask_AP50", "test/voc_AP", "test/voc_AP50"} <= set(left.metrics)
    assert "test/APl" not in left.metrics  # no object is large
    assert all(0 <= one <= 1 for one in left.metrics.values())
    assert left.details["without_truth"] == {"boxes": ["owl"], "masks": ["owl"], "voc": ["owl"]}
    assert left.details["classes"]["boxes"]["owl"]["AP"] is None
    assert left.details["n_test"] == 8
    low, high = left.details["intervals"]["test/AP50"]
    assert low < left.metrics["test/AP50"] < high
    assert set(left.replicates) == {"test/AP50", "test/mask_AP50"}
    json.dumps(left.details, allow_nan=False)
    assert sorted(left.files) == [
        "detection.test.boxes.json",
        "detection.test.masks.json",
        "worst.test.webp",
    ]
    # Each wrong image missed its object and found another.
    assert asked == [["image-0", "image-3", "image-6"]]
    with Image.open(io.BytesIO(left.files["worst.test.webp"])) as picture:
        assert picture.height > 3 * 240
        assert picture.width > 2 * 240
    shown = detection_document.decoded(left.files["detection.test.boxes.json"], "x")
    assert shown.picture == "worst.test.webp"
    assert [one.mistakes for one in shown.worst] == [2, 2, 2]
    assert detection_document.decoded(left.files["detection.test.masks.json"], "x").picture == ""
    again = detection_results.exhibit(
        truth, found, CLASSES, images, split="test", kinds=("boxes", "masks"), voc="11"
    )
    assert again == left  # the same bytes


def test_a_picture_that_cannot_be_made_is_left_out(answers):
    def images(keys):
        raise DataError("the shard is away")

    left = detection_results.exhibit(*answers, CLASSES, images, split="val")
    assert list(left.files) == ["detection.val.boxes.json"]
    assert left.metrics["val/AP50"] > 0


def test_nothing_to_score_leaves_no_metric():
    left = detection_results.exhibit(
        [("a", boxes_of([]))], {"a": found_of([])}, CLASSES, lambda _: {}, split="test"
    )
    assert left.metrics == {}
    assert left.replicates == {}
    assert left.details["without_truth"] == {"boxes": list(CLASSES)}


def answered(rank, world, keys):
    """Return the keys that a rank gathers, or why it cannot."""
    accelerator = SimpleNamespace(num_processes=world, process_index=rank)
    ours = [(key, found_of([(NEAR, 0, 0.5, False)])) for key in keys[rank]]
    try:
        return list(detection_results.gathered(accelerator, ours))
    except DataError as error:
        return str(error)


def test_ranks_gather_each_image_once(tmp_path):
    shares = [["a", "c"], ["b"]]
    assert on_ranks(2, tmp_path / "once", answered, shares) == [["a", "c", "b"]] * 2
    shares = [["a", "c"], ["b", "c"]]
    what = "the image c was answered twice, by rank 0 and 1"
    assert on_ranks(2, tmp_path / "twice", answered, shares) == [what] * 2
