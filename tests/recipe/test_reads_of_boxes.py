"""Which datasets of boxes feed which stages: a fault names the other kind of labels."""

from typing import ClassVar, Literal

import pytest

from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.feeding import faults_of
from hpt_dist.recipe.kinds.knn import Knn
from hpt_dist.recipe.kinds.pretrain import Pretrain
from hpt_dist.recipe.kinds.stage import Read, StageSpec

SPLITS = ("train", "val", "test")
BACKBONE = "timm/resnet18"


class _Detecting(StageSpec):
    VERSION: ClassVar[int] = 1
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["detecting"]
    data: str

    def reads(self) -> list[Read]:
        return [Read("data", f"{self.data}/train", labelled=True, boxes=True)]


def facts(label: str) -> Facts:
    images = dict.fromkeys(SPLITS, 20)
    # An image without an object is labelled, too, and adds to no class.
    counts = dict.fromkeys(SPLITS, (7, 9))
    return Facts({"cars": DatasetFacts("cars", "", "d", 2, images, counts, label)}, {})


DETECTING = _Detecting(kind="detecting", data="cars")
KNN = Knn(kind="knn", init="base", data="cars")
PRETRAIN = Pretrain(kind="pretrain", init="base", data=["cars/train"], batch=4)


def words(spec: StageSpec, label: str) -> list[str]:
    return [one.what for one in faults_of(spec, facts(label), BACKBONE)]


def test_boxes_feed_what_detects_and_what_needs_no_labels():
    assert words(DETECTING, "boxes") == []
    assert words(PRETRAIN, "boxes") == []


def test_boxes_are_no_classes_of_images():
    assert set(words(KNN, "boxes")) == {"the labels of cars are boxes; knn needs classes"}


@pytest.mark.parametrize("label", ["single", "multi"])
def test_what_detects_needs_boxes(label):
    assert words(DETECTING, label) == ["cars has labels without boxes; detecting needs boxes"]
    assert words(DETECTING, "none") == ["cars has no labels, which detecting needs here"]
