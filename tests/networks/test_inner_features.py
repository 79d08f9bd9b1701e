"""Features from inside a backbone: its stages, and a ViT's tokens."""

import pytest
import torch

from hpt_dist.errors import RequestError
from hpt_dist.networks import backbones
from hpt_dist.networks.inner_features import features_at, flattened_at, maps_at

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def made(name):
    torch.manual_seed(0)
    return backbones.create(name).eval()


def test_pool_is_the_backbone_itself():
    backbone = made("torchvision/resnet18")
    assert features_at(backbone, "pool", 32) is backbone


@torch.no_grad()
def test_the_last_stage_of_a_resnet_is_what_it_pools():
    backbone = made("torchvision/resnet18").train()
    inner = features_at(backbone, "layer4", 32)
    assert all(module.training for module in backbone.modules())
    backbone.eval()
    torch.testing.assert_close(inner(IMAGES), backbone(IMAGES))
    third = features_at(backbone, "layer3", 32)
    assert third(IMAGES).shape == (2, 256)
    assert not torch.equal(third(IMAGES[:1]), third(IMAGES[1:]))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "part", "dim"),
    [("timm/test_convnext", "stages.2", 48), ("timm/test_vit", "blocks.1", 64)],
)
def test_parts_by_their_names(name, part, dim):
    size = 160 if "vit" in name else 32
    inner = features_at(made(name), part, size)
    assert inner(torch.randn(2, 3, size, size)).shape == (2, dim)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "part", "positions"),
    [("timm/test_convnext", "stages.2", (2, 3)), ("timm/test_vit", "blocks.1", (1,))],
)
def test_a_flattened_part_holds_what_is_averaged_over_positions(name, part, positions):
    size = 160 if "vit" in name else 64
    images, backbone = torch.randn(2, 3, size, size), made(name)
    flat, averaged = flattened_at(backbone, part, size), features_at(backbone, part, size)
    dim = averaged(images).shape[1]
    # A map holds each channel's positions, tokens hold each position's channels.
    shape = (2, dim, -1) if len(positions) == 2 else (2, -1, dim)
    found = flat(images).view(shape)
    assert found.shape[1:].numel() > dim
    torch.testing.assert_close(found.mean(dim=3 - found.shape.index(dim)), averaged(images))


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["timm/test_vit", "timm/vit_small_patch14_reg4_dinov2", "vit_b_32"]
)
def test_the_tokens_of_a_vit(name):
    backbone = made(name)
    size = {"vit_b_32": 224, "timm/test_vit": 160}.get(name, 56)
    images = torch.randn(2, 3, size, size)
    cls, mean, both = (
        features_at(backbone, one, size)(images) for one in ("cls", "mean", "cls+mean")
    )
    torch.testing.assert_close(both, torch.cat([cls, mean], dim=1))
    if name == "vit_b_32":
        torch.testing.assert_close(cls, backbone(images))  # torchvision's feature is that token
        return
    tokens = backbone.forward_features(images)
    torch.testing.assert_close(cls, tokens[:, 0])
    registers = 4 if "reg4" in name else 0
    torch.testing.assert_close(mean, tokens[:, 1 + registers :].mean(dim=1))


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("torchvision/resnet18", "layer5", "no part layer5"),
        ("torchvision/resnet18", "cls", "no tokens cls"),
        ("timm/test_resnet", "mean", "no tokens mean"),
        ("timm/test_vit2", "cls", "no tokens cls"),
    ],
)
def test_what_a_backbone_has_not_is_refused(name, where, what):
    with pytest.raises(RequestError, match=what) as refused:
        features_at(made(name), where, 160 if "vit" in name else 32)
    assert refused.value.problem.where == "features"
    assert refused.value.problem.allowed


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "part", "size", "side"),
    [
        ("torchvision/resnet18", "layer3", 64, 4),
        ("timm/test_convnext", "stages.2", 64, 4),
        ("timm/test_vit", "blocks.1", 160, 10),
    ],
)
def test_maps_hold_what_is_averaged_over_positions(name, part, size, side):
    backbone, images = made(name), torch.randn(2, 3, size, size)
    maps = maps_at(backbone, part, size)(images)
    assert maps.shape[2:] == (side, side)
    averaged = features_at(backbone, part, size)(images)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), averaged)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("torchvision/resnet18", 64, 2),
        ("torchvision/swin_t", 64, 2),
        ("timm/test_efficientnet", 64, 2),
        ("timm/test_vit", 160, 10),
        ("vit_b_32", 224, 7),
    ],
)
def test_the_last_map_is_what_the_backbone_pools(name, size, side):
    backbone, images = made(name), torch.randn(2, 3, size, size)
    maps = maps_at(backbone, "last", size)(images)
    assert maps.shape[2:] == (side, side)
    if "vit" in name:
        torch.testing.assert_close(
            maps.mean(dim=(2, 3)), features_at(backbone, "mean", size)(images)
        )
        return
    torch.testing.assert_close(maps.mean(dim=(2, 3)), backbone(images))
    # Rows are rows: what changes above changes most above.
    changed = images.clone()
    changed[:, :, : size // 8] = 0
    moved = (maps_at(backbone, "last", size)(changed) - maps).abs().mean(dim=(0, 1))
    assert moved[0].mean() > moved[-1].mean()


def test_a_part_without_positions_gives_no_map():
    with pytest.raises(RequestError, match="have no rows and columns"):
        maps_at(made("torchvision/resnet18"), "fc", 64)
