"""Weights out: a backbone's state dict in the files and names that other programs load.

Exports exist only where the features stay the same; a network that the other library builds
differently is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hpt_dist import __version__
from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.networks import backbones
from hpt_dist.weights import dialects
from hpt_dist.weights.dialects import Names
from hpt_dist.weights.files import save, save_pickle
from hpt_dist.weights.source import FORMATS

_PREFIX_OF_MOCO = "module.encoder_q."
_HEAD_CHANNELS = 64  # of the vision transformers in `dialects`
_VIT_NORM_EPS = 1e-6  # timm's and torchvision's; Hugging Face's default is 1e-12

# Why a format is refused for a backbone that the library has under the same or a similar name.
_REASONS = {
    "efficientnet_b5": "timm's batch norm adds 1e-5 to variances, torchvision's 1e-3",
    "efficientnet_b6": "timm's batch norm adds 1e-5 to variances, torchvision's 1e-3",
    "efficientnet_b7": "timm's batch norm adds 1e-5 to variances, torchvision's 1e-3",
    "efficientnet_v2_s": "timm's pads its convolutions on one side",
    "efficientnet_v2_m": "timm's pads its convolutions on one side",
    "efficientnet_v2_l": "timm's pads its convolutions on one side",
}


def formats(backbone_name: str) -> tuple[str, ...]:
    """Return the formats that a backbone can be written in.

    Args:
        backbone_name: see `backbones.resolve`.
    """
    full_name = backbones.resolve(backbone_name)
    known = dialects.dialects_of(full_name)
    has_moco = dialects.model_in("torchvision", full_name) in dialects.RESNETS
    return tuple(
        one
        for one in FORMATS
        if one == "safetensors" or one in known or (one == "moco" and has_moco)
    )


def require(backbone_name: str, file_format: str) -> str:
    """Return the full name of a backbone that can be written in a format.

    Raises:
        RequestError: it cannot; with the allowed formats and the reason.
    """
    full_name = backbones.resolve(backbone_name)
    allowed = formats(full_name)
    if file_format in allowed:
        return full_name
    if file_format not in FORMATS:
        what = f"no format {file_format!r}"
    else:
        what = f"{full_name} cannot be written for {file_format}: {_reason(full_name, file_format)}"
    raise RequestError(what, where=f"format {file_format}", allowed=", ".join(allowed))


def export(state: Mapping[str, Tensor], backbone_name: str, file_format: str) -> dict[str, bytes]:
    """Return the files that others load, by their names.

    - `safetensors`: the backbone's own names.
    - `timm`: `timm.create_model(NAME, num_classes=0).load_state_dict(...)`.
    - `torchvision`: `load_state_dict(..., strict=False)`, where only the classifier is missing.
    - `detectron2`: a value of `MODEL.WEIGHTS`, with STRIDE_IN_1X1 False and FORMAT "RGB".
    - `moco`: what MoCo's own scripts take as pretrained (`main_lincls.py`, the converter).
    - `huggingface`: a folder for `from_pretrained`, of a `ResNetModel` or a `ViTModel`.

    Args:
        state: the backbone's state dict, without a classifier.
        backbone_name: see `backbones.resolve`.
        file_format: one of `formats(backbone_name)`.

    Raises:
        RequestError: the backbone cannot be written in that format.
        WeightsError: the state dict is not the backbone's.
    """
    full_name = require(backbone_name, file_format)
    model = full_name.split("/")[1]
    _check(state, full_name)
    if file_format == "safetensors":
        return {f"{model}.safetensors": save(state, {"backbone": full_name, "format": "pt"})}
    if file_format == "moco":
        arch = dialects.model_in("torchvision", full_name)
        encoder = {_PREFIX_OF_MOCO + name: tensor for name, tensor in _detached(state).items()}
        file = save_pickle({"epoch": 0, "arch": arch, "state_dict": encoder})
        return {f"{arch}-moco.pth.tar": file}
    named = _in_names(state, dialects.dialects_of(full_name)[file_format])
    if file_format == "detectron2":
        author = f"hpt-dist {__version__}"
        content = {"model": named, "matching_heuristics": True, "__author__": author}
        return {f"{model}-detectron2.pth": save_pickle(content)}
    if file_format == "huggingface":
        config = json.dumps(_huggingface_config(named), indent=2) + "\n"
        return {
            "huggingface/config.json": config.encode(),
            "huggingface/model.safetensors": save(named, {"format": "pt"}),
        }
    return {f"{dialects.model_in(file_format, full_name)}.pth": save_pickle(named)}


def _reason(full_name: str, file_format: str) -> str:
    model = full_name.split("/")[1].split(".")[0]
    match file_format:
        case "moco":
            return "MoCo's scripts need one of torchvision's residual networks"
        case "detectron2":
            return "its backbones are residual networks"
        case "huggingface":
            return (
                "its ResNet has no groups or widths, its ViT is the plain one, and no other "
                "network of it is known to give the same features"
            )
    return _REASONS.get(model, f"no model of {file_format} is known to give the same features")


def _check(state: Mapping[str, Tensor], full_name: str) -> None:
    expected = dialects.shapes(full_name)
    actual = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    )
    if wrong:
        raise WeightsError(
            f"this is no state dict of {full_name}: {len(wrong)} entries are missing, unexpected "
            f"or of another shape, such as {wrong[0]}"
        )


def _detached(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of a state dict's tensors that share nothing with the network."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _in_names(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in _detached(state).items():
        parts = names[name]
        split = [part.clone() for part in tensor.chunk(len(parts))] if len(parts) > 1 else [tensor]
        named |= zip(parts, split, strict=True)
    return named


def _huggingface_config(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the `config.json` of a network with these entries, read off their shapes."""
    if "embeddings.cls_token" in named:
        patches = named["embeddings.patch_embeddings.projection.weight"]
        positions = named["embeddings.position_embeddings"].shape[1] - 1
        return {
            "architectures": ["ViTModel"],
            "model_type": "vit",
            "hidden_size": patches.shape[0],
            "num_hidden_layers": sum(name.endswith("intermediate.dense.bias") for name in named),
            "num_attention_heads": patches.shape[0] // _HEAD_CHANNELS,
            "intermediate_size": named["encoder.layer.0.intermediate.dense.bias"].shape[0],
            "hidden_act": "gelu",
            "layer_norm_eps": _VIT_NORM_EPS,
            "image_size": math.isqrt(positions) * patches.shape[-1],
            "patch_size": patches.shape[-1],
            "num_channels": 3,
            "qkv_bias": True,
        }
    layer = "encoder.stages.{}.layers.{}.layer.{}.convolution.weight"
    bottleneck = layer.format(0, 0, 2) in named
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": named["embedder.embedder.convolution.weight"].shape[0],
        "hidden_sizes": [
            named[layer.format(stage, 0, 1 + bottleneck)].shape[0] for stage in range(4)
        ],
        "depths": [
            len({name.split(".")[4] for name in named if name.startswith(f"encoder.stages.{n}.")})
            for n in range(4)
        ],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
