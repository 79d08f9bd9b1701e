"""COCO's scores: those published, pycocotools' on random answers, VOC's; every image once."""

import json
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detections import NAMES, answers, boxes_of, found_of, of_pycocotools
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import DataError, DivergedError
from hpt_dist.evals import detection_matches, detection_voc
from hpt_dist.evals.detection import Detections, merged, score
from hpt_dist.images.boxes import counts_of
from hpt_dist.reading.boxes import Boxes

CLASSES = ("cat", "dog", "owl")
# Of results/val2014_fake_eval_res.txt in the cocoapi repository.
PUBLISHED = {
    "boxes": (0.505, 0.697, 0.573, 0.586, 0.519, 0.501),
    "masks": (0.320, 0.562, 0.299, 0.387, 0.310, 0.327),
}


@pytest.fixture(scope="module")
def example():
    """COCO's annotations of 100 images of val2014 (CC BY 4.0), and its repository's results."""
    data = (Path(__file__).parent / "coco_example.json.xz").read_bytes()
    return json.loads(lzma.decompress(data))


def read(example, kind):
    """Return truth with its annotated areas, detections, and class names."""
    ids = {int(one): at for at, one in enumerate(example["classes"])}
    truth, found = [], {}
    for key, size in example["images"].items():
        objects = [one for one in example["objects"] if str(one[0]) == key]
        results = [one for one in example[kind] if str(one[0]) == key]
        corners = corners_of([one[2] for one in objects])
        boxes = Boxes(
            tuple(size),
            np.minimum(corners, np.float32([size[1], size[0]] * 2)),
            np.array([ids[one[1]] for one in objects], np.int64),
            np.zeros(len(objects), np.bool_),
            np.array([one[4] for one in objects], np.bool_),
            tuple(counts_of(segmentation(one[5], size), tuple(size)) for one in objects),
            np.array([one[3] for one in objects], np.float64),
        )
        places = [one[2] if kind == "boxes" else (0, 0, 1, 1) for one in results]
        masks = tuple(one[2].encode() for one in results) if kind == "masks" else None
        truth.append((key, boxes))
        found[key] = Detections(
            corners_of(places),
            np.array([one[3] for one in results], np.float32),
            np.array([ids[one[1]] for one in results], np.int64),
            masks,
        )
    return truth, found, list(example["classes"].values())


def segmentation(value, size):
    polygons = isinstance(value[0], list)
    return value if polygons else {"size": size, "counts": value}


def corners_of(boxes):
    sides = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_the_published_example_has_the_published_scores(example, kind):
    truth, found, classes = read(example, kind)
    scores = score(truth, found, classes, kind=kind)
    assert scores.metrics == pytest.approx(
        dict(zip(NAMES, [100 * one for one in PUBLISHED[kind]], strict=True)), abs=0.05
    )
    of_coco, by_class = of_pycocotools(truth, found, classes, kind)
    assert scores.metrics == pytest.approx(of_coco, abs=1e-6)
    assert [[one["AP"], one["AP50"]] for one in scores.per_class.values()] == by_class_near(
        by_class
    )
    assert "parking meter" in scores.without_truth
    # Without the annotations' own areas the masks' pixels decide: hardly another size.
    truth = [(key, replace(boxes, areas=None)) for key, boxes in truth]
    near = score(truth, found, classes, kind=kind).metrics
    assert [near[name] for name in ("AP", "AP50", "AP75")] == [
        scores.metrics[name] for name in ("AP", "AP50", "AP75")
    ]
    assert near == pytest.approx(scores.metrics, abs=0.5)


def by_class_near(values):
    return [[None if v is None else pytest.approx(v, abs=1e-6) for v in one] for one in values]


@given(st.data(), st.sampled_from(["boxes", "masks"]))
def test_random_answers_have_the_scores_of_pycocotools(data, kind):
    truth, found = data.draw(answers(masks=kind == "masks"))
    scores = score(truth, found, CLASSES, kind=kind)
    of_coco, by_class = of_pycocotools(truth, found, CLASSES, kind)
    for name in NAMES:
        assert scores.metrics[name] == near(of_coco[name]), name
    for one, (average, at_half) in zip(scores.per_class.values(), by_class, strict=True):
        assert one["AP"] == near(average)
        assert one["AP50"] == near(at_half)
    none = [name for name, (average, _) in zip(CLASSES, by_class, strict=True) if average is None]
    assert list(scores.without_truth) == none


def near(value):
    return None if value is None else pytest.approx(value, abs=1e-6)


@given(answers())
def test_the_order_of_images_that_share_no_score_changes_nothing(given_answers):
    truth, found = given_answers
    every = np.concatenate([one.scores for one in found.values()])
    if len(np.unique(every)) == len(every):
        assert score(truth, found, CLASSES) == score(truth[::-1], found, CLASSES)


@given(st.data(), st.sampled_from(["boxes", "masks"]))
def test_matches_have_the_evaluators_ap50_and_so_do_their_curves(data, kind):
    truth, found = data.draw(answers(masks=kind == "masks"))
    matched = detection_matches.of_images(truth, found, len(CLASSES), kind=kind)
    scores = score(truth, found, CLASSES, kind=kind)
    _, by_class = detection_matches.ranked(truth, found, matched, len(CLASSES))
    for name, of_class in zip(CLASSES, by_class, strict=True):
        average = detection_matches.curve(of_class).average
        wanted = scores.per_class[name]["AP50"]
        assert average == (None if wanted is None else pytest.approx(wanted / 100, abs=1e-9))
    for (_, boxes), one, answered in zip(truth, matched, found.values(), strict=True):
        # Nothing is lost: each detection is right, wrong or ignored; each object hit or missed.
        assert not (one.right & one.wrong).any()
        hit = one.scored.sum() - one.missed(np.ones(len(answered), np.bool_)).sum()
        assert hit == one.right.sum()
        assert len(one.scored) == len(boxes)


def test_more_than_a_hundred_detections_of_an_image_do_not_count():
    box = (0, 0, 20, 20)
    truth = [("a", boxes_of([(box, 0, False, False, False)]))]
    far = [((60, 60, 80, 80), 0, 0.9, False)] * 100
    found = {"a": found_of([*far, (box, 0, 0.5, False)])}
    scores = score(truth, found, CLASSES)
    assert scores.metrics["AP50"] == 0
    (matched,) = detection_matches.of_images(truth, found, len(CLASSES))
    assert not matched.counts[100]
    assert matched.wrong.sum() == 100
    assert score(truth, {"a": found_of([*far[1:], (box, 0, 0.5, False)])}, CLASSES).metrics[
        "AP50"
    ] == pytest.approx(1, abs=1e-6)


def test_a_difficult_object_forgives_once_and_a_crowd_always():
    box, other = (0, 0, 40, 40), (60, 60, 100, 100)
    found = {"a": found_of([(box, 0, 0.9, False), (box, 0, 0.8, False), (other, 0, 0.7, False)])}
    plain = (other, 0, False, False, False)
    for ignored, wanted in (
        ((box, 0, True, False, False), 50),
        ((box, 0, False, True, False), 100),
    ):
        truth = [("a", boxes_of([ignored, plain]))]
        assert score(truth, found, CLASSES).metrics["AP50"] == pytest.approx(wanted)
        assert detection_voc.score(truth, found, CLASSES).metrics["AP50"] == pytest.approx(100)


def test_a_class_without_truth_has_no_ap_and_is_named():
    box = (0, 0, 20, 20)
    difficult, crowd = (box, 1, True, False, False), (box, 2, False, True, False)
    truth = [("a", boxes_of([(box, 0, False, False, False), difficult, crowd]))]
    found = {"a": found_of([(box, label, 0.5, False) for label in range(3)])}
    for scores in (score(truth, found, CLASSES), detection_voc.score(truth, found, CLASSES)):
        assert scores.without_truth == ("dog", "owl")
        assert scores.per_class["dog"]["AP"] is None
        assert scores.metrics["AP"] == pytest.approx(100)
    nothing = score([("a", boxes_of([]))], {"a": found_of([])}, CLASSES)
    assert nothing.metrics == dict.fromkeys(NAMES)
    assert nothing.without_truth == CLASSES


def test_every_image_is_answered_once():
    truth = [(key, boxes_of([((0, 0, 9, 9), 0, False, False, False)])) for key in "abc"]
    found = {key: found_of([]) for key in "abc"}
    score(truth, found, CLASSES)
    with pytest.raises(DataError, match="nothing was answered about 1 image: b"):
        score(truth, {key: found[key] for key in "ac"}, CLASSES)
    with pytest.raises(DataError, match="no truth, of 1 image: d"):
        score(truth, found | {"d": found_of([])}, CLASSES)
    with pytest.raises(DataError, match="more than one truth of 1 image: a"):
        score([*truth, truth[0]], found, CLASSES)
    shares = [[("a", found["a"]), ("b", found["b"])], [("c", found["c"])]]
    assert list(merged(shares)) == ["a", "b", "c"]
    with pytest.raises(DataError, match="the image a was answered twice, by rank 0 and 1"):
        merged([*shares[:1], [("c", found["c"]), ("a", found["a"])]])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"scores": np.float32([np.nan])}, "boxes or scores of the image a are not finite"),
        ({"boxes": np.float32([[0, 0, np.inf, 1]])}, "not finite"),
        ({"boxes": np.float32([[5, 0, 1, 1]])}, "a box of the image a ends before it begins"),
        ({"labels": np.array([3])}, "a detection of the image a is of a class that there is not"),
        ({"labels": np.array([0, 0])}, "the detections of the image a do not fit each other"),
    ],
)
def test_what_is_no_detection_is_refused_by_its_image(change, error):
    good = found_of([((0, 0, 9, 9), 0, 0.5, False)])
    truth = [("a", boxes_of([]))]
    score(truth, {"a": good}, CLASSES)
    with pytest.raises((DataError, DivergedError), match=error):
        score(truth, {"a": Detections(**vars(good) | change)}, CLASSES)
    with pytest.raises(DataError, match="the 1 detections of the image a have no masks"):
        score(truth, {"a": good}, CLASSES, kind="masks")


def voc_by_hand(truth, found, label, overlap, points):
    """VOC's average precision as its paper has it, one detection at a time."""
    every = sorted(
        (
            (float(one.scores[at]), key, at)
            for key, one in found.items()
            for at in np.flatnonzero(one.labels == label)
        ),
        key=lambda one: -one[0],
    )
    by_key, taken, right, wrong, curve = dict(truth), set(), 0, 0, []
    counted = {key: ~(boxes.difficult | boxes.crowd) for key, boxes in truth}
    total = sum(int((boxes.labels[counted[key]] == label).sum()) for key, boxes in truth)
    for _, key, at in every:
        best, nearest = nearest_of(by_key[key], found[key].boxes[at], label)
        if best <= overlap or (key, nearest) in taken:
            wrong += 1
        elif counted[key][nearest]:
            right += 1
            taken.add((key, nearest))
        curve.append((right / max(total, 1), right / max(right + wrong, 1e-300)))
    return average_by_hand(curve, points) if total else None


def nearest_of(boxes, box, label):
    """Return the overlap with the object that a box overlaps most, and its number."""
    same = np.flatnonzero(boxes.labels == label).tolist()
    overlaps = [overlap_of(box, boxes.corners[number]) for number in same]
    at = int(np.argmax(overlaps)) if same else None
    return (-1.0, None) if at is None else (overlaps[at], same[at])


def average_by_hand(curve, points):
    if points == "11":
        tops = [max((p for r, p in curve if r >= t), default=0) for t in np.arange(0, 1.1, 0.1)]
        return sum(tops) / 11
    area, before = 0.0, 0.0
    for at, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[at:])
        before = recall
    return area


def overlap_of(one, other):
    one, other = one.astype(float), other.astype(float)
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    inside = np.prod(np.maximum(sides, 0))
    return inside / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - inside)


@given(answers(), st.sampled_from(["11", "all"]))
def test_vocs_own_average_precision_is_that_of_its_paper(given_answers, points):
    truth, found = given_answers
    scores = detection_voc.score(truth, found, CLASSES, points=points)
    for label, name in enumerate(CLASSES):
        wanted = [
            voc_by_hand(truth, found, label, overlap, points)
            for overlap in np.linspace(0.5, 0.95, 10)
        ]
        ours = scores.per_class[name]
        if wanted[0] is None:
            assert ours["AP"] is None
        else:
            values = [np.mean(wanted), wanted[0], wanted[5]]
            assert list(ours.values()) == pytest.approx([100 * one for one in values], abs=1e-6)


@given(answers(classes=2))
def test_replicates_are_the_scores_of_the_images_drawn(given_answers):
    from hpt_dist.evals import bootstrap

    truth, found = given_answers
    every = np.concatenate([one.scores for one in found.values()])
    matched = detection_matches.of_images(truth, found, 2)
    _, by_class = detection_matches.ranked(truth, found, matched, 2)
    values = detection_matches.ap50_replicates(by_class, len(truth))
    assert len(values) == bootstrap.DRAWS
    if len(np.unique(every)) < len(every):
        return  # the order of equal ones would differ
    weights = np.concatenate(list(bootstrap.counts(len(truth), bootstrap.DRAWS)), axis=1)
    for draw in range(3):
        drawn = [
            (f"{key}-{copy}", boxes)
            for (key, boxes), times in zip(truth, weights[:, draw], strict=True)
            for copy in range(int(times))
        ]
        again = {name: found[name.rpartition("-")[0]] for name, _ in drawn}
        wanted = score(drawn, again, CLASSES[:2]).metrics["AP50"]
        assert np.isnan(values[draw]) if wanted is None else values[draw] == near(wanted / 100)
