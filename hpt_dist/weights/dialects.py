"""The names that other projects give to a backbone's entries, for reading and for writing.

A dialect is a table from the backbone's own names to a file's. It exists only where the two
networks compute the same features. Networks that only look alike (batch norm with another epsilon,
other padding) have none, and `exports` reports why.

Names were read in public code and documents, none of which is part of this one: torchvision, timm,
facebookresearch/detectron2 (tools/convert-torchvision-to-d2.py), huggingface/transformers,
google-deepmind/deepmind-research (byol) with dm-haiku, Separius/SimCLRv2-Pytorch,
lightly-ai/lightly (examples), lukemelas/EfficientNet-PyTorch, facebookresearch/dinov2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial

from hpt_dist.networks import backbones
from hpt_dist.recipe import plugins

# The backbone's entry -> the file's entries, which are joined along their first dimension.
Names = dict[str, tuple[str, ...]]

# Residual networks of one shape and one set of names in torchvision and timm; the last group has
# grouped or wider convolutions, which some dialects cannot name.
PLAIN_RESNETS = frozenset({"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"})
RESNETS = PLAIN_RESNETS | {
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
}
_DENSENETS = {"densenet121", "densenet161", "densenet169", "densenet201"}

# torchvision's name -> timm's, of one shape and with other names, entry by entry in the same order.
_IN_ORDER = {f"efficientnet_b{n}": f"efficientnet_b{n}" for n in range(5)} | {
    "mobilenet_v2": "mobilenetv2_100"
}
_VITS_OF_TORCHVISION = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
}
# timm's plain vision transformers: a class token, biases, heads of 64 channels, nothing more.
_VITS = re.compile(r"(?:vit|deit)_(?:tiny|small|base|large)_patch(?:8|16|32)_(?:224|384)")

LABELS = {
    plugins.LIBRARY: "the backbone's own names",
    "torchvision": "torchvision's names",
    "timm": "timm's names",
    "detectron2": "detectron2's names",
    "huggingface": "Hugging Face's names",
    "simclr_v2": "names of SimCLRv2-Pytorch",
    "numbered": "torchvision's names with the network's children numbered",
    "haiku": "haiku's names",
    "efficientnet_pytorch": "names of efficientnet_pytorch",
    "dinov2": "DINOv2's names",
}


def model_in(library: str, full_name: str) -> str:
    """Return the name by which a library knows a backbone, or an empty string.

    Args:
        library: `torchvision` or `timm`.
        full_name: see `backbones.resolve`.
    """
    own, model = full_name.split("/")
    if own == library:
        return model
    if own not in backbones.LIBRARIES:
        return ""  # a name that it shares with theirs says nothing
    model = model.split(".")[0]  # without the tag of timm's weights
    pairs = _IN_ORDER | _VITS_OF_TORCHVISION
    if own == "timm":
        pairs = {other_name: own_name for own_name, other_name in pairs.items()}
    same = model if model in RESNETS | _DENSENETS else ""
    return pairs.get(model, same)


def is_vit(full_name: str) -> bool:
    """Return whether a backbone is a plain vision transformer."""
    return bool(_VITS.fullmatch(model_in("timm", full_name).split(".")[0]))


@cache
def shapes(full_name: str) -> Mapping[str, tuple[int, ...]]:
    """Return the names of a backbone's entries and their shapes."""
    state = backbones.blank(full_name).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def dialects_of(full_name: str) -> dict[str, Names]:
    """Return every dialect of a backbone by its name, the backbone's own first.

    Args:
        full_name: see `backbones.resolve`.
    """
    entries = list(shapes(full_name))
    library, model = full_name.split("/")
    own: Names = {name: (name,) for name in entries}
    dialects = {library: own}
    if library not in backbones.LIBRARIES:
        return dialects
    other = "timm" if library == "torchvision" else "torchvision"
    model = model.split(".")[0]
    if model in RESNETS | _DENSENETS:
        dialects[other] = own
    if model in RESNETS:
        dialects |= {name: _renamed(entries, rename) for name, rename in _OF_RESNETS.items()}
        if model not in PLAIN_RESNETS:
            del dialects["huggingface"]
    elif is_vit(full_name):
        dialects |= _of_vit(library, entries, bool(model_in(other, full_name)))
    elif twin := model_in(other, full_name):
        dialects[other] = _in_order(entries, f"{other}/{twin}")
    if library == "timm" and "dinov2" in model:
        dialects["dinov2"] = _renamed(entries, partial(_dinov2, gated="giant" in model))
    if "blocks.0.0.conv_dw.weight" in own:
        dialects["efficientnet_pytorch"] = efficientnet_pytorch(entries)
    return dialects


def _renamed(entries: Iterable[str], rename: Callable[[str], str | None]) -> Names:
    named = ((name, rename(name)) for name in entries)
    return {name: (other_name,) for name, other_name in named if other_name}


def _in_order(entries: list[str], twin: str) -> Names:
    return {
        own_name: (other_name,) for own_name, other_name in zip(entries, shapes(twin), strict=True)
    }


# Residual networks. The own names are torchvision's: conv1, bn1, layerS.B.convN, layerS.B.bnN, and
# layerS.B.downsample, 0 a convolution and 1 its norm.


@dataclass(frozen=True)
class _EntryPlace:
    """The place of an entry in a residual network.

    Args:
        stage: 1 to 4; 0 is the stem.
        block: in the stage, from 0.
        layer: in the block, from 1; 0 is the shortcut.
        norm: whether it is a batch norm's, and not a convolution's.
        entry: `weight`, `bias`, `running_mean`, `running_var` or `num_batches_tracked`.
    """

    stage: int
    block: int
    layer: int
    norm: bool
    entry: str


_RESNET_ENTRY = re.compile(
    r"(?:layer(?P<stage>\d)\.(?P<block>\d+)\.)?"
    r"(?:(?P<kind>conv|bn)(?P<layer>\d)|downsample\.(?P<shortcut>[01]))\.(?P<entry>\w+)"
)


def _place(name: str) -> _EntryPlace:
    parsed = _RESNET_ENTRY.fullmatch(name)
    if not parsed:
        raise ValueError(f"{name} is not an entry of a residual network")
    norm = parsed["kind"] == "bn" or parsed["shortcut"] == "1"
    stage, block, layer = (int(parsed[group] or 0) for group in ("stage", "block", "layer"))
    return _EntryPlace(stage, block, layer, norm, parsed["entry"])


def _detectron2(name: str) -> str:
    at = _place(name)
    layer = f"conv{at.layer}" if at.layer else "shortcut"
    root = f"res{at.stage + 1}.{at.block}" if at.stage else "stem"
    return f"{root}.{layer}.{'norm.' if at.norm else ''}{at.entry}"


def _huggingface_resnet(name: str) -> str:
    at = _place(name)
    kind = "normalization" if at.norm else "convolution"
    if not at.stage:
        return f"embedder.embedder.{kind}.{at.entry}"
    layer = f"layer.{at.layer - 1}" if at.layer else "shortcut"
    return f"encoder.stages.{at.stage - 1}.layers.{at.block}.{layer}.{kind}.{at.entry}"


def _simclr_v2(name: str) -> str:
    at = _place(name)
    norm = ".0" if at.norm else ""  # a norm is the first of a pair with its ReLU
    if not at.stage:
        return f"net.0.{int(at.norm)}{norm}.{at.entry}"
    if at.layer:
        layer = f"net.{2 * (at.layer - 1) + at.norm}"
    else:
        layer = "projection.bn" if at.norm else "projection.shortcut"
    return f"net.{at.stage}.blocks.{at.block}.{layer}{norm}.{at.entry}"


def _numbered(name: str) -> str:
    """Name an entry of `nn.Sequential(*network.children())`; 2 and 3 are ReLU and pooling."""
    module, _, rest = name.partition(".")
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return f"{numbers[module]}.{rest}"


_HAIKU_NORM = {
    "weight": "scale",
    "bias": "offset",
    "running_mean": "mean_ema.average",
    "running_var": "var_ema.average",
}


def _haiku(name: str) -> str | None:
    at = _place(name)
    if at.entry not in _HAIKU_NORM:
        return None  # its counters count something else
    kind, entry = ("batchnorm", _HAIKU_NORM[at.entry]) if at.norm else ("conv", "w")
    if not at.stage:
        return f"initial_{kind}.{entry}"
    layer = f"{kind}_{at.layer - 1}" if at.layer else f"shortcut_{kind}"
    return f"block_group_{at.stage - 1}.block_{at.block}.{layer}.{entry}"


_OF_RESNETS: dict[str, Callable[[str], str | None]] = {
    "detectron2": _detectron2,
    "huggingface": _huggingface_resnet,
    "simclr_v2": _simclr_v2,
    "numbered": _numbered,
    "haiku": _haiku,
}

# Vision transformers: timm's name, torchvision's, and Hugging Face's as in its files (which its
# version 5 renames on loading). `{n}` is the block's number. Hugging Face splits queries, keys and
# values, which timm joins in this order.

_VIT_OUTSIDE = (
    ("cls_token", "class_token", "embeddings.cls_token"),
    ("pos_embed", "encoder.pos_embedding", "embeddings.position_embeddings"),
    ("patch_embed.proj", "conv_proj", "embeddings.patch_embeddings.projection"),
    ("norm", "encoder.ln", "layernorm"),
)
_VIT_BLOCK = (
    ("norm1", "ln_1", "layernorm_before"),
    ("attn.proj", "self_attention.out_proj", "attention.output.dense"),
    ("norm2", "ln_2", "layernorm_after"),
    ("mlp.fc1", "mlp.0", "intermediate.dense"),
    ("mlp.fc2", "mlp.3", "output.dense"),
)


def _vit_rows(depth: int) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """Yield timm's, torchvision's and Hugging Face's names of every entry."""
    for timm, torchvision, huggingface in _VIT_OUTSIDE:
        entries = (
            ("",) if timm.endswith(("_token", "_embed")) else (".weight", ".bias")
        )  # a parameter, or a layer
        for entry in entries:
            yield timm + entry, torchvision + entry, (huggingface + entry,)
    for n in range(depth):
        roots = f"blocks.{n}.", f"encoder.layers.encoder_layer_{n}.", f"encoder.layer.{n}."
        for entry in ("weight", "bias"):
            for row in _VIT_BLOCK:
                timm, torchvision, huggingface = (
                    f"{root}{layer}.{entry}" for root, layer in zip(roots, row, strict=True)
                )
                yield timm, torchvision, (huggingface,)
            yield (
                f"{roots[0]}attn.qkv.{entry}",
                f"{roots[1]}self_attention.in_proj_{entry}",
                tuple(
                    f"{roots[2]}attention.attention.{part}.{entry}"
                    for part in ("query", "key", "value")
                ),
            )


def _of_vit(library: str, entries: list[str], has_twin: bool) -> dict[str, Names]:
    depth = sum(name.endswith((".norm1.weight", ".ln_1.weight")) for name in entries)
    rows = list(_vit_rows(depth))
    if library == "timm":
        dialects: dict[str, Names] = {
            "huggingface": {timm: other_name for timm, _, other_name in rows}
        }
        other: dict[str, Names] = {"torchvision": {timm: (tv,) for timm, tv, _ in rows}}
    else:
        dialects = {"huggingface": {tv: other_name for _, tv, other_name in rows}}
        other = {"timm": {tv: (timm,) for timm, tv, _ in rows}}
    return dialects | other if has_twin else dialects


def _dinov2(name: str, gated: bool) -> str:
    """Name an entry of timm's as DINOv2 does, whose largest network has MLPs with a gate."""
    if name == "reg_token":
        return "register_tokens"
    if gated:
        return name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
    return name


# EfficientNet in the names of the package that many older files come from.

_TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)\.(\w+)$")
_OUTSIDE_BLOCKS = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
_SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
_PLAIN_BLOCK = {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
    **_SQUEEZE,
}
_EXPANDED_BLOCK = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
    **_SQUEEZE,
}


def efficientnet_pytorch(entries: Iterable[str]) -> Names:
    """Return the names of the `efficientnet_pytorch` family of files for timm's.

    Those files count blocks through; timm counts them within stages. A block without expansion
    (the first stage's) has a depthwise and a projecting layer, the others one more in front.

    Args:
        entries: the backbone's, such as `blocks.2.0.conv_pw.weight`.
    """
    entries = list(entries)
    places = {name: parsed for name in entries if (parsed := _TIMM_BLOCK.match(name))}
    blocks = sorted({(int(m[1]), int(m[2])) for m in places.values()})
    expanded = {(int(m[1]), int(m[2])) for m in places.values() if m[3] == "conv_pwl"}

    def translate(name: str) -> str | None:
        if not (parsed := places.get(name)):
            module, _, entry = name.partition(".")
            return f"{_OUTSIDE_BLOCKS[module]}.{entry}" if module in _OUTSIDE_BLOCKS else None
        block = int(parsed[1]), int(parsed[2])
        layers = _EXPANDED_BLOCK if block in expanded else _PLAIN_BLOCK
        layer = layers.get(parsed[3])
        return f"_blocks.{blocks.index(block)}.{layer}.{parsed[4]}" if layer else None

    return _renamed(entries, translate)
