"""Detectors out: the names of torchvision's and detectron2's detection models.

Names and orders were read in the public documents of both projects, none of which is part of this
one. Beside names three orders differ in detectron2: the background is its last class and has
neither boxes nor masks, and its anchors are ordered by size and then by ratio.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hpt_dist import __version__
from hpt_dist.errors import RequestError
from hpt_dist.networks import backbones
from hpt_dist.weights import dialects
from hpt_dist.weights.files import save_pickle

Architecture = Literal["c4", "fpn"]
FORMATS: dict[Architecture, tuple[str, ...]] = {
    "c4": ("safetensors", "detectron2"),
    "fpn": ("safetensors", "torchvision", "detectron2"),
}

_RPN = "proposal_generator.rpn_head"
# Our names, as torchvision's, and detectron2's; `#` is a number that grows by one.
_HEADS = (
    (r"rpn\.head\.conv\.0\.0", f"{_RPN}.conv"),
    (r"rpn\.head\.cls_logits", f"{_RPN}.objectness_logits"),
    (r"rpn\.head\.bbox_pred", f"{_RPN}.anchor_deltas"),
    (r"roi_heads\.box_head\.norm", "roi_heads.res5.norm"),
    (r"roi_heads\.box_head\.fc6", "roi_heads.box_head.fc1"),
    (r"roi_heads\.box_head\.fc7", "roi_heads.box_head.fc2"),
    (r"roi_heads\.box_predictor\.(cls_score|bbox_pred)", r"roi_heads.box_predictor.\1"),
    (r"roi_heads\.mask_predictor\.conv5_mask", "roi_heads.mask_head.deconv"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits", "roi_heads.mask_head.predictor"),
)
_NUMBERED = (
    (r"roi_heads\.mask_head\.(\d)\.0", "roi_heads.mask_head.mask_fcn", 1),
    (r"fpn\.inner_blocks\.(\d)\.0", "backbone.fpn_lateral", 2),
    (r"fpn\.layer_blocks\.(\d)\.0", "backbone.fpn_output", 2),
)


def require(backbone_name: str, architecture: Architecture, file_format: str) -> str:
    """Return the full name of a backbone whose detector can be written in a format.

    Raises:
        RequestError: it cannot.
    """
    full_name = backbones.resolve(backbone_name)
    known = ("safetensors", *dialects.dialects_of(full_name))
    is_resnet = dialects.model_in("torchvision", full_name) in dialects.RESNETS
    allowed = [
        one for one in FORMATS[architecture] if one in known and (one != "torchvision" or is_resnet)
    ]
    if file_format in allowed:
        return full_name
    reason = "it has no such detector" if is_resnet else "its detectors are those of ResNets"
    raise RequestError(
        f"a detector {architecture} on {full_name} cannot be written for {file_format}: {reason}",
        where=f"format {file_format}",
        allowed=", ".join(allowed),
    )


def export(
    state: Mapping[str, Tensor],
    backbone_name: str,
    architecture: Architecture,
    file_format: str,
    *,
    sizes: int,
    ratios: int,
) -> dict[str, bytes]:
    """Return the files that others load, by their names.

    - `torchvision`: of an fpn, `fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None,
      num_classes=C + 1)` and its kin take it by `load_state_dict`; class 0 is the background.
    - `detectron2`: a value of `MODEL.WEIGHTS`; docs/detection.md has the settings beside it.

    Args:
        state: of a `networks.detector.Detector`.
        backbone_name: see `backbones.resolve`.
        architecture: of the detector.
        file_format: torchvision or detectron2.
        sizes: how many sizes its anchors have at each place of a map.
        ratios: how many ratios.

    Raises:
        RequestError: the detector cannot be written in that format.
    """
    full_name = require(backbone_name, architecture, file_format)
    model = full_name.split("/")[1].split(".")[0]
    named = _named(state, full_name, architecture, file_format)
    content: dict[str, Any]
    if file_format == "torchvision":
        content = named
    else:
        ordered = {name: _reordered(name, one, sizes, ratios) for name, one in named.items()}
        author = f"hpt-dist {__version__}"
        content = {"model": ordered, "matching_heuristics": False, "__author__": author}
    return {f"{model}-{architecture}-{file_format}.pth": save_pickle(content)}


def _named(
    state: Mapping[str, Tensor], full_name: str, architecture: Architecture, file_format: str
) -> dict[str, Tensor]:
    """Return copies of a state's entries under a project's names."""
    of_backbone = {name: name for name in dialects.shapes(full_name)}
    if file_format in dialects.dialects_of(full_name):
        names = dialects.dialects_of(full_name)[file_format]
        of_backbone = {own: theirs[0] for own, theirs in names.items()}
    found = {}
    for name, value in state.items():
        if name.startswith("backbone."):
            inner = of_backbone[name.removeprefix("backbone.")]
            place = _place_of_backbone(inner, architecture, file_format)
        elif file_format == "torchvision":
            place = f"backbone.{name}" if name.startswith("fpn.") else name
        else:
            place = _in_detectron2(name)
        found[place] = value.detach().cpu().clone()
    return found


def _place_of_backbone(inner: str, architecture: Architecture, file_format: str) -> str:
    if file_format == "torchvision":
        return f"backbone.body.{inner}"
    if architecture == "fpn":
        return f"backbone.bottom_up.{inner}"
    return f"roi_heads.{inner}" if inner.startswith("res5.") else f"backbone.{inner}"


def _in_detectron2(name: str) -> str:
    root, _, entry = name.rpartition(".")
    for ours, theirs in _HEADS:
        if re.fullmatch(ours, root):
            return f"{re.sub(ours, theirs, root)}.{entry}"
    for ours, theirs, first in _NUMBERED:
        if found := re.fullmatch(ours, root):
            return f"{theirs}{int(found[1]) + first}.{entry}"
    raise ValueError(f"no detector has an entry {name}")


def _reordered(name: str, value: Tensor, sizes: int, ratios: int) -> Tensor:
    """Return an entry of detectron2's in its orders of anchors and classes."""
    if name.startswith((f"{_RPN}.objectness_logits", f"{_RPN}.anchor_deltas")):
        order = torch.arange(sizes * ratios).view(ratios, sizes).T.reshape(-1)
        return value.view(sizes * ratios, -1, *value.shape[1:])[order].flatten(0, 1)
    if name.startswith("roi_heads.box_predictor.cls_score"):
        return torch.cat([value[1:], value[:1]])
    if name.startswith("roi_heads.box_predictor.bbox_pred"):
        return value[4:].clone()
    if name.startswith("roi_heads.mask_head.predictor"):
        return value[1:].clone()
    return value
