"""Detectors: maps and losses are those of backbones and torchvision, and of the global batch."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks
from torch import nn
from torchvision import models
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from hpt_dist.errors import RequestError
from hpt_dist.methods.detection import Detection
from hpt_dist.networks import backbones, batch_norm, detector_stages
from hpt_dist.networks.detector import Design, Detector, Inputs
from hpt_dist.networks.detector_heads import Truth
from hpt_dist.networks.detector_rpn import Proposed
from hpt_dist.networks.detector_sampling import balanced, generator_of, numbers
from hpt_dist.networks.detector_sums import Sum, global_means

SMALL = {
    "num_classes": 3,
    "before_nms": (300, 100),
    "after_nms": (60, 40),
    "regions": 16,
    "anchor_sizes": (16, 32, 64, 96, 128),
}

CPU = torch.device("cpu")


def backbone(name="torchvision/resnet18", seed=0):
    torch.manual_seed(seed)
    return backbones.create(name)


def detector(architecture, name="torchvision/resnet18", *, masks=False, **design):
    settings = {**SMALL, "architecture": architecture, "masks": masks, **design}
    return Detection(backbone(name), Design(**settings), seed=7)


def scene(image, masks=False):
    """Return a picture of rectangles: pixels, boxes, labels, masks."""
    random = np.random.default_rng(image)
    height, width = (64, 96) if image % 2 else (128 if image == 2 else 96, 80)
    pixels = torch.from_numpy(random.normal(0, 0.3, (3, height, width)).astype(np.float32))
    corners, labels = [], []
    for _ in range(1 + image % 3):
        x, y = random.integers(0, width - 34), random.integers(0, height - 34)
        w, h = random.integers(16, 33, 2)
        label = int(random.integers(0, 3))
        pixels[label, y : y + h, x : x + w] += 2
        corners.append([x, y, x + w, y + h])
        labels.append(label)
    boxes = torch.tensor(corners, dtype=torch.float32)
    drawn = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(drawn, corners, strict=True):
        mask[y1:y2, x1:x2] = 1
    return pixels, boxes, torch.tensor(labels), drawn


def batch(images, *, masks=False, step=0):
    scenes = [scene(image) for image in images]
    height, width = (max(one[0].shape[side] for one in scenes) for side in (1, 2))

    def padded(x):
        return nn.functional.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    return Inputs(
        torch.stack([padded(one[0]) for one in scenes]),
        torch.tensor([one[0].shape[1:] for one in scenes]),
        torch.tensor([len(one[1]) for one in scenes]),
        torch.tensor([100 * step + image for image in images]),
        torch.cat([one[1] for one in scenes]),
        torch.cat([one[2] for one in scenes]),
        torch.cat([padded(one[3]) for one in scenes]) if masks else torch.zeros(0),
    )


@pytest.mark.parametrize(
    ("name", "conv4", "last"),
    [
        ("torchvision/resnet18", "layer3", "layer4"),
        ("timm/resnet18", "layer3", "layer4"),
        ("timm/tf_efficientnet_lite0", "blocks.4", "bn2"),
        ("timm/convnext_atto", "stages.2", "norm_pre"),
        ("torchvision/efficientnet_b0", "features.5", "features.8"),
        ("torchvision/convnext_tiny", "features.5", "features.7"),
    ],
)
def test_maps_of_c4_are_the_backbones_own(name, conv4, last):
    net = backbone(name).eval()
    seen = {}
    for part in (conv4, last):
        net.get_submodule(part).register_forward_hook(
            lambda _module, _inputs, output, part=part: seen.update({part: output})
        )
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net(images)
        own = dict(seen)
        made = Detector(net, Design("c4", 2), seed=0)
        (found,) = made.eval().maps(images)
        rest = detector_stages.of(net).run(found, detector_stages.of(net).end_of(16))
    torch.testing.assert_close(found, own[conv4], rtol=0, atol=1e-5)
    torch.testing.assert_close(rest, own[last], rtol=0, atol=1e-5)
    assert found.shape[-2:] == (4, 6)


def test_a_backbone_without_known_stages_is_refused():
    with pytest.raises(RequestError, match="VisionTransformer is no backbone of a detector"):
        Detector(backbone("timm/test_vit"), Design("c4", 2), seed=0)


def theirs(ours, *, masks=False):
    """Return torchvision's model with the weights of our FPN detector."""
    extractor = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    settings = {
        "min_size": 64,
        "max_size": 96,
        "image_mean": [0, 0, 0],
        "image_std": [1, 1, 1],
        "rpn_anchor_generator": ours.rpn.anchor_generator,
        "rpn_pre_nms_top_n_train": 300,
        "rpn_pre_nms_top_n_test": 100,
        "rpn_post_nms_top_n_train": 60,
        "rpn_post_nms_top_n_test": 40,
        "box_batch_size_per_image": 16,
    }
    model = (MaskRCNN if masks else FasterRCNN)(extractor, num_classes=4, **settings)
    renamed = {}
    for name, value in ours.state_dict().items():
        place = name.replace("backbone.", "backbone.body.") if name.startswith("back") else name
        renamed[place.replace("fpn.", "backbone.fpn.", place.startswith("fpn."))] = value
    model.load_state_dict(renamed)
    return model


@pytest.mark.parametrize("masks", [False, True])
def test_an_fpn_is_torchvisions_model(masks):
    ours = detector("fpn", masks=masks, least_score=0.05)
    model = theirs(ours, masks=masks).eval()
    image = scene(1)[0]
    # Torchvision guesses where its maps lie from the first image's size.
    with torch.no_grad():
        ours.eval()
        for mine, its in zip(
            ours.maps(image[None]), model.backbone(image[None]).values(), strict=True
        ):
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)
        (found,) = ours.detect(image[None], [tuple(image.shape[1:])])
        (expected,) = model([image])
    assert len(found.boxes) > 0
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-5)
    assert torch.equal(found.labels, expected["labels"] - 1)
    assert (found.masks is not None) == masks


class Replayed:
    """Torchvision's sampler with our draws, of anchors or of those that proposals are made of."""

    def __init__(self, generators, count, share, proposed=None):
        self.generators, self.count, self.share = generators, count, share
        self.proposed = proposed or [None] * len(generators)

    def draws(self, label, generator, proposed):
        if proposed is None:
            return numbers(len(label), generator)
        objects = len(label) - len(proposed.places)
        drawn = numbers(proposed.anchors + objects, generator)
        return torch.cat([drawn[proposed.places], drawn[proposed.anchors :]])

    def __call__(self, labels):
        chosen = [
            balanced(one, self.count, self.share, self.draws(one, *its))
            for one, *its in zip(labels, self.generators, self.proposed, strict=True)
        ]
        masks = ([torch.zeros_like(one, dtype=torch.uint8) for one in labels] for _ in range(2))
        positives, negatives = masks
        for n, (positive, negative) in enumerate(chosen):
            positives[n][positive] = 1
            negatives[n][negative] = 1
        return positives, negatives


@pytest.mark.parametrize("masks", [False, True])
def test_losses_of_an_fpn_are_torchvisions_on_one_rank(masks):
    """Torchvision draws anchors first and proposals second, from the generator that we give it."""
    ours = detector("fpn", masks=masks)
    model = theirs(ours, masks=masks).train()
    inputs = batch([1, 3], masks=masks)  # of one size, which torchvision would otherwise change
    generators = [generator_of(seed, CPU) for seed in inputs.seeds.tolist()]
    model.rpn.fg_bg_sampler = Replayed(generators, 256, 0.5)
    sizes = [tuple(one) for one in inputs.sizes.tolist()]
    proposed, _ = ours.train().rpn.propose(inputs.images, sizes, ours.maps(inputs.images))
    model.roi_heads.fg_bg_sampler = Replayed(generators, 16, 0.25, proposed)
    targets = [
        {"boxes": one[1], "labels": one[2] + 1, "masks": one[3]} for one in map(scene, [1, 3])
    ]
    expected = model(list(inputs.images), targets)
    found = ours.train().losses(inputs)
    pairs = {
        "loss_objectness": "loss_objectness",
        "loss_rpn_box": "loss_rpn_box_reg",
        "loss_class": "loss_classifier",
        "loss_box": "loss_box_reg",
        **({"loss_mask": "loss_mask"} if masks else {}),
    }
    assert set(found) == set(pairs)
    for mine, its in pairs.items():
        torch.testing.assert_close(found[mine], expected[its], rtol=1e-5, atol=1e-6)


def test_losses_of_c4_are_those_of_a_plain_reference():
    """Box losses are absolute differences; classes and boxes are recomputed from the sample."""
    ours = detector("c4").train()
    inputs = batch([1, 3])
    found = copy.deepcopy(ours).losses(inputs)
    generators = [generator_of(seed, CPU) for seed in inputs.seeds.tolist()]
    net = ours.backbone
    x = net.maxpool(net.relu(net.bn1(net.conv1(inputs.images))))
    conv4 = net.layer3(net.layer2(net.layer1(x)))
    hidden = ours.rpn.head.conv(conv4)
    logits = ours.rpn.head.cls_logits(hidden).permute(0, 2, 3, 1).reshape(2, -1)
    deltas = ours.rpn.head.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(2, -1, 4)
    sizes = [(64, 96)] * 2
    anchors = ours.rpn.anchor_generator(ImageList(inputs.images, sizes), [conv4])[0]
    truth = [scene(1), scene(3)]
    whether, where, count = 0.0, 0.0, 0
    for n, (_, boxes, _, _) in enumerate(truth):
        ious = overlaps(boxes.numpy(), anchors.numpy())
        labels = torch.from_numpy(np.where(ious.max(0) < 0.3, 0.0, -1.0))
        labels[ious.max(0) >= 0.7] = 1
        labels[(ious == ious.max(1, keepdims=True)).any(0)] = 1
        positive, negative = balanced(labels, 256, 0.5, numbers(len(labels), generators[n]))
        count += len(positive) + len(negative)
        whether += nn.functional.softplus(-logits[n, positive]).sum().item()
        whether += nn.functional.softplus(logits[n, negative]).sum().item()
        taken = positive.numpy()
        wanted = coded(boxes.numpy()[ious.argmax(0)[taken]], anchors.numpy()[taken])
        where += np.abs(deltas[n, positive].detach().numpy() - wanted).sum()
    assert found["loss_objectness"].item() == pytest.approx(whether / count, rel=1e-4)
    assert found["loss_rpn_box"].item() == pytest.approx(where / count, rel=1e-4)


def overlaps(boxes, others):
    """Return intersection over union [n, m], in double precision and by hand."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2]).astype(np.float64)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).prod(-1).astype(np.float64) for one in (boxes, others)]
    return inside / (areas[0][:, None] + areas[1][None] - inside)


def coded(boxes, anchors):
    """Return the four numbers of Fast R-CNN that move anchors to boxes."""
    size, goal = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + goal / 2 - anchors[:, :2] - size / 2) / size
    return np.concatenate([shift, np.log(goal / size)], axis=1)


@given(
    labels=st.lists(st.integers(-1, 3), max_size=60),
    count=st.integers(1, 40),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    seed=st.integers(0, 2**53 - 1),
)
def test_a_sample_is_balanced_and_its_own(labels, count, share, seed):
    given_labels = torch.tensor(labels, dtype=torch.int64)
    before = torch.get_rng_state()
    drawn = [
        balanced(given_labels, count, share, numbers(len(labels), generator_of(seed, CPU)))
        for _ in range(2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)
    positives, negatives = drawn[0]
    there = int((given_labels >= 1).sum()), int((given_labels == 0).sum())
    assert len(positives) == min(there[0], int(count * share))
    assert len(negatives) == min(there[1], count - len(positives))
    assert (given_labels[positives] >= 1).all()
    assert (given_labels[negatives] == 0).all()
    assert len(set(positives.tolist())) == len(positives)


def test_one_more_positive_changes_no_order_of_the_others():
    labels = torch.zeros(200, dtype=torch.int64)
    draws = numbers(200, generator_of(3, CPU))
    _, first = balanced(labels, 50, 0.5, draws)
    labels[first[7]] = -1
    _, second = balanced(labels, 50, 0.5, draws)
    assert len(set(first.tolist()) - set(second.tolist())) == 1


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_initial_weights_are_those_of_its_seed_alone(architecture):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    made = [Detector(backbone(), Design(architecture, 2, masks=True), seed=s) for s in (5, 5, 6)]
    torch.set_rng_state(before)
    other = Detector(backbone(seed=1), Design(architecture, 2, masks=True), seed=5)
    one, same, different = (dict(net.named_parameters()) for net in made)
    for name, value in one.items():
        assert torch.equal(value, same[name])
        if not name.startswith("backbone."):
            assert torch.equal(value, dict(other.named_parameters())[name])
            assert value.ndim == 1 or not torch.equal(value, different[name])
    net = backbone()
    state = torch.get_rng_state()
    Detector(net, Design(architecture, 2), seed=5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("c4", "torchvision/resnet18"), ("fpn", "timm/convnext_atto"), ("c4", "timm/convnext_atto")],
)
def test_whatever_learns_gets_a_gradient_also_without_objects(architecture, name):
    ours = detector(architecture, name, masks=True).train()
    inputs = batch([1], masks=True)
    empty = inputs._replace(
        counts=torch.tensor([0]),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=torch.zeros(0, 64, 96, dtype=torch.uint8),
    )
    for one in (inputs, empty):
        ours.zero_grad()
        loss = ours(one, 0)
        assert loss.total.isfinite()
        loss.total.backward()
        missing = [n for n, p in ours.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
    assert set(loss.metrics) >= {"loss", "loss_mask"}


def test_c4_learns_nothing_frozen_and_its_norm_follows_conv5():
    ours = detector("c4", masks=True)
    assert all(parameter.requires_grad for parameter in ours.parameters())
    names = {name for name, _ in ours.named_parameters()}
    assert "roi_heads.box_head.norm.weight" in names
    assert not [name for name in names if "layer4" in name and not name.startswith("backbone.")]
    pooled = torch.randn(5, 256, 14, 14)
    ours.eval()
    expected = ours.roi_heads.box_head.norm(ours.backbone.layer4(pooled))
    assert torch.equal(ours.roi_heads.box_head(pooled, [5]), expected)


def trained(rank, world, architecture, bn_group, masks):
    """Return proposals, samples, losses and gradients of a batch of four images."""
    images, share = list(range(4)), 4 // world
    ours = detector(architecture, masks=masks).train()
    ours.group_batch_norm(4, bn_group, world)
    seen, original = [], type(ours.roi_heads)._sampled

    def noted(self, proposals, *rest):
        regions = original(self, proposals, *rest)
        seen.append((proposals, regions.boxes))
        return regions

    ours.roi_heads._sampled = noted.__get__(ours.roi_heads)
    loss = ours(batch(images[rank * share : (rank + 1) * share], masks=masks), 0)
    loss.total.backward()
    metrics = {name: value.clone() for name, value in loss.metrics.items()}
    gradients = {name: value.grad for name, value in ours.named_parameters()}
    if world > 1:
        for value in [*gradients.values(), *metrics.values()]:
            dist.all_reduce(value)
            value.div_(world)
        batch_norm.share_statistics(ours)
    ((proposals, regions),) = seen
    return {
        "proposals": [one.boxes.clone() for one in proposals],
        "regions": [one.detach().clone() for one in regions],
        "losses": {name: float(value) for name, value in metrics.items()},
        "gradients": gradients,
        "statistics": dict(ours.named_buffers()),
    }


CASES = {"c4": ("c4", None, True), "grouped": ("c4", 2, False), "fpn": ("fpn", None, False)}


def every_case(rank, world):
    return {name: trained(rank, world, *case) for name, case in CASES.items()}


def test_two_ranks_propose_sample_and_lose_like_one(tmp_path):
    """Images differ in size, so that each rank alone would pad otherwise."""
    alone, shares = every_case(0, 1), on_ranks(2, tmp_path, every_case)
    for case, one in alone.items():
        for what in ("proposals", "regions"):
            theirs = [x for share in shares for x in share[case][what]]
            for image, (mine, other) in enumerate(zip(one[what], theirs, strict=True)):
                place = f"{what} of image {image} of {case}"
                assert mine.shape == other.shape, place
                torch.testing.assert_close(mine, other, rtol=0, atol=0.01, msg=place)
        for share in shares:
            assert share[case]["losses"] == pytest.approx(one["losses"], rel=1e-4), case
            for what in ("gradients", "statistics"):
                for name, value in one[what].items():
                    wide, other = value.double(), share[case][what][name].double()
                    # Rounding turns a few units of a rectifier on or off: that is no element's own.
                    apart = float((other - wide).norm())
                    assert apart <= 0.01 * float(wide.norm()) + 1e-6, f"{what} of {name} of {case}"


def test_sums_of_nothing_are_nothing():
    sums = {"a": Sum(torch.tensor(6.0), 3), "b": Sum(torch.tensor(0.0), 0)}
    assert {name: float(x) for name, x in global_means(sums).items()} == {"a": 2.0, "b": 0.0}


def test_a_pyramid_draws_from_no_other_names():
    """Torchvision's own FPN has the names that ours exports."""
    ours = set(detector("fpn").fpn.state_dict())
    assert ours == set(FeaturePyramidNetwork([64, 128, 256, 512], 256).state_dict())
    assert isinstance(detector("fpn").backbone, models.ResNet)


def uneven(rank, world):
    """Normalise 3 + 5 rows of two images each as one group, and gather the gradients."""
    torch.manual_seed(0)
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64) * torch.arange(1, 9).view(-1, 1, 1, 1)
    weight = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    rows = [[1, 2], [4, 1]] if world == 2 else [[1, 2, 4, 1]]
    mine = slice(0, 8) if world == 1 else slice(3 * rank, 3 + 5 * rank)
    net = nn.Sequential(nn.BatchNorm2d(4)).double()
    batch_norm.regroup(net, batch_norm.grouping(4, None, world=world))
    batch_norm.count_rows(net, rows[rank])
    part = x[mine].clone().requires_grad_()
    (net(part) * weight[mine]).sum().backward()
    gradient = torch.zeros_like(x)
    gradient[mine] = part.grad
    if world > 1:
        dist.all_reduce(gradient)
        dist.all_reduce(net[0].weight.grad)
    return [gradient, net[0].weight.grad, net[0].running_mean, net[0].running_var]


def test_ranks_with_other_numbers_of_rows_normalise_like_one(tmp_path):
    for found in on_ranks(2, tmp_path, uneven):
        torch.testing.assert_close(found, uneven(0, 1), rtol=1e-9, atol=1e-11)


def test_groups_of_images_hold_the_rows_of_their_images():
    torch.manual_seed(0)
    x = torch.randn(8, 4, 3, 3)
    net = nn.Sequential(nn.BatchNorm2d(4))
    batch_norm.regroup(net, batch_norm.grouping(4, 2))
    batch_norm.count_rows(net, [1, 2, 4, 1])
    plain = nn.BatchNorm2d(4)
    torch.testing.assert_close(net(x), torch.cat([plain(x[:3]), plain(x[3:])]))


def test_the_order_of_proposals_changes_no_sample():
    """Of two with nearly the same score, rounding decides which comes first."""
    heads = detector("c4").train().roi_heads
    pixels = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) * 40
    pixels[:, 2:] += pixels[:, :2] + 4
    places = torch.arange(100, 140)
    _, boxes, labels, _ = scene(1)
    samples = []
    for order in (torch.arange(40), torch.arange(39, -1, -1)):
        proposed = Proposed(pixels[order], places[order], anchors=500)
        samples.append(heads._sampled([proposed], [Truth(boxes, labels)], [generator_of(5, CPU)]))
    (one,), (other,) = (sample.boxes for sample in samples)
    assert torch.equal(one, other)
    assert torch.equal(samples[0].labels, samples[1].labels)
    assert 0 < int((samples[0].labels > 0).sum()) < len(one)
