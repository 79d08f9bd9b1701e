"""Names, sizes and weights of networks, known without importing their libraries."""

import pytest
import timm
import torch

from hpt_dist.errors import RecipeError, RequestError
from hpt_dist.networks import backbones
from hpt_dist.networks import catalogue as asked
from hpt_dist.recipe import catalogue
from hpt_dist.recipe import file as recipe_file

RECIPE = """\
name: r
datasets: {photos: photos}
backbone: timm/resnet50
image: {size: 64}
stages:
  base: {kind: import, weights: random}
  probe: {kind: knn, init: base, data: photos}
"""


def refused(text):
    with pytest.raises(RecipeError) as error:
        recipe_file.parse(text, environment={})
    return str(error.value)


@pytest.mark.parametrize("library", catalogue.LIBRARIES)
def test_the_file_names_what_the_installed_libraries_have(library):
    listed = {name for name in catalogue.load().networks if name.startswith(f"{library}/")}
    installed = {name for name in asked.names() if name.startswith(f"{library}/")}
    if catalogue.is_of_installed(library):
        assert listed == installed
    else:  # of another version: what both have is still most of it
        assert len(listed & installed) > 0.8 * len(listed)


def test_weights_and_former_names_are_those_of_the_libraries():
    known = catalogue.load()
    for name in sorted(known.networks)[::7]:
        if catalogue.is_of_installed(name.partition("/")[0]):
            assert known.networks[name].weights == asked.weights_of(name), name
    assert known.networks["timm/resnet50"].weights[0] == timm.get_pretrained_cfg("resnet50").tag
    if catalogue.is_of_installed("timm"):
        assert known.renamed == asked.renamed()
        assert all(catalogue.resolve(name) for name in known.renamed)


@pytest.mark.parametrize(
    "name",
    [
        "timm/test_vit",
        "timm/test_efficientnet",
        "timm/swin_tiny_patch4_window7_224",
        "timm/mixer_s32_224",
        "torchvision/resnet18",
        "torchvision/vit_b_16",
        "torchvision/vgg11",
    ],
)
def test_what_is_known_of_a_network_is_what_it_does(name):
    network = catalogue.load().networks[name]
    assert network == asked.described(name)
    sizes = {16, network.least - 1, network.least, network.least + max(network.step, 1), 7 * 32}
    with torch.device("meta"):
        backbone = backbones.blank(name)
        for size in sizes - set(range(16)):
            assert asked._reads(backbone, size) == network.reads(size), size


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("resnet50", "torchvision/resnet50"),
        ("timm/resnet50", "timm/resnet50"),
        ("timm/resnet50.a1_in1k", "timm/resnet50"),
        ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"),
        ("timm/vit_base_patch16_224_in21k", "timm/vit_base_patch16_224"),
    ],
)
def test_names_mean_what_they_mean_where_they_are_built(name, full):
    assert catalogue.resolve(name) == full
    assert backbones.resolve(name).partition(".")[0] in (full, name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm/resnet5O", "did you mean timm/resnet50?"),
        ("resnet5O", "did you mean resnet50?"),
        ("ResNet-50", "did you mean resnet50?"),
        ("torchvision/efficientnet-b2", "did you mean torchvision/efficientnet_b2?"),
        ("torchvision/vit_tiny_patch16_224", "no backbone vit_tiny_patch16_224 in torchvision"),
        ("torchvision/googlenet", "no backbone googlenet in torchvision"),
        ("timm/resnet50.a1_in2k", "no weights of the tag a1_in2k\n  allowed: a1_in1k, "),
        ("mypkg.models/MyNet", "allowed: torchvision, timm, plugin"),
        ("hf_hub:timm/resnet50", "no library hf_hub:timm of backbones"),
        ("", "no backbone  in torchvision or timm"),
    ],
)
def test_an_unknown_backbone_is_refused_with_what_is_near(name, says):
    text = refused(RECIPE.replace("timm/resnet50", f"'{name}'"))
    assert "recipe.yaml:3 backbone: " in text
    assert says in text
    if name and "/" not in name.partition(":")[2]:
        with pytest.raises(RequestError):
            backbones.resolve(name)


@pytest.mark.parametrize(
    ("backbone", "size", "allowed"),
    [
        ("timm/resnet50", 7, "greater than or equal to 16"),
        ("timm/resnet50", 100_000, "less than or equal to 4096"),
        ("timm/densenet121", 20, "and more\n"),
        ("timm/vit_tiny_patch16_224", 100, "16 and more, multiples of 16"),
        ("vit_b_16", 64, "allowed: 224\n"),
        ("torchvision/maxvit_t", 256, "allowed: 224\n"),
        ("timm/levit_128", 32, "allowed: 224\n"),
        ("timm/vit_small_patch14_dinov2", 224 + 16, "multiples of 14"),
    ],
)
def test_a_size_that_the_backbone_does_not_read_is_refused(backbone, size, allowed):
    text = RECIPE.replace("timm/resnet50", backbone).replace("size: 64", f"size: {size}")
    found = refused(text) + "\n"
    assert "recipe.yaml:4 image.size: " in found
    assert allowed in found
    assert "1 problem" in found


def test_the_usual_size_stands_for_none_and_an_import_needs_no_size():
    recipe_file.parse(RECIPE.replace("image: {size: 64}\n", ""), environment={})
    text = RECIPE.replace("timm/resnet50", "timm/vit_base_patch16_384").replace("{size: 64}", "{}")
    recipe_file.parse(text, environment={})
    text = RECIPE.replace("timm/resnet50", "timm/vit_base_patch16_384").replace("64", "100")
    assert "multiples of 16" in refused(text)
    recipe_file.parse(text.partition("  probe")[0], environment={})


def test_another_version_of_a_library_may_have_more(monkeypatch):
    versions = {**catalogue.load().versions, "timm": "0.1"}
    known = catalogue.Catalogue(versions, catalogue.load().networks, {})
    monkeypatch.setattr(catalogue, "load", lambda: known)
    assert catalogue.resolve("timm/of_tomorrow") == ""
    assert catalogue.resolve("of_tomorrow") == ""
    with pytest.raises(RequestError, match="in torchvision"):
        catalogue.resolve("torchvision/of_tomorrow")
    recipe_file.parse(RECIPE.replace("timm/resnet50", "timm/of_tomorrow"), environment={})
    recipe_file.parse(RECIPE.replace("resnet50", "densenet121").replace("64", "20"), environment={})
