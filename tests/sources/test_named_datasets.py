"""The paper's datasets, in miniatures that lie as their archives unpack them."""

from __future__ import annotations

import csv
import io
import json
import logging
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from small import hpt

from hpt_dist.datasets import shards
from hpt_dist.errors import RequestError
from hpt_dist.sources import named, open_source
from hpt_dist.sources.named import chest, domainnet, driving, holdout, natural, xview
from hpt_dist.store import open_store

ROOT = Path(__file__).parents[2]


def picture(path: Path, size=(8, 6), kind="JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    Image.new("RGB", size, (len(path.name) * 7 % 256, 90, 40)).save(data, kind)
    path.write_bytes(data.getvalue())


# Miniatures: each returns what `--root` would name.


def domain(root: Path, name="clipart", classes=(0, 1, 327), train=10, test=3) -> Path:
    for split, count in (("train", train), ("test", test)):
        lines = []
        for number in classes:
            for one in range(count):
                relative = f"{name}/{domainnet.CLASSES[number]}/{name}_{split}_{one:06}.jpg"
                picture(root / relative)
                lines.append(f"{relative} {number}\n")
        (root / f"{name}_{split}.txt").write_text("".join(lines))
    return root


def resisc45(root: Path, classes=("airplane", "beach", "wetland"), each=10) -> Path:
    for one in classes:
        for number in range(each):
            picture(root / "NWPU-RESISC45" / one / f"{one}_{number:03}.jpg")
    return root


def ucmerced(root: Path) -> Path:
    for one in ("agricultural", "tenniscourt"):
        for number in range(10):
            path = root / "UCMerced_LandUse/Images" / one / f"{one}{number:02}.tif"
            picture(path, kind="TIFF")
    (root / "UCMerced_LandUse/readme.txt").write_text("UC Merced Land Use Dataset")
    return root


CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def chexpert(root: Path, archive="CheXpert-v1.0-small", patients=40) -> Path:
    marks = ["1.0", "0.0", "-1.0", ""]
    for table, folder, numbers in (
        ("train.csv", "train", range(1, patients + 1)),
        ("valid.csv", "valid", range(64541, 64545)),
    ):
        rows = []
        for number in numbers:
            for view in range(1, 2 + number % 3):
                path = f"{folder}/patient{number:05}/study1/view{view}_frontal.jpg"
                picture(root / archive / path)
                row = dict.fromkeys(CHEXPERT_HEADER.split(","), "")
                row |= {"Path": f"{archive}/{path}", "Edema": marks[number % 4]}
                row |= {"Pleural Effusion": "1.0", "Atelectasis": "-1.0", "Fracture": "1.0"}
                rows.append(row)
        with (root / archive / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, CHEXPERT_HEADER.split(","))
            writer.writeheader()
            writer.writerows(rows)
    return root


def kids(root: Path) -> Path:
    """Both ways in which releases name their files."""
    for number in range(10):
        train = root / "chest_xray/train"
        picture(train / f"NORMAL/IM-{number:04}-0001.jpeg")
        picture(train / f"NORMAL/IM-{number:04}-0002.jpeg")
        picture(train / f"PNEUMONIA/person{number}_bacteria_{2 * number}.jpeg")
        picture(train / f"PNEUMONIA/person{number}_bacteria_{2 * number + 1}.jpeg")
        picture(train / f"PNEUMONIA/VIRUS-{10_000 + number}-0001.jpeg")
    picture(root / "chest_xray/val/NORMAL/NORMAL2-IM-1427-0001.jpeg")
    picture(root / "chest_xray/test/NORMAL/NORMAL-1049278-0001.jpeg")
    picture(root / "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg")
    (root / "chest_xray/train/NORMAL/.DS_Store").write_bytes(b"")
    return root


def bdd(root: Path, labels="labels/bdd100k_labels_images_{}.json") -> Path:
    weathers = [*driving.WEATHER, "undefined"]
    for split, rides in (("train", 28), ("val", 5)):
        frames = []
        for number in range(rides * 2):
            name = f"{number // 2:08x}-{number:08x}.jpg"
            picture(root / "bdd100k/images/100k" / split / name)
            attributes = {"weather": weathers[number // 2 % 7], "scene": "highway"}
            boxes = [{"category": "car", "box2d": {"x1": 1.5}}]
            frames.append({"name": name, "attributes": attributes, "labels": boxes})
        if split == "train":
            frames.pop(0)  # as 137 images of the release of 2018
        file = root / "bdd100k" / labels.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(frames))
    return root


def coco2014(root: Path) -> Path:
    for split, count in (("train2014", 6), ("val2014", 10)):
        images = []
        for number in range(count):
            name = f"COCO_{split}_{number:012}.jpg"
            picture(root / split / name)
            images.append({"id": number, "file_name": name, "width": 8, "height": 6})
        contents = {
            "images": images,
            "annotations": [{"id": 1, "image_id": 0, "category_id": 90, "bbox": [1, 1, 3, 2]}],
            "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
        }
        file = root / f"annotations/instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(contents))
    return root


def voc(root: Path) -> Path:
    sets = [("VOC2007", "trainval", 12), ("VOC2007", "test", 4), ("VOC2012", "trainval", 8)]
    for year, image_set, count in sets:
        folder = root / "VOCdevkit" / year
        names = [f"{image_set}{number:06}" for number in range(count)]
        for name in names:
            picture(folder / f"JPEGImages/{name}.jpg")
            xml = folder / f"Annotations/{name}.xml"
            xml.parent.mkdir(exist_ok=True)
            xml.write_text(
                "<annotation><size><width>8</width><height>6</height><depth>3</depth></size>"
                "<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin>"
                "<ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"
            )
        main = folder / f"ImageSets/Main/{image_set}.txt"
        main.parent.mkdir(parents=True, exist_ok=True)
        main.write_text("\n".join(names) + "\n")
    return root


def flowers(root: Path, **sets) -> Path:
    sets = {"trnid": [3, 1], "valid": [2, 4], "tstid": [6, 5]} | sets
    for number in range(1, 7):
        picture(root / f"jpg/image_{number:05}.jpg")
    labels = np.array([[77, 1, 102, 2, 3, 3]], np.uint8)
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(root / "setid.mat", {name: np.array([one]) for name, one in sets.items()})
    return root


def viper(root: Path) -> Path:
    for split, sequences in (("train", 10), ("val", 2)):
        for sequence in range(1, sequences + 1):
            for number in range(1, 32 + sequence % 2 * 10):
                frame = f"{sequence:03}/{sequence:03}_{number:05}"
                picture(root / split / "img" / f"{frame}.jpg")
                label_map = np.zeros((6, 8), np.uint8)
                label_map[0] = 2  # sky
                label_map[1, 0] = 27 if number == 10 else 31  # truck, or boat, which is no class
                path = root / split / "cls" / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(label_map).save(path)
    return root


def box(image, kind, *bounds) -> dict:
    properties = {"image_id": image, "type_id": kind, "bounds_imcoords": ",".join(map(str, bounds))}
    geometry = {"type": "Polygon", "coordinates": [[[-90.5, 15.25]]]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def xview_images(root: Path, images=17, more=()) -> Path:
    features = [box("1395.tif", 73, 1, 1, 5, 5), *more]
    for number in range(images):
        name = f"{100 + number}.tif"
        pixels = np.zeros((1100, 1060, 3), np.uint8)
        pixels[:512, 512:1024] = 200  # tile 1,0
        path = root / "train_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compression="tiff_lzw")
        features += [
            box(name, 73, 505, 10, 521, 20),  # centre at 513: in tile 1,0
            box(name, 18, 505, 10, 517, 20),  # centre at 511: in tile 0,0
            box(name, 18, 600, 10, 610, 20),
            box(name, 75, 10, 600, 20, 610),
            box(name, 11, 10, 1090, 20, 1099),  # below the tiles
        ]
    (root / "train_images/._100.tif").write_bytes(b"")
    labels = {"type": "FeatureCollection", "features": features}
    (root / "xView_train.geojson").write_text(json.dumps(labels))
    return root


MINIATURES = {
    **{f"domainnet/{one}": lambda root, one=one: domain(root, one) for one in domainnet.DOMAINS},
    "resisc45": resisc45,
    "ucmerced": ucmerced,
    "chexpert": chexpert,
    "chest-xray-kids": kids,
    "bdd100k/weather": bdd,
    "coco2014": coco2014,
    "pascal-voc": voc,
    "flowers102": flowers,
    "viper": viper,
    "xview": xview_images,
}


def counts(source) -> dict[str, int]:
    return dict(Counter(one.split for one in source.samples()))


def labels(source) -> dict[str, object]:
    """Return class names by origin."""

    def names(label):
        if label is None:
            return None
        ids = label if isinstance(label, tuple) else (label,)
        return tuple(source.classes[i] for i in ids)

    return {one.origin: names(one.label) for one in source.samples()}


def splits(source, group=lambda origin: origin) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in source.samples():
        found.setdefault(one.split, set()).add(group(one.origin))
    return found


def disjoint(sets) -> bool:
    return len(set().union(*sets)) == sum(map(len, sets))


# All of them


def test_every_miniature_is_a_name_and_every_name_has_one():
    assert set(MINIATURES) == set(named.DATASETS)


@pytest.mark.parametrize("name", named.DATASETS)
def test_a_dataset_is_read_alike_each_time(tmp_path, name):
    root = MINIATURES[name](tmp_path)
    source, again = open_source(name, root), open_source(name, root)
    facts = [(one.key, one.split, one.label, one.version) for one in source.samples()]
    assert facts == [(one.key, one.split, one.label, one.version) for one in again.samples()]
    assert disjoint([{key} for key, *_ in facts])
    assert {"train", "val", "test"} <= {split for _, split, *_ in facts}
    multi = name in {"chexpert", "coco2014", "pascal-voc", "viper", "xview"}
    assert (source.label, source.metric) == (("multi", "auroc") if multi else ("single", "top1"))
    described = named.DATASETS[name]
    assert (source.name, source.licence, source.credit) == (
        name,
        described.licence,
        described.credit,
    )
    first = pickle.loads(pickle.dumps(next(iter(source.samples()))))
    with Image.open(io.BytesIO(first.read())) as image:
        image.load()


@pytest.mark.parametrize("name", named.DATASETS)
def test_another_folder_is_refused_with_what_is_in_it(tmp_path, name):
    (tmp_path / "holidays").mkdir()
    with pytest.raises(RequestError) as caught:
        open_source(name, tmp_path)
    problem = caught.value.problem
    assert problem.where == "--root"
    assert "holds holidays" in problem.what
    assert problem.allowed.startswith("a folder with ")


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RequestError, match="there is no such folder"):
        open_source("flowers102", tmp_path / "no")


def test_a_name_without_a_root_says_where_to_download(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"download it from https://cocodataset\.org"):
        open_source("coco2014")


def test_a_users_folder_goes_before_a_name_without_a_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "xview/boats/a.jpg")
    picture(tmp_path / "xview/cars/a.jpg")
    assert open_source("xview").classes == ["boats", "cars"]


def test_a_misspelt_name_is_corrected(tmp_path):
    with pytest.raises(RequestError, match=r"did you mean domainnet/clipart\?"):
        open_source("domainnet/clippart", tmp_path)
    with pytest.raises(RequestError, match=r"did you mean chexpert\?"):
        open_source("chexprt")


def test_other_numbers_of_images_are_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        open_source("domainnet/sketch", domain(tmp_path, "sketch"))
    [record] = caplog.records
    assert "train has 24 images, not 39,292" in record.getMessage()
    assert "val has 6 images, not 9,823; test has 9 images, not 21,271" in record.getMessage()
    assert "the site's cleaned lists hold 69,128 images" in record.getMessage()


@pytest.mark.parametrize(("name", "described"), named.DATASETS.items())
def test_the_papers_numbers_are_no_warning(name, described):
    whole = {splits: count for splits, count in described.images.items() if "+" not in splits}
    for joined, total in described.images.items():
        rest = [one for one in joined.split("+") if one not in whole]
        known = sum(whole.get(one, 0) for one in joined.split("+"))
        whole |= dict.fromkeys(rest, 0) | ({rest[0]: total - known} if rest else {})
    assert named.differences(described, whole) == ""
    if described.images:
        assert named.differences(described, {}) != ""


def test_a_split_without_images_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no images for val of domainnet/real"):
        open_source("domainnet/real", domain(tmp_path, "real", classes=[0], train=1))


def test_the_command_shards_a_named_dataset(tmp_path):
    """The warning goes to standard error, and the manifest has licence, credit and rule."""
    root = domain(tmp_path / "data")
    destination = tmp_path / "store/datasets/domainnet/clipart"
    arguments = ("shard", "domainnet/clipart", str(destination), "--root", str(root))
    printed = hpt(*arguments, "--workers", "1", store="")
    assert "domainnet/clipart: 39 images" in printed
    assert re.search(r"domainnet/clipart in .*: train has 24 images, not 27,215", printed)
    store = open_store(str(tmp_path / "store"))
    manifest = shards.read_manifest(store, "domainnet/clipart")
    assert shards.verify(store, "domainnet/clipart") == []
    assert {name: split.images for name, split in manifest.splits.items()} == {
        "train": 24,
        "val": 6,
        "test": 9,
    }
    assert len(manifest.classes) == 345
    assert manifest.source.rule.startswith("the site's lists clipart_train.txt")
    assert "Peng" in manifest.source.credit


@pytest.mark.parametrize("name", ["ucmerced", "xview", "chexpert"])
def test_named_datasets_become_shards(tmp_path, name):
    """TIFFs, tiles that workers cut, and several labels."""
    source = open_source(name, MINIATURES[name](tmp_path / "data"))
    store = open_store(str(tmp_path / "store"))
    manifest = shards.write_dataset(source, store, name, workers=2)
    written = {split: one.images for split, one in manifest.splits.items()}
    assert written == counts(source)
    assert manifest.classes == tuple(source.classes)
    assert shards.verify(store, name) == []


# The rule of splits

GROUPS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=60)


@given(GROUPS, st.floats(0, 1))
def test_groups_are_chosen_whole_in_any_order_and_never_too_many(pairs, share):
    groups = [f"{group}" for group, _ in pairs]
    strata = [group % 3 for group, _ in pairs]
    count = int(share * len(pairs))
    chosen = holdout.pick(groups, strata, count)
    assert sum(one in chosen for one in groups) <= count
    assert holdout.pick(groups, [None] * len(pairs), len(pairs)) == set(groups)


@given(st.lists(st.integers(1, 9), min_size=1), st.data())
def test_single_images_meet_the_count_and_the_shares(sizes, data):
    count = data.draw(st.integers(0, sum(sizes)))
    parts = holdout.shares(sizes, count)
    assert sum(parts) == count
    exact = [size * count / sum(sizes) for size in sizes]
    assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))
    groups = [f"{i}-{j}" for i, size in enumerate(sizes) for j in range(size)]
    strata = [i for i, size in enumerate(sizes) for _ in range(size)]
    chosen = holdout.pick(groups, strata, count)
    by_stratum = Counter(int(one.partition("-")[0]) for one in chosen)
    assert [by_stratum[i] for i in range(len(sizes))] == parts


def test_patients_fill_the_count_to_the_last_image():
    """The shape of CheXpert: 223,414 images, a few of each patient."""
    groups = [f"patient{i:05}" for i in range(30_000) for _ in range(1 + i % 7)]
    count = holdout.percent(20, len(groups))
    chosen = holdout.pick(groups, [None] * len(groups), count)
    assert sum(one in chosen for one in groups) == count


@pytest.mark.parametrize(
    ("images", "val"),
    [(34_019, 6_804), (52_867, 10_573), (223_414, 44_683), (5_232, 1_046), (16_551, 3_310)],
)
def test_a_fifth_is_what_table_5_says(images, val):
    assert holdout.percent(20, images) == val


# DomainNet


def test_domainnet_has_its_lists_and_a_val_of_each_class(tmp_path):
    source = open_source("domainnet/clipart", domain(tmp_path))
    assert counts(source) == {"train": 24, "val": 6, "test": 9}
    of_val = Counter(one.label for one in source.samples() if one.split == "val")
    assert of_val == {0: 2, 1: 2, 327: 2}
    assert (source.classes[0], source.classes[327]) == ("aircraft_carrier", "t-shirt")
    assert len(set(source.classes)) == 345
    assert labels(source)["clipart/t-shirt/clipart_train_000000.jpg"] == ("t-shirt",)


def test_the_order_of_the_list_does_not_change_the_split(tmp_path):
    root = domain(tmp_path)
    before = splits(open_source("domainnet/clipart", root))
    lines = (root / "clipart_train.txt").read_text().splitlines()
    (root / "clipart_train.txt").write_text("\n".join(reversed(lines)))
    assert splits(open_source("domainnet/clipart", root)) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clipart/axe/no.jpg 11", "clipart_test.txt:10: no such image: 'clipart/axe/no.jpg'"),
        ("clipart/axe/no.jpg", "a line is `clipart/CLASS/IMAGE NUMBER`"),
        ("real/axe/no.jpg 11", "a line is `clipart/CLASS/IMAGE NUMBER`"),
        ("clipart/axe/no.jpg 345", "there is no class 345; allowed: 0 to 344"),
        ("clipart/axe/no.jpg 327", "class 327 is t-shirt, not axe"),
    ],
)
def test_faults_of_a_list_are_reported_with_the_line(tmp_path, line, message):
    root = domain(tmp_path)
    with (root / "clipart_test.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RequestError) as caught:
        open_source("domainnet/clipart", root)
    assert message in str(caught.value)
    assert "1 problem in the lists of clipart" in str(caught.value)


def test_missing_images_are_counted_and_the_first_are_named(tmp_path):
    root = domain(tmp_path)
    for path in (root / "clipart/airplane").iterdir():
        path.unlink()
    with pytest.raises(RequestError) as caught:
        open_source("domainnet/clipart", root)
    assert "13 problems in the lists of clipart" in str(caught.value)
    assert "'clipart/airplane/clipart_train_000000.jpg'" in str(caught.value)
    assert "'clipart/airplane/clipart_test_000002.jpg'" in str(caught.value)
    assert caught.value.problem.fix.startswith("unpack the whole archive again")


# Remote sensing


def test_class_folders_are_split_by_class(tmp_path):
    source = open_source("resisc45", resisc45(tmp_path))
    assert source.classes == ["airplane", "beach", "wetland"]
    by_class = Counter((one.split, one.label) for one in source.samples())
    expected = {"train": 6, "val": 2, "test": 2}
    assert by_class == {(s, label): n for s, n in expected.items() for label in range(3)}
    inside = open_source("resisc45", tmp_path / "NWPU-RESISC45")
    assert splits(inside) == splits(source)


@pytest.mark.parametrize("prefix", ["", "resisc45-"])
def test_lists_beside_the_classes_decide_the_split(tmp_path, prefix):
    root = resisc45(tmp_path)
    names = [path.name for path in sorted((root / "NWPU-RESISC45").rglob("*.jpg"))]
    parts = {"train": names[:5], "val": names[5:9], "test": names[9:]}
    for split, part in parts.items():
        (root / f"{prefix}{split}.txt").write_text("\n".join(part))
    source = open_source("resisc45", root)
    assert splits(source, lambda origin: origin.rpartition("/")[2]) == {
        split: set(part) for split, part in parts.items()
    }
    (root / f"{prefix}test.txt").write_text("\n".join([*names[10:], names[0], "no.jpg"]))
    with pytest.raises(RequestError) as caught:
        open_source("resisc45", root)
    assert "no such image: 'no.jpg'" in str(caught.value)
    assert f"'{names[0]}' is listed twice" in str(caught.value)
    assert f"airplane/{names[9]}: in none of the lists" in str(caught.value)
    (root / f"{prefix}val.txt").unlink()
    with pytest.raises(RequestError, match=f"there are lists of splits, but no {prefix}val.txt"):
        open_source("resisc45", root)


def test_ucmerced_reads_the_folder_images(tmp_path):
    source = open_source("ucmerced", ucmerced(tmp_path))
    assert source.classes == ["agricultural", "tenniscourt"]
    assert counts(source) == {"train": 12, "val": 4, "test": 4}


# Chest X-rays


def test_chexpert_keeps_patients_together_and_takes_uncertain_as_absent(tmp_path):
    source = open_source("chexpert", chexpert(tmp_path))
    assert source.classes == list(chest.CHEXPERT_CLASSES)
    train = sum(1 + number % 3 for number in range(1, 41))
    assert counts(source)["val"] == holdout.percent(20, train)
    assert counts(source)["test"] == sum(1 + number % 3 for number in range(64541, 64545))
    assert disjoint(splits(source, lambda origin: origin.split("/")[1]).values())
    found = labels(source)
    of_first = {
        number: found[f"train/patient{number:05}/study1/view1_frontal.jpg"]
        for number in range(1, 5)
    }
    assert of_first == {
        1: ("Pleural Effusion",),  # 0.0
        2: ("Pleural Effusion",),  # -1.0
        3: ("Pleural Effusion",),  # blank
        4: ("Edema", "Pleural Effusion"),
    }


def test_both_sizes_of_chexpert_have_the_same_split(tmp_path):
    small = open_source("chexpert", chexpert(tmp_path / "small"))
    large = open_source("chexpert", chexpert(tmp_path / "large", "CheXpert-v1.0") / "CheXpert-v1.0")
    assert splits(small) == splits(large)


def test_faults_of_chexperts_tables(tmp_path):
    table = chexpert(tmp_path) / "CheXpert-v1.0-small/train.csv"
    text = table.read_text()
    table.write_text(text.replace("patient00003/study1/view1", "patient00003/study9/view1"))
    with pytest.raises(RequestError, match=r"train.csv:7: no such image: 'train/patient00003/stu"):
        open_source("chexpert", tmp_path)
    table.write_text(text.replace(",1.0,", ",yes,", 1))
    with pytest.raises(RequestError, match=r"train.csv:2: a label is 'yes', not 1.0, 0.0"):
        open_source("chexpert", tmp_path)
    table.write_text(text.replace("CheXpert-v1.0-small/train/patient00001/study1/", "", 1))
    with pytest.raises(RequestError, match=r"'view1_frontal.jpg' is not ARCHIVE/FOLDER/PATIENT"):
        open_source("chexpert", tmp_path)
    table.write_bytes(text.encode("utf-16"))
    with pytest.raises(RequestError, match=r"train.csv: not UTF-8"):
        open_source("chexpert", tmp_path)
    table.write_text(text.replace("Edema", "Oedema", 1))
    with pytest.raises(RequestError, match=r"train.csv:1: no column Edema"):
        open_source("chexpert", tmp_path)


def test_kids_have_three_classes_and_patients_stay_together(tmp_path):
    source = open_source("chest-xray-kids", kids(tmp_path))
    assert source.classes == ["normal", "bacteria", "virus"]
    assert counts(source) == {"train": 41, "val": 10, "test": 2}
    of_val = Counter(one.label for one in source.samples() if one.split == "val")
    assert of_val == {0: 4, 1: 4, 2: 2}
    patients = splits(source, lambda origin: re.sub(r"_.*|-000\d.jpeg", "", origin))
    assert disjoint([patients["train"], patients["val"]])
    assert labels(source)["test/PNEUMONIA/person1_virus_6.jpeg"] == ("virus",)


def test_pneumonia_of_no_kind_is_refused(tmp_path):
    picture(kids(tmp_path) / "chest_xray/test/PNEUMONIA/person2.jpeg")
    with pytest.raises(RequestError, match="neither bacteria nor virus is in its name"):
        open_source("chest-xray-kids", tmp_path)


# Driving


@pytest.mark.parametrize(
    "files", ["labels/bdd100k_labels_images_{}.json", "labels/det_20/det_{}.json"]
)
def test_bdd_keeps_rides_together_and_unknown_weather_out(tmp_path, files):
    source = open_source("bdd100k/weather", bdd(tmp_path, files))
    assert source.classes == list(driving.WEATHER)
    # Of 56 and 10: every seventh ride is undefined, and one image has no label at all.
    assert counts(source) == {"train": 39, "val": 8, "unlabeled": 9, "test": 10}
    of = splits(source, lambda origin: origin.rpartition("/")[2].partition("-")[0])
    assert disjoint([of["train"], of["val"]])
    found = labels(source)
    assert found["images/100k/val/00000001-00000002.jpg"] == ("foggy",)
    assert found["images/100k/train/00000006-0000000c.jpg"] is None


def test_faults_of_bdds_labels(tmp_path):
    file = bdd(tmp_path) / "bdd100k/labels/bdd100k_labels_images_val.json"
    text = file.read_text()
    file.write_text(text.replace("foggy", "fogy", 1))
    with pytest.raises(RequestError, match=r"unknown weather 'fogy'; did you mean foggy\?"):
        open_source("bdd100k/weather", tmp_path)
    file.write_text(text.replace("00000001-00000002.jpg", "no.jpg"))
    with pytest.raises(RequestError, match=r"no such image: 'images/100k/val/no\.jpg'"):
        open_source("bdd100k/weather", tmp_path)
    file.write_text(text.replace('"name"', '"nome"', 1))
    with pytest.raises(RequestError, match=r"_val.json: 0.name Field required"):
        open_source("bdd100k/weather", tmp_path)
    file.unlink()
    with pytest.raises(RequestError, match="no labels of val") as caught:
        open_source("bdd100k/weather", tmp_path)
    assert "labels/det_20/det_val.json or" in caught.value.problem.allowed


def test_viper_reads_classes_from_label_maps_and_keeps_sequences_together(tmp_path):
    source = open_source("viper", viper(tmp_path))
    assert len(source.classes) == 23
    assert (source.classes[0], source.classes[-1]) == ("sky", "truck")
    found = labels(source)
    assert all(origin.endswith("0.jpg") for origin in found)
    assert found["train/img/001/001_00010.jpg"] == ("sky", "truck")
    assert found["train/img/001/001_00020.jpg"] == ("sky",)
    assert counts(source) == {"train": 28, "val": 7, "test": 7}
    assert disjoint(splits(source, lambda origin: tuple(origin.split("/")[::2])).values())


def test_faults_of_vipers_label_maps(tmp_path):
    maps = viper(tmp_path) / "val/cls/001"
    (maps / "001_00010.png").unlink()
    picture(maps / "001_00020.png", kind="PNG")
    (maps / "001_00030.png").write_bytes((maps / "001_00020.png").read_bytes()[:40])
    with pytest.raises(RequestError) as caught:
        open_source("viper", tmp_path)
    printed = str(caught.value)
    assert "3 problems in the label maps of VIPER" in printed
    assert "001_00010.png: no label map that can be read" in printed
    assert "001_00020.png: a label map has one channel of 8 bits, not RGB" in printed


# Photographs


def test_coco_has_two_halves_of_val2014(tmp_path):
    source = open_source("coco2014", coco2014(tmp_path))
    assert source.classes == ["person", "toothbrush"]
    assert counts(source) == {"train": 6, "val": 5, "test": 5}
    assert labels(source)["train2014/COCO_train2014_000000000000.jpg"] == ("toothbrush",)


def test_voc_is_both_years_and_the_test_of_2007(tmp_path):
    source = open_source("pascal-voc", voc(tmp_path))
    assert source.classes == sorted(natural.VOC_CLASSES)
    assert len(source.classes) == 20
    assert counts(source) == {"train": 16, "val": 4, "test": 4}
    assert all(origin.startswith("VOC2007/") for origin in splits(source)["test"])


def test_flowers_have_their_official_sets(tmp_path):
    source = open_source("flowers102", flowers(tmp_path))
    assert len(source.classes) == len(set(source.classes)) == 102
    assert (source.classes[0], source.classes[101]) == ("pink primrose", "blackberry lily")
    assert {one.origin: (one.split, one.label) for one in source.samples()} == {
        "jpg/image_00001.jpg": ("train", 76),
        "jpg/image_00003.jpg": ("train", 101),
        "jpg/image_00002.jpg": ("val", 0),
        "jpg/image_00004.jpg": ("val", 1),
        "jpg/image_00005.jpg": ("test", 2),
        "jpg/image_00006.jpg": ("test", 2),
    }


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"trnid": [7]}, "no label of image 7"),
        ({"tstid": [5, 1]}, "image 1 is in two sets"),
    ],
)
def test_faults_of_the_sets_of_flowers(tmp_path, sets, message):
    with pytest.raises(RequestError, match=message):
        open_source("flowers102", flowers(tmp_path, **sets))


def test_damaged_matlab_files_are_reported(tmp_path):
    file = flowers(tmp_path) / "setid.mat"
    savemat(file, {"trnid": np.array([1])})
    with pytest.raises(RequestError, match=r"setid.mat: no valid, tstid"):
        open_source("flowers102", tmp_path)
    for damaged in (b"", b"not MATLAB at all" * 20):
        file.write_bytes(damaged)
        with pytest.raises(RequestError, match="no MATLAB file that can be read"):
            open_source("flowers102", tmp_path)


# xView


def test_xview_cuts_tiles_that_are_labelled_by_the_centres_of_boxes(tmp_path):
    source = open_source("xview", xview_images(tmp_path))
    assert len(source.classes) == 60
    found = labels(source)
    assert found["train_images/100.tif: tile 0,0"] == ("Small Car",)
    assert found["train_images/100.tif: tile 1,0"] == ("Small Car", "Building")
    assert found["train_images/100.tif: tile 0,1"] == ()
    assert len(found) == 17 * 4  # 1060 x 1100 pixels
    assert disjoint(splits(source, lambda origin: origin.partition(":")[0]).values())
    samples = {one.origin: one for one in source.samples()}
    with Image.open(io.BytesIO(samples["train_images/100.tif: tile 1,0"].read())) as tile:
        assert tile.size == (xview.TILE_PX, xview.TILE_PX)
        assert tile.getextrema() == ((200, 200),) * 3


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (box("7.tif", 73, 1, 1, 5, 5), "no such image: 'train_images/7.tif'"),
        (box("100.tif", 1, 1, 1, 5, 5), "feature 1: unknown type_id 1"),
        (box("100.tif", 73, 1, 1, 5), "feature 1: bounds_imcoords is '1,1,5', not four numbers"),
        ({"properties": {"image_id": "a.tif"}}, "features.1.properties.type_id Field required"),
    ],
)
def test_faults_of_xviews_labels(tmp_path, feature, message):
    with pytest.raises(RequestError) as caught:
        open_source("xview", xview_images(tmp_path, images=1, more=[feature]))
    assert message in str(caught.value)


def test_a_damaged_satellite_image_is_reported(tmp_path):
    (xview_images(tmp_path) / "train_images/103.tif").write_bytes(b"II*")
    with pytest.raises(RequestError, match=r"103.tif: no image that can be read"):
        open_source("xview", tmp_path)


# The page


def test_the_page_names_every_dataset():
    page = (ROOT / "docs/datasets.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(named.NAMES) - set(named.ADAPTATION)  # of a few, as examples
    assert {one for one in named.ADAPTATION if f"`{one}`" in page} == {
        f"domainnet-126/{one}"
        for one in ("real", "sketch-1", "sketch-3", "sketch-1-published", "sketch-3-published")
    }
    for name, described in named.DATASETS.items():
        for splits, count in described.images.items():
            if "+" not in splits:
                assert f"{count:,}" in rows[name], name
        assert described.home in page
        assert described.licence in page
