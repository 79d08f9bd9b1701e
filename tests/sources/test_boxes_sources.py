"""Sources of boxes: COCO, Pascal VOC and BDD100K become shards that a detector learns from."""

import json
import tarfile

import numpy as np
import pytest
from forest import CLASSES, SETS
from pictures import encoded, picture
from small import REFUSED, document, hpt, write_recipe

from hpt_dist.datasets.manifest import parse_index, read_manifest
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.datasets.verify import verify
from hpt_dist.errors import RequestError
from hpt_dist.evals.detection import Detections, score
from hpt_dist.images import run_lengths
from hpt_dist.images.boxes import Boxes
from hpt_dist.images.formats import Encoding
from hpt_dist.sources import named, open_source
from hpt_dist.sources.named import boxes as named_boxes
from hpt_dist.sources.understood import in_words
from hpt_dist.store import open_store

POLYGON = [[4.0, 2, 12, 2, 12, 10, 4, 10]]
SIZE = (40, 30)
RECIPE = """\
name: cars
store: ${HPT_STORE}
datasets: {cars: boxes}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  detector: {kind: detect, init: base, data: cars, masks: true}
"""
MASK = np.zeros((30, 40), np.bool_)
MASK[5:9, 20:31] = True
RUNS = {"size": [30, 40], "counts": run_lengths.encode(MASK).decode()}


def image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(len(path.name), size), "PNG"))


def coco(folder, boxes, images=("a", "b", "c", "d"), size=SIZE, split="train"):
    """Write a split as Roboflow does; a box is image, category, left to height, and more."""
    for one in images:
        image(folder / split / f"{one}.png")
    value = {
        "images": [
            {"id": i, "file_name": f"{one}.png", "width": size[0], "height": size[1]}
            for i, one in enumerate(images)
        ],
        "annotations": [
            {"id": 100 + i, "image_id": images.index(one), "category_id": category, "bbox": box}
            | more
            for i, (one, category, box, more) in enumerate(boxes)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 8, "name": "dog"}],
    }
    (folder / split / "_annotations.coco.json").write_text(json.dumps(value))
    return folder


USUAL = [
    ("a", 3, [1, 2, 8.5, 7], {}),
    ("a", 8, [30, 20, 10.5, 12], {}),  # reaches out, downwards by more than a pixel
    ("b", 8, [3, 3, 0, 4], {}),  # its image has no other
    ("c", 3, [0, 0, 6, 8], {"iscrowd": 1}),
]


def sharded(source, folder, **options):
    """Return the manifest, and of each image what its JSON member holds; None without one."""
    store = open_store(str(folder / "store"))
    manifest = write_dataset(source, store, "boxes", **options)
    assert verify(store, "boxes") == []
    found = {}
    for path in sorted((folder / "store/datasets/boxes").rglob("*.tar")):
        with tarfile.open(path) as archive:
            for one in archive.getmembers():
                key, _, extension = one.name.partition(".")
                found.setdefault(key.rpartition("-")[0] or key, None)
                if extension == "json":
                    data = json.load(archive.extractfile(one))
                    found[key.rpartition("-")[0] or key] = Boxes.from_json(data, one.name)
    return manifest, found


def test_coco_becomes_shards_of_boxes_and_what_happened_is_said(tmp_path):
    folder = coco(tmp_path / "cars", USUAL)
    at = f"{tmp_path}/store/datasets/cars"
    said = hpt("shard", str(folder), at, "--boxes", store=f"{tmp_path}/store", process=False)
    for line in (
        "left out, as they cover nothing of their image: _annotations.coco.json: annotations[2]: "
        "annotation 102",
        "boxes: 3 objects, of them 1 crowds",
        "cut at the edge of their image: 1 boxes (train/a.png: objects[1])",
        "images without an object are kept: train 1",
        "unlabeled, as their objects are not known: 1 images (train/b.png)",
        "train: 3 images (car 1, dog 1)",
        "unlabeled: 1 image (without a label 1)",
    ):
        assert line in " ".join(said.split()), said
    store = open_store(f"{tmp_path}/store")
    manifest = read_manifest(store, "cars")
    assert (manifest.label, manifest.metric, manifest.classes) == ("boxes", "", ("car", "dog"))
    assert manifest.splits["train"].class_counts == (1, 1)
    shown = hpt("data", "show", at, store=f"{tmp_path}/store")
    assert "objects in boxes" in shown
    hpt("data", "verify", at, store=f"{tmp_path}/store")
    listed = document(hpt("data", "list", "--json", store=f"{tmp_path}/store"))
    assert "cars" in json.dumps(listed)
    hpt("data", "preview", at, "--out", f"{tmp_path}/a.png", store=f"{tmp_path}/store")


def test_boxes_are_stored_in_pixels_of_the_image(tmp_path):
    manifest, found = sharded(
        open_source(str(coco(tmp_path / "cars", USUAL)), boxes=True), tmp_path
    )
    assert found["train_b"] is None
    assert found["train_a"].corners.tolist() == [[1, 2, 9.5, 9], [30, 20, 40, 30]]
    assert found["train_a"].labels.tolist() == [0, 1]
    assert found["train_c"].crowd.tolist() == [True]
    assert len(found["train_d"]) == 0
    assert not any(one.has_masks for one in found.values() if one)
    [shard] = manifest.splits["train"].shards
    index = parse_index((tmp_path / "store/datasets/boxes" / shard.index).read_bytes(), shard.index)
    assert sorted(index.labels) == [(), (), (0, 1)]
    assert [one[:2] for one in index.boxes] == [SIZE] * 3


MASKED = [
    ("a", 3, [4, 2, 8, 8], {"segmentation": POLYGON}),
    ("a", 8, [20, 5, 11, 4], {"segmentation": RUNS}),
]


def test_masks_of_any_form_become_run_lengths(tmp_path):
    source = open_source(str(coco(tmp_path / "cars", MASKED)), boxes=True)
    manifest, found = sharded(source, tmp_path)
    assert manifest.masks
    assert read_manifest(open_store(str(tmp_path / "store")), "boxes") == manifest
    square = np.zeros_like(MASK)
    square[2:10, 4:12] = True
    np.testing.assert_array_equal(found["train_a"].mask(0), square)
    np.testing.assert_array_equal(found["train_a"].mask(1), MASK)
    assert found["train_b"].masks == ()


def test_masks_that_only_some_objects_have_are_left_out(tmp_path):
    source = open_source(str(coco(tmp_path / "cars", [*MASKED, *USUAL[:1]])), boxes=True)
    assert "masks left out: 1 of 3 objects have none" in in_words(source)
    manifest, found = sharded(source, tmp_path)
    assert not found["train_a"].has_masks
    assert not manifest.masks
    assert b"masks" not in manifest.content


def test_a_plan_that_asks_for_masks_which_nobody_drew_exits_with_what_to_do(tmp_path):
    for split in ("train", "test"):
        coco(tmp_path / "cars", USUAL, split=split)
    sharded(open_source(str(tmp_path / "cars"), boxes=True), tmp_path)
    recipe = write_recipe(tmp_path, RECIPE)
    said = hpt("plan", str(recipe), store=f"{tmp_path}/store", code=REFUSED, process=False)
    words = " ".join(said.split())
    assert "stages.detector.masks: the objects of boxes have no masks" in words
    assert "allowed: false" in words
    assert "do: shard it again with --boxes" in words


def test_boxes_and_masks_are_resized_with_their_image(tmp_path):
    source = open_source(str(coco(tmp_path / "cars", MASKED)), boxes=True)
    _, found = sharded(source, tmp_path, encoding=Encoding(resize=15))
    boxes = found["train_a"]
    assert boxes.size == (15, 20)
    assert boxes.corners.tolist() == [[2, 1, 6, 5], [10, 2.5, 15.5, 4.5]]
    for number, corners in enumerate(boxes.corners):
        own = run_lengths.corners_of(boxes.mask(number))
        np.testing.assert_allclose(own, corners, atol=0.5)


AREAS = [
    ("a", 3, [4, 2, 8, 8], {"area": 61.75}),
    ("a", 8, [20, 5, 11, 4], {"area": 0}),
    ("b", 3, [1, 1, 10, 10], {"area": 12.5}),
    ("b", 8, [3, 3, 4, 4], {}),  # COCO requires an area; this export has none here
    ("b", 8, [3, 3, 0, 4], {"area": 7}),  # covers nothing
    ("c", 3, [2, 2, 5, 5], {}),
]


def test_annotated_areas_come_into_the_shards_and_a_missing_one_is_measured(tmp_path):
    source = open_source(str(coco(tmp_path / "cars", AREAS)), boxes=True)
    assert "areas measured: 2 of 5 objects have none" in in_words(source)
    _, found = sharded(source, tmp_path)
    assert found["train_a"].areas.tolist() == [61.75, 0]
    assert found["train_b"].areas.tolist() == [12.5, 16]
    assert found["train_c"].areas is None
    _, again = sharded(open_source(str(tmp_path / "store/datasets/boxes")), tmp_path / "again")
    assert again == found


def test_areas_are_resized_with_their_image(tmp_path):
    masked = [(*MASKED[0][:3], MASKED[0][3] | {"area": 61}), MASKED[1]]
    source = open_source(str(coco(tmp_path / "cars", masked)), boxes=True)
    _, found = sharded(source, tmp_path, encoding=Encoding(resize=15))
    boxes = found["train_a"]
    assert boxes.areas.tolist() == [61 / 4, boxes.mask(1).sum()]


def test_an_area_that_is_none_is_named(tmp_path):
    wrong = [("a", 3, [4, 2, 8, 8], {"area": -3}), ("a", 3, [4, 2, 8, 8], {"area": "9"})]
    with pytest.raises(RequestError) as error:
        open_source(str(coco(tmp_path / "cars", wrong)), boxes=True)
    for number in range(2):
        assert f"annotations[{number}].area" in str(error.value)


def test_the_annotated_area_decides_which_objects_are_small(tmp_path):
    """A thin thing in a large box counts as small, as its polygon does."""
    thin = [("a", 3, [0, 0, 40, 30], {"area": 900}), ("b", 3, [0, 0, 40, 30], {"area": 1100})]
    _, found = sharded(open_source(str(coco(tmp_path / "cars", thin)), boxes=True), tmp_path)
    truth = [(key, found[f"train_{key}"]) for key in "ab"]
    one = np.ones(1, np.float32)
    answers = {
        key: Detections(boxes.corners, one, np.zeros(1, np.int64)) for key, boxes in truth[:1]
    } | {"b": Detections(np.zeros((0, 4), np.float32), one[:0], np.zeros(0, np.int64))}
    metrics = score(truth, answers, ["car", "dog"]).metrics
    assert metrics["APs"] == pytest.approx(100)
    assert metrics["APm"] == 0
    assert metrics["APl"] is None


def test_an_image_of_other_proportions_than_its_frame_is_left_out_and_named(tmp_path):
    folder = coco(tmp_path / "cars", USUAL, size=(30, 40))
    store = f"{tmp_path}/store"
    at = f"{store}/datasets/cars"
    said = hpt("shard", str(folder), at, "--boxes", "--max-bad", "2", store=store, code=1)
    words = " ".join(said.split())
    assert "train/a.png: its boxes are in a frame of 30 x 40 pixels, and the upright image" in words
    # Without boxes to detect, the frame is only noted.
    hpt("shard", str(folder), at, store=store)


def test_a_wrong_mask_is_named_with_its_object(tmp_path):
    wrong = {"segmentation": {"size": [30, 40], "counts": [3, 4]}}
    boxes = [*MASKED, ("c", 3, [1, 1, 5, 5], wrong)]
    manifest, _ = sharded(open_source(str(coco(tmp_path / "cars", boxes)), boxes=True), tmp_path)
    [left_out] = manifest.quarantined
    assert left_out.origin == "train/c.png"
    assert left_out.reason.startswith("objects[0]: the runs of a mask are not those of 40 x 30")


def test_sources_without_boxes_are_refused(tmp_path):
    image(tmp_path / "photos/a.png")
    store = f"{tmp_path}/store"
    at = f"{store}/datasets/photos"
    said = hpt("shard", str(tmp_path / "photos"), at, "--boxes", store=store, code=REFUSED)
    assert "no image has a box" in said
    said = hpt("shard", "openmoji/line", at, "--boxes", store=store, code=REFUSED)
    assert "openmoji/line has no boxes" in said


def test_our_own_shards_are_a_source_of_the_same_boxes(tmp_path):
    _, found = sharded(open_source(str(coco(tmp_path / "cars", MASKED)), boxes=True), tmp_path)
    again = open_source(str(tmp_path / "store/datasets/boxes"))
    manifest, same = sharded(again, tmp_path / "again")
    assert same == found
    assert manifest.label == "boxes"


def test_a_dataset_without_boxes_has_the_inputs_it_had(tmp_path):
    """A new kind of label changes no shard that is there."""
    masked = [(*one[:3], one[3] | {"area": 9}) for one in MASKED]
    source = open_source(str(coco(tmp_path / "cars", masked)))
    assert not any("area" in one for image in source.files for one in image.annotation["objects"])
    manifest = write_dataset(source, open_store(str(tmp_path / "store")), "cars")
    assert manifest.label == "multi"
    [shard] = manifest.splits["train"].shards
    index = (tmp_path / "store/datasets/cars" / shard.index).read_bytes()
    assert b'"boxes"' not in index


# Pascal VOC

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def voc(folder, sets):
    """Write a folder of VOC; an object is name, difficult, and its four numbers."""
    for image_set, images in sets.items():
        for name, objects in images.items():
            image(folder / f"JPEGImages/{name}.png")
            xml = "".join(OBJECT.format(*one) for one in objects)
            size = "<size><width>40</width><height>30</height></size>"
            path = folder / f"Annotations/{name}.xml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<annotation>{size}{xml}</annotation>")
        path = folder / f"ImageSets/Main/{image_set}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(images) + "\n")
    return folder


def test_voc_keeps_difficult_objects_with_their_flag(tmp_path):
    objects = [("dog", 0, 1, 1, 40, 30), ("cat", 1, 3, 4, 10, 12)]
    folder = voc(tmp_path / "pets", {"train": {"a": objects, "b": objects[1:]}})
    source = open_source(str(folder), boxes=True)
    assert "boxes: 3 objects, of them 2 difficult" in in_words(source)
    manifest, found = sharded(source, tmp_path)
    assert manifest.classes == ("cat", "dog")
    boxes = found["JPEGImages_a"]
    assert boxes.corners.tolist() == [[0, 0, 40, 30], [2, 3, 10, 12]]  # VOC counts from 1
    assert boxes.difficult.tolist() == [False, True]
    assert found["JPEGImages_b"].present == (0,)  # there is something to train on


def test_voc_07_12_has_its_sets(tmp_path):
    dog, cat = ("dog", 0, 1, 1, 20, 20), ("cat", 1, 3, 4, 10, 12)
    kit = tmp_path / "VOCdevkit"
    voc(kit / "VOC2007", {"trainval": {"a": [dog, cat], "b": [cat]}, "test": {"c": [dog]}})
    voc(kit / "VOC2012", {"trainval": {"2012_1": [dog]}})
    source = named.open_named("voc/boxes", tmp_path)
    counts = {}
    for one in source.samples():
        counts[one.split] = counts.get(one.split, 0) + 1
    assert counts == {"train": 3, "test": 1}
    assert (source.label, len(source.classes)) == ("boxes", 20)
    assert "Everingham" in source.credit
    _, found = sharded(source, tmp_path)
    assert found["VOC2007_JPEGImages_a"].labels.tolist() == [11, 7]


def test_coco_2017_has_its_sets(tmp_path):
    for split, name in (("train", "train2017"), ("test", "val2017")):
        folder = coco(tmp_path / split, MASKED, split=name)
        (folder / name).rename(tmp_path / name)
        target = tmp_path / f"annotations/instances_{name}.json"
        target.parent.mkdir(exist_ok=True)
        (tmp_path / name / "_annotations.coco.json").rename(target)
    source = named.open_named("coco2017", tmp_path)
    assert {one.split for one in source.samples()} == {"train", "test"}
    assert "masks: every object has one" in source.notes


def bdd(folder, labels, form="labels/bdd100k_labels_images_{}.json"):
    for split in ("train", "val"):
        for name in ("1-a.jpg", "1-b.jpg", "2-c.jpg"):
            path = folder / f"bdd100k/images/100k/{split}/{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(1, (1280, 720))))
        file = folder / "bdd100k" / form.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(labels))
    return folder


def corners(x1, y1, x2, y2):
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}


LABELS = [
    {
        "name": "1-a.jpg",
        "attributes": {"weather": "clear"},
        "labels": [
            {"category": "pedestrian", "box2d": corners(10.5, 20, 30, 60), "id": 3},
            {"category": "lane", "poly2d": [{"vertices": [[1, 2]]}]},
            {"category": "trailer", "box2d": corners(10, 20, 30, 60)},
            {"category": "car", "box2d": corners(1270, 700, 1285, 720)},
        ],
    },
    {"name": "1-b.jpg", "labels": None},
]


@pytest.mark.parametrize("form", named_boxes._BDD_LABELS)
def test_bdd100k_has_its_sets_and_both_forms_of_labels(tmp_path, form):
    source = named.open_named("bdd100k/boxes", bdd(tmp_path, LABELS, form))
    splits = {one.origin.removeprefix("images/100k/"): one.split for one in source.samples()}
    assert splits == {
        "train/1-a.jpg": "train",
        "train/1-b.jpg": "train",
        "train/2-c.jpg": "unlabeled",  # no label says what is in it
        "val/1-a.jpg": "test",
        "val/1-b.jpg": "test",
        "val/2-c.jpg": "unlabeled",
    }
    assert "left out, as the benchmark does not score them: trailer 2" in source.notes
    _, found = sharded(source, tmp_path)
    boxes = found["images_100k_train_1-a"]
    assert boxes.corners.tolist() == [[10.5, 20, 30, 60], [1270, 700, 1280, 720]]
    assert [source.classes[i] for i in boxes.labels] == ["person", "car"]
    assert len(found["images_100k_train_1-b"]) == 0


def test_faults_of_bdds_boxes_are_named(tmp_path):
    labels = [
        {"name": "1-a.jpg", "labels": [{"category": "bus!", "box2d": corners(1, 2, 3, 4)}]},
        {"name": "1-x.jpg", "labels": []},
        {"name": "1-b.jpg", "labels": []},
        {"name": "1-b.jpg", "labels": []},
    ]
    with pytest.raises(RequestError) as error:
        named.open_named("bdd100k/boxes", bdd(tmp_path, labels))
    text = str(error.value)
    assert "1-a.jpg: labels[0]: unknown class 'bus!'" in text
    assert "no such image: 'images/100k/train/1-x.jpg'" in text
    assert "1-b.jpg: is listed twice" in text


@pytest.mark.parametrize(("name", "described"), named.DETECTION.items())
def test_the_releases_numbers_are_no_warning(name, described):
    counts = {split: n for split, n in described.images.items() if "+" not in split}
    if "train+unlabeled" in described.images:
        counts |= {"train": 69_863, "unlabeled": 137}
    assert named.differences(described, counts) == ""
    assert name in named.NAMES


@pytest.mark.services
def test_aerial_photographs_with_boxes_are_read_as_voc(forest, tmp_path):
    source = open_source(str(forest), boxes=True)
    manifest, found = sharded(source, tmp_path)
    assert manifest.classes == CLASSES
    assert {name: split.images for name, split in manifest.splits.items()} == {
        split: len(images) for split, images in SETS.items()
    }
    for images in SETS.values():
        for name, count in images.items():
            boxes = found[f"JPEGImages_{name}"]
            assert len(boxes) == count
            assert boxes.corners.min() >= 0
