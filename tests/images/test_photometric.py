from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hpt_dist.images import photometric as augment
from hpt_dist.images import pixels
from hpt_dist.images.crops import CROP_DRAWS, random_box
from hpt_dist.images.photometric import (
    BRIGHTNESS,
    CONTRAST,
    DRAWS,
    HUE,
    SATURATION,
    Normalize,
    Parameters,
    Photometric,
    draw,
    transform,
)
from hpt_dist.reading.order import uniforms
from hpt_dist.recipe import Augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NOTHING = Augment(flip=0, jitter=0, gray=0, blur=0)
SIZE = 24


def pictures(count: int) -> torch.Tensor:
    """Noise, smooth colours, grays, black and white: uint8 [count, 3, SIZE, SIZE]."""
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 3, SIZE, SIZE), np.uint8)
    images[1::5] = np.linspace(0, 255, SIZE).astype(np.uint8) // np.array([1, 2, 3])[:, None, None]
    images[2::5] = images[2::5, :1]
    images[3::5] = 255 * (images[3::5] > 200)
    images[4::5] = rng.integers(0, 256, (len(images[4::5]), 3, 1, 1))
    return torch.from_numpy(images).contiguous(memory_format=torch.channels_last)


def draws(count: int, seed: int = 0) -> np.ndarray:
    return uniforms(seed, np.zeros(count, np.int64), np.arange(count), 0, DRAWS)


def by_torchvision(image: torch.Tensor, parameters: Parameters, row: int) -> torch.Tensor:
    """The same operations on one float image in 0..1, one after another."""
    operations = {
        BRIGHTNESS: functional.adjust_brightness,
        CONTRAST: functional.adjust_contrast,
        SATURATION: functional.adjust_saturation,
        HUE: functional.adjust_hue,
    }
    for operation in parameters.order[row]:
        image = operations[operation](image, float(parameters.factors[row, operation]))
    if parameters.gray[row]:
        image = functional.rgb_to_grayscale(image, num_output_channels=3)
    sigma = float(parameters.sigma[row]) * image.shape[-1] / 224
    if sigma > 0:
        image = functional.gaussian_blur(image, 2 * math.ceil(3 * sigma) + 1, sigma)
    if parameters.solarize[row]:
        image = functional.solarize(image, 128 / 255)
    return functional.horizontal_flip(image) if parameters.flip[row] else image


@pytest.mark.parametrize(
    "policy",
    [
        Augment(),
        Augment(jitter=1, brightness=1, contrast=1, saturation=1, hue=0.5, blur=0, gray=0),
        Augment(jitter=0, blur=1, blur_sigma=(0.1, 40)),
    ],
    ids=["moco_v2", "jitter", "blur"],
)
def test_each_image_is_what_torchvision_makes_of_it(policy):
    images = pictures(100)
    parameters = draw(policy, draws(100))
    expected = [by_torchvision(image / 255, parameters, row) for row, image in enumerate(images)]
    actual = transform(images, parameters) / 255
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-5, rtol=0)


def test_solarizing_is_torchvisions_to_the_bit_on_8_bit_images():
    images = pictures(100)
    policy = Augment(flip=0, jitter=0, gray=0, blur=0, solarize=0.5)
    parameters = draw(policy, draws(100))
    assert 0.3 < parameters.solarize.mean() < 0.7
    expected = images.clone()
    expected[parameters.solarize] = functional.solarize(images[parameters.solarize], 128)
    assert torch.equal(transform(images, parameters), expected.float())


def test_byols_second_policy_is_torchvisions_but_where_a_value_is_at_the_threshold():
    images = pictures(100)
    policy = Augment(saturation=0.2, blur=0.1, solarize=0.5)
    parameters = draw(policy, draws(100))
    expected = torch.stack(
        [by_torchvision(image / 255, parameters, row) for row, image in enumerate(images)]
    )
    apart = (transform(images, parameters) / 255 - expected).abs()
    # What differs in the last bits before may be inverted by one alone: 128 stays, or gets 127.
    assert apart.max() < 1.1 / 255
    assert (apart > 1e-5).float().mean() < 1e-3


def test_solarizing_leaves_the_views_of_other_policies_as_they_are():
    """The uniform number that chooses it is the last, and the others are those of ten draws."""
    pairs = np.arange(40), np.arange(40)[::-1].copy()
    u = uniforms(3, *pairs, 1, DRAWS, purpose="photometric")
    assert np.array_equal(u[:, :10], uniforms(3, *pairs, 1, 10, purpose="photometric"))
    changed = np.concatenate([u[:, :10], np.zeros((40, 1))], axis=1)
    images, photometric = pictures(40), Photometric(Augment(), MEAN, STD)
    assert torch.equal(photometric(images, u), photometric(images, changed))
    plain = draw(Augment(), u)
    solar = draw(Augment(solarize=1), u)
    assert solar.solarize.all()
    assert not plain.solarize.any()
    for name in ("flip", "order", "factors", "gray", "sigma"):
        assert np.array_equal(getattr(plain, name), getattr(solar, name))


def test_an_image_does_not_depend_on_its_batch():
    images, u = pictures(40), draws(40)
    photometric = Photometric(Augment(), MEAN, STD)
    alone = torch.cat([photometric(images[i : i + 1], u[i : i + 1]) for i in range(40)])
    torch.testing.assert_close(photometric(images, u), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache_bytes", [1, 3 * 3 * SIZE * SIZE * 4, 1 << 30])
def test_how_many_images_a_cpu_takes_at_a_time_changes_nothing(monkeypatch, cache_bytes):
    images, u = pictures(40), draws(40)
    expected = Photometric(Augment(), MEAN, STD)(images, u)
    monkeypatch.setattr(augment, "_CACHE_BYTES", cache_bytes)
    actual = Photometric(Augment(), MEAN, STD)(images, u)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_makes_the_same_views():
    images, u = pictures(40), draws(40)
    actual = Photometric(Augment(), MEAN, STD, "cuda")(images, u).cpu()
    expected = Photometric(Augment(), MEAN, STD)(images, u)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_views_are_ready_for_the_network():
    images = pictures(8)
    before = images.clone()
    views = Photometric(Augment(), MEAN, STD)(images, draws(8))
    assert torch.equal(images, before)
    assert views.dtype == torch.float32
    assert views.shape == images.shape
    assert views.is_contiguous(memory_format=torch.channels_last)


def test_without_augmentation_images_are_only_normalised():
    images = pictures(8)
    expected = functional.normalize(images / 255, MEAN, STD)
    normalised = Normalize(MEAN, STD)(images)
    torch.testing.assert_close(normalised, expected, atol=1e-5, rtol=0)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(Photometric(NOTHING, MEAN, STD)(images, draws(8)), normalised)


def test_parameters_have_the_distribution_of_the_policy():
    n, policy = 40_000, Augment(solarize=0.2)
    parameters = draw(policy, draws(n))
    jittered = (parameters.factors != (1, 1, 1, 0)).any(axis=1)
    blurred = parameters.sigma > 0
    for share, chance in [
        (parameters.flip, policy.flip),
        (jittered, policy.jitter),
        (parameters.gray, policy.gray),
        (blurred, policy.blur),
        (parameters.solarize, policy.solarize),
    ]:
        assert stats.binomtest(int(share.sum()), n, chance).pvalue > 1e-3
    ranges = [(0.6, 1.4)] * 3 + [(-0.1, 0.1)]
    for column, (low, high) in zip(parameters.factors[jittered].T, ranges, strict=True):
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    low, high = policy.blur_sigma
    sigma = stats.uniform(low, high - low)
    assert stats.kstest(parameters.sigma[blurred], sigma.cdf).pvalue > 1e-3
    orders = np.unique(parameters.order @ 4 ** np.arange(4), return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-3
    chosen = [parameters.flip, jittered, parameters.gray, blurred, parameters.solarize]
    correlations = np.corrcoef(np.stack(chosen).astype(float))
    assert np.abs(correlations - np.eye(len(chosen))).max() < 4 / math.sqrt(n)


def facts(views: torch.Tensor) -> dict[str, np.ndarray]:
    """A few numbers of each view that the operations move, rounded so that equals are ties."""
    red, green, blue = views.mean((2, 3)).T
    found = {
        "red": red,
        "colour": red - blue,
        "tint": green - (red + blue) / 2,
        "contrast": views.std((1, 2, 3)),
        "sharpness": views.diff(dim=-1).abs().mean((1, 2, 3)),
        "left": views[..., : SIZE // 2].mean((1, 2, 3)) - views.mean((1, 2, 3)),
    }
    return {name: values.double().round(decimals=4).numpy() for name, values in found.items()}


def test_views_have_the_distribution_of_torchvisions_moco_v2_policy():
    n = 3000
    rng = np.random.default_rng(0)
    gradient = np.linspace(0.2, 1, SIZE)
    pixels = 200 * rng.random((3, SIZE, SIZE)) * gradient * np.array([1.0, 0.7, 0.4])[:, None, None]
    image = torch.from_numpy(pixels.astype(np.uint8))
    policy = Augment(blur_sigma=(0.9, 9))  # as wide in this small image as shows
    ours = transform(image.expand(n, 3, SIZE, SIZE), draw(policy, draws(n, seed=3))) / 255
    sigma = tuple(s * SIZE / 224 for s in policy.blur_sigma)
    official = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(7, sigma)], p=0.5),
            v2.RandomHorizontalFlip(),
        ]
    )
    torch.manual_seed(0)
    theirs = torch.stack([official(image) for _ in range(n // 2)])
    expected = facts(theirs)
    for name, values in facts(ours).items():
        assert stats.ks_2samp(values, expected[name]).pvalue > 1e-3, name


def test_every_order_of_the_jitter_is_used():
    """One uniform number chooses among all of them."""
    u = np.zeros((24, DRAWS))
    u[:, 6] = np.arange(24) / 24
    orders = draw(Augment(), u).order
    assert sorted(map(tuple, orders.tolist())) == list(itertools.permutations(range(4)))


PHOTOS = [image[::2, ::2] for image in load_sample_images().images]  # 320 x 213
VIEW = 64  # side of the whole way's views, pixels
MOCO_V2 = Augment(blur_sigma=(0.1 * 224 / VIEW, 2.0 * 224 / VIEW))  # 0.1 to 2 pixels of these views


class PillowBlur:
    """MoCo v2's GaussianBlur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


@functools.cache
def own_crops(crop_area: tuple[float, float], n: int, *, antialias: bool) -> torch.Tensor:
    """Crops of the photographs by our whole way, or without its antialiasing."""
    u = uniforms(1, np.zeros(n, np.int64), np.arange(n), 0, CROP_DRAWS)
    crops = torch.empty(n, VIEW, VIEW, 3, dtype=torch.uint8)
    for row in range(n):
        image = torch.from_numpy(PHOTOS[row % 2].copy())
        box = random_box(image.shape[1], image.shape[0], u[row], crop_area)
        if not antialias:
            left, top, right, bottom = box
            part = image[top:bottom, left:right].permute(2, 0, 1)[None]
            thin = torch.nn.functional.interpolate(part, (VIEW, VIEW), mode="bilinear")
            crops[row] = thin[0].permute(1, 2, 0)
        else:
            pixels.crop_resize(image, box, crops[row])
    return crops.permute(0, 3, 1, 2)


def own_views(policy: Augment, n: int, *, antialias: bool = True) -> torch.Tensor:
    """Views of the photographs by our whole way, or without its antialiasing."""
    crops = own_crops(policy.crop_area, n, antialias=antialias)
    return transform(crops, draw(policy, draws(n, seed=8))) / 255


def official_views(n: int) -> torch.Tensor:
    """Views by MoCo v2's transform on Pillow images."""
    official = transforms.Compose(
        [
            transforms.RandomResizedCrop(VIEW, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PillowBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    torch.manual_seed(0)
    return torch.stack([official(Image.fromarray(PHOTOS[row % 2])) for row in range(n)])


def view_facts(views: torch.Tensor) -> dict[str, np.ndarray]:
    """Mean and spread of each channel, energy of the gradients, of each view, by photograph."""
    found = {}
    for k in range(2):
        part = views[k::2]
        for channel, name in enumerate(("red", "green", "blue")):
            found[f"{k} {name} mean"] = part[:, channel].mean((1, 2))
            found[f"{k} {name} std"] = part[:, channel].std((1, 2))
        gradients = part.diff(dim=-1).square().mean((1, 2, 3))
        found[f"{k} gradients"] = gradients
        found[f"{k} sharpness"] = gradients / part.var((1, 2, 3))
        red, green, blue = part.mean((2, 3)).T
        found[f"{k} colour"] = red - blue
        found[f"{k} tint"] = green - (red + blue) / 2
    return {name: values.double().round(decimals=3).numpy() for name, values in found.items()}


def least_p_value(views: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the smallest p-value of all facts, as if there were only one fact (Bonferroni)."""
    ours, theirs = view_facts(views), view_facts(expected)
    return len(ours) * min(stats.ks_2samp(ours[name], theirs[name]).pvalue for name in ours)


def test_the_whole_way_has_the_distribution_of_the_official_transform():
    n = 700
    expected = official_views(n)
    assert least_p_value(own_views(MOCO_V2, n), expected) > 0.01
    wrong = {
        name: own_views(MOCO_V2.model_copy(update=changes), n)
        for name, changes in [
            ("no blur", {"blur": 0.0}),
            ("no jitter", {"jitter": 0.0}),
            ("no gray", {"gray": 0.0}),
            ("large crops", {"crop_area": (0.5, 1.0)}),
        ]
    }
    wrong["no antialias"] = own_views(MOCO_V2, n, antialias=False)
    p_values = {name: least_p_value(views, expected) for name, views in wrong.items()}
    assert max(p_values.values()) < 1e-3, p_values
