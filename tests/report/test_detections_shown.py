"""What a detector leaves to show: the form that it has in the store, and the page made of it."""

import json
import re

import numpy as np
import pytest
from detections import SIDE, boxes_of, found_of

from hpt_dist.errors import DataError
from hpt_dist.evals import detection_document, detection_matches
from hpt_dist.evals.detection import score
from hpt_dist.images.marked import Mark, marked
from hpt_dist.page import Grid, Picture, as_html, markdown
from hpt_dist.report import detections, patches
from hpt_dist.store.records import DamagedRecordError

CLASSES = ("cat", "<script>alert(1)</script>", "owl")
NEAR, FAR = (0, 0, 40, 40), (60, 60, 100, 100)


@pytest.fixture(scope="module")
def answers():
    """Three images: all right; one missed, one wrong; two missed, one of them difficult."""
    truth = [
        ("right", boxes_of([(NEAR, 0, False, False, False)])),
        ("mixed|<b>", boxes_of([(NEAR, 1, False, False, False)])),
        ("missed", boxes_of([(NEAR, 0, False, False, False), (FAR, 0, True, False, False)])),
    ]
    found = {
        "right": found_of([(NEAR, 0, 0.9, False), (FAR, 1, 0.2, False)]),
        "mixed|<b>": found_of([(NEAR, 0, 0.8, False), (NEAR, 1, 0.4, False)]),
        "missed": found_of([(FAR, 0, 0.7, False)]),
    }
    return truth, found


@pytest.fixture(scope="module")
def shown(answers):
    truth, found = answers
    matched = detection_matches.of_images(truth, found, len(CLASSES))
    scores = score(truth, found, CLASSES)
    return detection_document.shown(
        truth, found, matched, CLASSES, scores, split="test", picture="worst.test.webp"
    )


def test_mistakes_are_counted_among_sure_detections(shown):
    cat, script, owl = shown.classes
    assert (cat.objects, cat.right, cat.wrong, cat.missed) == (2, 1, 1, 1)
    assert (script.objects, script.right, script.wrong, script.missed) == (1, 0, 0, 1)
    assert (owl.objects, owl.metrics["AP"], owl.precision) == (0, None, ())
    assert shown.without_truth == ("owl",)
    # One is missed and one wrong; where it is difficult, what hit it is neither.
    assert [(one.key, one.mistakes, one.missed, one.wrong) for one in shown.worst] == [
        ("mixed|<b>", 2, (CLASSES[1],), ("cat",)),
        ("missed", 1, ("cat",), ()),
    ]


def test_the_curve_is_the_averages(shown):
    for one in shown.classes[:2]:
        assert 100 * np.mean(one.precision) == pytest.approx(one.metrics["AP50"], abs=0.01)


def test_it_is_read_as_it_was_written_or_refused(shown):
    data = detection_document.encoded(shown)
    assert detection_document.decoded(data, "x") == shown
    assert detection_document.is_file(detection_document.file_of("test", "masks"))
    other = json.loads(data) | {"format": 2}
    with pytest.raises(DataError, match="format 2"):
        detection_document.decoded(json.dumps(other).encode(), "x")
    for name, value in (("images", -1), ("kind", "circles"), ("precision", [2.0])):
        broken = json.loads(data) | {name: value}
        with pytest.raises(DamagedRecordError):
            detection_document.decoded(json.dumps(broken).encode(), "x")


def test_the_page_escapes_names_and_reads_as_text(shown):
    page = detections.blocks(shown, "detect/seed=0", {"worst.test.webp": b"RIFF....WEBP"})
    html, text = as_html("t", page), markdown(page)
    assert "<script>alert(1)</script>" not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r"<b>(?!</b>)", html)
    assert "Without an object that counts, and so without an AP: owl." in text
    (table,) = [one for one in page if isinstance(one, Grid) and one.header[0] == "class"]
    assert [row[0] for row in table.rows] == ["cat", CLASSES[1], "owl"]  # the lowest AP first
    assert table.rows[2][2:5] == ["-", "-", "-"]
    assert any(isinstance(one, Picture) for one in page)
    assert html.count("<svg") == 3  # all together, and two classes
    without = detections.blocks(shown, "detect/seed=0", {})
    assert not any(isinstance(one, Picture) for one in without)


def test_boxes_are_drawn_where_they_are():
    pixels = np.full((SIDE, 2 * SIDE, 3), 100, np.uint8)
    square = marked(pixels, [Mark((0, 0, 2 * SIDE, SIDE), "", "#ff0000")], 200)
    assert square.shape == (200, 200, 3)
    red = np.argwhere((square == [255, 0, 0]).all(axis=2))
    assert red.min(axis=0).tolist() == [50, 0]  # a wide image lies in the middle
    assert red.max(axis=0).tolist() == [149, 199]
    hostile = Mark((-1e9, -1e9, 1e9, 1e9), "\x1b[31m" * 99, "#ff0000")
    assert marked(pixels, [hostile, Mark((5, 5, 5, 5), "a", "#ff0000")], 64).shape == (64, 64, 3)


def test_the_page_of_patches_names_what_it_cannot_say():
    iou = {"background": 0.9, "<i>": 0.25, "owl": None}
    result = {
        "kind": "dense",
        "details": {
            "iou": {"val/miou": iou, "test/miou": iou, "test/knn_miou": iou},
            "before": "k",
        },
    }
    page = patches.blocks(result, "dense/init=hpt", {"patches.webp": b"RIFF....WEBP"})
    (table,) = [one for one in page if isinstance(one, Grid)]
    assert list(table.header) == ["IoU, %", "val classifier", "test classifier", "test neighbours"]
    assert table.rows[1] == ["<i>", "25.0", "25.0", "25.0"]
    assert table.rows[2][1:] == ["-", "-", "-"]
    assert "<i>" not in as_html("t", page)
    assert "began from" in as_html("t", page)
    assert patches.blocks({"kind": "linear", "details": {}}, "probe", {}) == []
