"""Weights that a library does not have, or that are of another network, are refused by the plan."""

import pytest
from small import hpt

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.launch import imports
from hpt_dist.recipe import catalogue
from hpt_dist.store import open_store
from hpt_dist.weights import match, public
from hpt_dist.weights.source import PACKAGES, WeightsSource, parse

RECIPE = """\
name: weights
store: ${{HPT_STORE}}
backbone: {backbone}
stages:
"""


def planned(tmp_path, backbone, *sources, code=2):
    stages = [f"  s{n}: {{kind: import, weights: {one}}}\n" for n, one in enumerate(sources)]
    recipe = tmp_path / "weights.yaml"
    recipe.write_text(RECIPE.format(backbone=backbone) + "".join(stages))
    (tmp_path / "store").mkdir(exist_ok=True)
    return hpt("plan", str(recipe), store=str(tmp_path / "store"), code=code)


def test_names_of_weights_are_checked_all_at_once(tmp_path):
    printed = planned(
        tmp_path,
        "resnet50",
        "torchvision/resnet50/imagenet1k_v9",
        "torchvision/resnet5O/IMAGENET1K_V1",
        "timm/resnet50.a1_in2k",
        "timm/coatnet_5_224",
        "package/efficientnet-lite1",
    )
    assert "5 problems" in printed
    for number, says in enumerate(
        (
            "did you mean IMAGENET1K_V2?",
            "did you mean torchvision/resnet50?",
            "no weights of the tag a1_in2k",
            "timm has no public weights of coatnet_5_224",
            "did you mean efficientnet-lite0?",
        )
    ):
        assert f"weights.yaml:{number + 5} stages.s{number}.weights: " in printed
        assert says in printed


def test_weights_of_another_network_are_refused_before_they_are_downloaded(tmp_path):
    printed = planned(
        tmp_path,
        "resnet50",
        "package/efficientnet-lite0",
        "torchvision/resnet18/IMAGENET1K_V1",
        "timm/vit_tiny_patch16_224",
        "timm/resnet50",
        "torchvision/resnet50/IMAGENET1K_V2",
        "random",
    )
    assert "3 problems" in printed
    for source in ("package/efficientnet-lite0", "torchvision/resnet18", "timm/vit_tiny"):
        assert f"weights: {source}" in printed
    assert printed.count("these weights do not fit torchvision/resnet50") == 3


def test_what_only_needs_resampling_fits():
    match.foresee(None, "timm/vit_tiny_patch16_384", "timm/vit_tiny_patch16_224")
    match.foresee(None, "torchvision/resnet18/IMAGENET1K_V1", "timm/resnet18")
    with pytest.raises(WeightsError, match="do not fit timm/vit_tiny_patch16_224"):
        match.foresee(None, "timm/vit_small_patch16_224", "timm/vit_tiny_patch16_224")


def test_what_another_version_may_have_is_asked_of_the_library(tmp_path, monkeypatch):
    versions = {**catalogue.load().versions, "timm": "0.1"}
    known = catalogue.Catalogue(versions, catalogue.load().networks, {})
    monkeypatch.setattr(catalogue, "load", lambda: known)
    store = open_store(str(tmp_path))
    for source, backbone, says in [
        ("random", "timm/of_tomorrow", "no backbone 'of_tomorrow' in timm"),
        ("random", "of_tomorrow", "no backbone 'of_tomorrow' in torchvision or timm"),
        ("timm/resnet18.of_tomorrow", "timm/resnet18", "no backbone 'resnet18.of_tomorrow'"),
    ]:
        public.check(parse(source))
        question = imports._question(source, backbone, store, forced=False)
        assert says in imports._answer(question, None).what
    assert imports._question("random", "resnet18", store, forced=False) is None
    assert imports._question("timm/resnet18", "resnet34", store, forced=True) is None


@pytest.mark.parametrize(
    ("source", "backbone", "fits"),
    [
        ("torchvision/resnet50/IMAGENET1K_V1", "timm/resnet50", True),
        ("timm/resnet50.a1_in1k", "resnet50", True),
        ("timm/deit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k", True),
        ("package/efficientnet-lite0", "tf_efficientnet_lite0", True),
        ("package/efficientnet-lite0", "efficientnet_b0", False),
        ("timm/resnet50", "timm/resnet50d", False),
        ("timm/of_tomorrow", "timm/of_tomorrow", False),
        ("weights.pt", "resnet50", False),
        ("random", "resnet50", False),
    ],
)
def test_equal_names_and_shapes_need_no_question(source, backbone, fits):
    assert public.surely_fit(parse(source), backbone) == fits


def test_packages_name_their_network():
    for name, package in PACKAGES.items():
        assert package.network in catalogue.load().networks, name
    public.check(WeightsSource("file", "weights.pt"))
    with pytest.raises(RequestError, match="no public weights"):
        public.check(parse("timm/coatnet_5_224"))
