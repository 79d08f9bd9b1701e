"""The lists of MME: splits that share no image, and those that were published, which do."""

import pytest
from mme_lists import CLASSES, write_lists
from small import hpt

from hpt_dist.errors import RequestError
from hpt_dist.sources import named, open_source


@pytest.fixture
def root(tmp_path):
    return write_lists(tmp_path / "domainnet")


def numbers(source):
    found = {}
    for one in source.samples():
        number = int(one.origin.rpartition("_")[2].removesuffix(".png"))
        found.setdefault(one.split, set()).add((one.label, number))
    return found


def test_no_image_is_in_two_splits_and_those_left_out_are_counted(root):
    source = open_source("domainnet-126/sketch-1", root)
    every = range(len(CLASSES))
    assert source.classes == list(CLASSES)
    assert numbers(source) == {
        "train": {(c, 0) for c in every},
        "val": {(c, n) for c in every for n in (1, 2, 3)},
        "test": {(c, n) for c in every for n in (4, 5)},
    }
    assert source.notes == (
        "1 image of validation_target_images_sketch_3.txt: in train, and not in val",
        "6 images of unlabeled_target_images_sketch_1.txt: in val, and not in test",
    )
    assert all(note in source.rule for note in source.notes)


def test_what_was_published_keeps_its_overlap_in_a_split_of_its_own_name(root):
    source = open_source("domainnet-126/sketch-1-published", root)
    found = numbers(source)
    assert found.keys() == {"train", "val", "published"}
    assert (len(found["val"]), len(found["published"])) == (10, 12)
    assert len(found["val"] & found["published"]) == 6
    assert source.notes == ("6 of 10 images of val are in published, too",)
    keys = [one.key for one in source.samples()]
    assert len(set(keys)) == len(keys) == 3 + 10 + 12


def test_a_source_domain_is_train_alone(root, tmp_path):
    assert {one.split for one in open_source("domainnet-126/real", root).samples()} == {"train"}
    destination = f"{tmp_path}/store/datasets/domainnet-126/real"
    printed = hpt("shard", "domainnet-126/real", destination, "--root", str(root), store="")
    assert "train has 6 images, not 70,358" in printed


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("sketch/ant/sketch_2_000001.png 1", "class 1 is alarm_clock, not ant"),
        ("sketch/ant/sketch_2_000009.png 2", "no such image"),
        ("real/ant/x.png 2", "a line is `sketch/CLASS/IMAGE NUMBER`"),
        ("sketch/ant/sketch_2_000001.png 2", "stands in"),
    ],
)
def test_mistakes_are_named_with_their_lines(root, line, printed):
    name = root / "validation_target_images_sketch_3.txt"
    name.write_text(f"{name.read_text()}{line}\n")
    with pytest.raises(RequestError) as caught:
        open_source("domainnet-126/sketch-1", root)
    assert printed in str(caught.value)
    assert f"{name}:11" in str(caught.value)


def test_a_class_without_images_and_a_missing_list_are_refused(root):
    name = root / "labeled_source_images_real.txt"
    lines = [line for line in name.read_text().splitlines() if "alarm" not in line]
    name.write_text("\n".join(lines))
    with pytest.raises(RequestError, match="no image of the classes 1 in the lists of real"):
        open_source("domainnet-126/real", root)
    with pytest.raises(RequestError, match=r"no labeled_target_images_sketch_3\.txt"):
        open_source("domainnet-126/sketch-3", root)


def test_each_domain_has_a_name_as_source_and_as_target():
    assert len(named.ADAPTATION) == 4 + 8 + 8
    assert set(named.ADAPTATION) <= set(named.NAMES)
