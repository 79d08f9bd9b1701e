"""Exported detectors: torchvision's model loads one and finds the same; detectron2's names."""

import io

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from hpt_dist.errors import RequestError
from hpt_dist.methods.detection import Detection
from hpt_dist.networks import backbones
from hpt_dist.networks.detector import Design
from hpt_dist.weights import detectors

CLASSES = 3

# Read in detectron2's documentation of its model zoo's C4 and FPN configurations, and MoCo's
# description of its head: `{}` stands for the layers of each block.
C4_HEADS = {
    "proposal_generator.rpn_head.conv.weight": (1024, 1024, 3, 3),
    "proposal_generator.rpn_head.conv.bias": (1024,),
    "proposal_generator.rpn_head.objectness_logits.weight": (15, 1024, 1, 1),
    "proposal_generator.rpn_head.objectness_logits.bias": (15,),
    "proposal_generator.rpn_head.anchor_deltas.weight": (60, 1024, 1, 1),
    "proposal_generator.rpn_head.anchor_deltas.bias": (60,),
    "roi_heads.res5.norm.weight": (2048,),
    "roi_heads.res5.norm.bias": (2048,),
    "roi_heads.res5.norm.running_mean": (2048,),
    "roi_heads.res5.norm.running_var": (2048,),
    "roi_heads.box_predictor.cls_score.weight": (CLASSES + 1, 2048),
    "roi_heads.box_predictor.cls_score.bias": (CLASSES + 1,),
    "roi_heads.box_predictor.bbox_pred.weight": (4 * CLASSES, 2048),
    "roi_heads.box_predictor.bbox_pred.bias": (4 * CLASSES,),
    "roi_heads.mask_head.deconv.weight": (2048, 256, 2, 2),
    "roi_heads.mask_head.deconv.bias": (256,),
    "roi_heads.mask_head.predictor.weight": (CLASSES, 256, 1, 1),
    "roi_heads.mask_head.predictor.bias": (CLASSES,),
}
BLOCKS = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}
NORM = ("weight", "bias", "running_mean", "running_var")


def resnet50(prefixes):
    """Return detectron2's names of a ResNet-50's entries."""
    roots = [f"{prefixes.get('stem', prefixes[''])}stem.conv1"]
    for stage, count in BLOCKS.items():
        place = prefixes.get(stage, prefixes[""]) + stage
        roots += [f"{place}.{n}.conv{layer}" for n in range(count) for layer in (1, 2, 3)]
        roots.append(f"{place}.0.shortcut")
    return {f"{root}.weight" for root in roots} | {
        f"{root}.norm.{entry}" for root in roots for entry in NORM
    }


def detector(architecture, *, masks=True, name="torchvision/resnet50"):
    torch.manual_seed(0)
    sizes = (32, 64, 128, 256, 512)
    proposals = {"before_nms": (2000, 1000), "after_nms": (2000, 1000)}  # torchvision's
    design = Design(architecture, CLASSES, masks=masks, anchor_sizes=sizes, **proposals)
    return Detection(backbones.create(name), design, seed=1).eval()


def exported(net, architecture, file_format, name="torchvision/resnet50"):
    sizes = 5 if architecture == "c4" else 1
    files = detectors.export(
        net.state_dict(), name, architecture, file_format, sizes=sizes, ratios=3
    )
    ((file, data),) = files.items()
    return file, torch.load(io.BytesIO(data), weights_only=True)


@pytest.mark.parametrize("masks", [False, True])
def test_torchvisions_model_loads_an_fpn_and_finds_the_same(masks):
    net = detector("fpn", masks=masks)
    file, state = exported(net, "fpn", "torchvision")
    assert file == "resnet50-fpn-torchvision.pth"
    build = maskrcnn_resnet50_fpn if masks else fasterrcnn_resnet50_fpn
    model = build(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=64,
        max_size=96,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
    ).eval()
    model.load_state_dict(state)
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        (expected,) = model([image])
        (found,) = net.detect(image[None], [(64, 96)])
    assert len(found.scores) > 0
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-5)


def test_c4_has_detectron2s_names_and_shapes():
    net = detector("c4")
    file, content = exported(net, "c4", "detectron2")
    assert file == "resnet50-c4-detectron2.pth"
    assert not content["matching_heuristics"]
    state = {n: v for n, v in content["model"].items() if not n.endswith("num_batches_tracked")}
    backbone = resnet50({"": "backbone.", "res5": "roi_heads."})
    assert set(state) == backbone | set(C4_HEADS)
    assert {name: tuple(state[name].shape) for name in C4_HEADS} == C4_HEADS


def test_an_fpn_has_detectron2s_names():
    _, content = exported(detector("fpn"), "fpn", "detectron2")
    names = {name for name in content["model"] if not name.endswith("num_batches_tracked")}
    roots = [
        f"backbone.fpn_{part}{level}" for part in ("lateral", "output") for level in range(2, 6)
    ]
    roots += [f"roi_heads.mask_head.mask_fcn{n}" for n in range(1, 5)]
    roots += ["roi_heads.box_head.fc1", "roi_heads.box_head.fc2"]
    heads = {f"{root}.{entry}" for root in roots for entry in ("weight", "bias")}
    heads |= {name for name in C4_HEADS if ".res5." not in name}
    assert names == resnet50({"": "backbone.bottom_up."}) | heads


def test_orders_of_anchors_and_classes_are_detectron2s():
    """Anchors go by size and then ratio there, and by ratio and then size here."""
    net = detector("c4")
    with torch.no_grad():
        net.rpn.head.cls_logits.bias.copy_(torch.arange(15))
        net.rpn.head.bbox_pred.bias.copy_(torch.arange(60))
        net.roi_heads.box_predictor.cls_score.bias.copy_(torch.arange(CLASSES + 1))
        net.roi_heads.box_predictor.bbox_pred.bias.copy_(torch.arange(4 * CLASSES + 4))
        net.roi_heads.mask_predictor.mask_fcn_logits.bias.copy_(torch.arange(CLASSES + 1))
    state = exported(net, "c4", "detectron2")[1]["model"]
    cells = net.rpn.anchor_generator.cell_anchors[0]
    sides = (cells[:, 2:] - cells[:, :2]).prod(1).sqrt()
    ours = state["proposal_generator.rpn_head.objectness_logits.bias"].long()
    areas = sides[ours].view(5, 3)  # each row is one size
    assert (areas.max(1).values / areas.min(1).values < 1.1).all()
    assert (areas.diff(dim=0) > 0).all()
    heights = (cells[ours, 3] / cells[ours, 2]).view(5, 3)
    assert (heights.diff(dim=1) > 0).all()
    deltas = state["proposal_generator.rpn_head.anchor_deltas.bias"].view(15, 4)
    assert torch.equal(deltas[:, 0].long(), 4 * ours)
    assert state["roi_heads.box_predictor.cls_score.bias"].tolist() == [1, 2, 3, 0]
    assert state["roi_heads.box_predictor.bbox_pred.bias"].tolist() == list(range(4, 16))
    assert state["roi_heads.mask_head.predictor.bias"].tolist() == [1, 2, 3]


def test_what_no_project_has_is_refused():
    with pytest.raises(RequestError, match="no such detector") as error:
        detectors.require("torchvision/resnet50", "c4", "torchvision")
    assert error.value.problem.allowed == "safetensors, detectron2"
    with pytest.raises(RequestError, match="those of ResNets") as error:
        detectors.require("torchvision/convnext_tiny", "fpn", "detectron2")
    assert error.value.problem.allowed == "safetensors"
