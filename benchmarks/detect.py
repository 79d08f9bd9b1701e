"""A step of a detector beside the bare passes that it contains, and beside torchvision's own model.

`make bench-detect`. The bare passes of a C4 are those of its networks both ways: the backbone up to
conv4, the head of proposals, RoIAlign of as many regions, conv5 with its norm, the predictor. What
a step does beside them is anchors, matching, sampling, suppression and losses. An FPN stands beside
`torchvision.models.detection.FasterRCNN` with the same weights, images and settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from benchmarks.measure import Row, paired, print_table, seconds_of, versions
from hpt_dist.methods.detection import Detection
from hpt_dist.networks import backbones
from hpt_dist.networks.detector import Design, Inputs
from hpt_dist.trial.memory import keep_freed_memory

CLASSES, OBJECTS = 20, 4
C4_GOAL, FPN_GOAL = 1.10, 1.05
Step = Callable[[], None]


def batch(images: int, size: int, device: torch.device) -> Inputs:
    """Return noise with boxes of a quarter to half the side.

    Args:
        images: of the batch.
        size: side of each, pixels; a multiple of 32.
        device: of the tensors that a detector takes there.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, size, size, generator=generator)
    first = torch.rand(images * OBJECTS, 2, generator=generator) * size / 2
    sides = (0.25 + 0.25 * torch.rand(images * OBJECTS, 2, generator=generator)) * size
    labels = torch.randint(CLASSES, (images * OBJECTS,), generator=generator)
    return Inputs(
        pixels.to(device).contiguous(memory_format=torch.channels_last),
        torch.full((images, 2), size),
        torch.full((images,), OBJECTS),
        torch.arange(images),
        torch.cat([first, first + sides], dim=1).to(device),
        labels.to(device),
        torch.zeros(0, device=device),
    )


def detector(name: str, architecture: str, device: torch.device) -> Detection:
    """Return a detector in training mode, with torchvision's numbers of proposals."""
    design = Design(
        "c4" if architecture == "c4" else "fpn",
        CLASSES,
        before_nms=(2000, 1000),
        after_nms=(2000, 1000),
    )
    torch.manual_seed(0)
    method = Detection(backbones.create(f"torchvision/{name}"), design, seed=0)
    method.to(device).to(memory_format=torch.channels_last)
    return method.train()


def step_of(method: Detection, inputs: Inputs) -> Step:
    """Return one pass both ways."""

    def run() -> None:
        method.zero_grad(set_to_none=True)
        method(inputs, 0).total.backward()
        _wait(inputs.images)

    return run


def bare(method: Detection, inputs: Inputs) -> Step:
    """Return the passes of a C4 alone, on as many regions as a step trains on."""
    size = inputs.images.shape[-1]
    count = method.design.regions * len(inputs.images)
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(count, 2, generator=generator) * size / 2
    sides = (0.1 + 0.4 * torch.rand(count, 2, generator=generator)) * size
    boxes = torch.cat([first, first + sides], dim=1).to(inputs.images.device)
    by_image = list(boxes.split(method.design.regions))
    heads, rpn = method.roi_heads, method.rpn.head

    def run() -> None:
        method.zero_grad(set_to_none=True)
        maps = method.maps(inputs.images)
        logits, deltas = rpn(maps)
        pooled = heads.box_roi_pool(maps, by_image)
        features = heads.box_head(pooled, [method.design.regions] * len(inputs.images))
        outputs: list[Tensor] = [*logits, *deltas, *heads.box_predictor(features.mean((2, 3)))]
        torch.stack([one.square().mean() for one in outputs]).sum().backward()
        _wait(inputs.images)

    return run


def torchvisions(name: str, inputs: Inputs) -> Step:
    """Return one pass both ways of torchvision's model, which neither resizes nor normalises."""
    size = inputs.images.shape[-1]
    torch.manual_seed(0)
    extractor = resnet_fpn_backbone(
        backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    model = FasterRCNN(
        extractor,
        CLASSES + 1,
        min_size=size,
        max_size=size,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        _skip_resize=True,
    )
    model.to(inputs.images.device).to(memory_format=torch.channels_last).train()
    images = list(inputs.images)
    pairs = zip(inputs.boxes.split(OBJECTS), inputs.labels.split(OBJECTS), strict=True)
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in pairs]

    def run() -> None:
        model.zero_grad(set_to_none=True)
        torch.stack(list(model(images, targets).values())).sum().backward()
        _wait(inputs.images)

    return run


def rows(name: str, images: int, size: int, rounds: int, device: torch.device) -> Iterator[Row]:
    """Yield how long a step takes, as a multiple of what it stands beside."""
    inputs = batch(images, size, device)
    note = f"{name}, {images} images of {size} px"
    c4 = detector(name, "c4", device)
    found = seconds_of({"ours": step_of(c4, inputs), "bare": bare(c4, inputs)}, rounds)
    yield Row("c4_step_over_bare", paired(found["ours"], found["bare"]), C4_GOAL, note, True)
    fpn = step_of(detector(name, "fpn", device), inputs)
    found = seconds_of({"ours": fpn, "theirs": torchvisions(name, inputs)}, rounds)
    ratio = paired(found["ours"], found["theirs"])
    yield Row("fpn_step_over_torchvision", ratio, FPN_GOAL, note, True)


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.detect", description=__doc__)
    parser.add_argument("--backbone", default="resnet50", help="one of torchvision's ResNets")
    parser.add_argument("--images", type=int, default=2, help="of a step")
    parser.add_argument("--size", type=int, default=320, help="side of the images, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = True
    found = rows(arguments.backbone, arguments.images, arguments.size, arguments.rounds, device)
    return print_table(found, versions(("torch", "torchvision")), None)


if __name__ == "__main__":
    sys.exit(main())
