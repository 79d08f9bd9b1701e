"""Weights in and out: any known source to a backbone's state dict, and back to plain files.

Nothing in a file is executed: pickles are read with `weights_only=True`, and what they hold
besides tensors is refused.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor
from torchvision import models

from hpt_dist import backbones, weights_source
from hpt_dist.backbones import Backbone
from hpt_dist.errors import RequestError, WeightsError, nearest
from hpt_dist.store import Store
from hpt_dist.weights_source import WeightsSource

StateDict = dict[str, Tensor]
Format = Literal["safetensors", "timm", "torchvision"]

MATCHED_SHARE = 0.99  # of the backbone's entries; less is refused unless forced

_WRAPPERS = ("state_dict", "model")  # keys under which training scripts put a state dict
_PREFIXES = ("", "module.", "backbone.", "module.backbone.")
_NAMES_SHOWN = 4


@dataclass(frozen=True)
class MatchReport:
    """How a file's entries fit a backbone's.

    Not counted are the file's classifier and absent counters (`num_batches_tracked`, which older
    files lack and no default batch norm reads).

    Args:
        matched: names with the same shape on both sides.
        missing: the backbone's names that the file lacks.
        unexpected: the file's names that the backbone lacks.
        misshapen: `name file-shape, backbone-shape` where the two differ.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The matched share of the backbone's entries, 0 to 1."""
        return len(self.matched) / self._expected

    @property
    def _expected(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.misshapen)

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} of {self._expected} entries match ({self.share:.1%})"]
        for kind in ("missing", "unexpected", "misshapen"):
            if names := getattr(self, kind):
                more = f", ... {len(names)} in all" if len(names) > _NAMES_SHOWN else ""
                lines.append(f"  {kind}: {', '.join(names[:_NAMES_SHOWN])}{more}")
        return "\n".join(lines)


def load(
    source: str, backbone_name: str, store: Store, *, force: bool = False
) -> tuple[StateDict, MatchReport]:
    """Read weights from a source, in the names of a backbone.

    Args:
        source: see `weights_source`.
        backbone_name: see `backbones.resolve`.
        store: where relative paths are looked up.
        force: accept weights of which less than 99 % match.

    Returns:
        A state dict with every entry of the backbone; and the report of what matched. What did
        not match, and all of `random`, is drawn from torch's generator, which the caller seeds.

    Raises:
        RequestError: the source or the backbone does not exist.
        WeightsError: the weights cannot be had, are damaged, or do not fit.
    """
    parsed = weights_source.parse(source)
    backbone = backbones.create(backbone_name)
    if parsed.kind == "random":
        fresh = backbone.state_dict()
        return fresh, MatchReport(matched=tuple(fresh))
    state, report = match(_fetch(parsed, store), backbone)
    if report.share < MATCHED_SHARE and not force:
        raise WeightsError(
            f"these weights do not fit {backbones.resolve(backbone_name)}: {report}",
            where=source,
            allowed=f"at least {MATCHED_SHARE:.0%} of the backbone's entries",
            fix="name the backbone that the weights were made for, or set force: true",
        )
    return state, report


def match(found: Mapping[str, Tensor], backbone: Backbone) -> tuple[StateDict, MatchReport]:
    """Fit a file's entries to a backbone: by name, after taking off what wraps the names.

    Args:
        found: the file's entries; a classifier among them is left out.
        backbone: gives the names, shapes and types, and the values of what is not found.
    """
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    found = _renamed(found, state)
    matched, missing, misshapen = [], [], []
    for name, value in state.items():
        if name not in found:
            if not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif found[name].shape != value.shape:
            misshapen.append(f"{name} {list(found[name].shape)}, {list(value.shape)}")
        else:
            value.copy_(found[name])
            matched.append(name)
    classifier = tuple(f"{name}." for name in backbone.classifier_names)
    unexpected = [name for name in found if name not in state and not name.startswith(classifier)]
    return state, MatchReport(tuple(matched), tuple(missing), tuple(unexpected), tuple(misshapen))


def save(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file; equal tensors and metadata give equal bytes."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    data = safetensors.torch.save(copies)
    # The library writes metadata in an order that changes from process to process.
    header, body = _split(data)
    header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def read(data: bytes) -> tuple[StateDict, dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise WeightsError(f"this is no complete safetensors file: {error}") from error
    header, _ = _split(data)
    return state, header.get("__metadata__", {})


def export(
    state: Mapping[str, Tensor], backbone_name: str, file_format: Format
) -> tuple[bytes, str]:
    """Return a file for others to load, and a name for it.

    `timm` loads by `timm.create_model(NAME, num_classes=0).load_state_dict(...)`, `torchvision`
    by `load_state_dict(..., strict=False)`, where only the classifier is missing.

    Raises:
        RequestError: the backbone is not from that library.
        WeightsError: the state dict is not the backbone's.
    """
    full_name = backbones.resolve(backbone_name)
    library, model = full_name.split("/")
    _, report = match(state, backbones.create(full_name))
    if report.share < 1 or report.unexpected:
        raise WeightsError(f"this is no state dict of {full_name}: {report}")
    if file_format == "safetensors":
        return save(state, {"backbone": full_name, "format": "pt"}), f"{model}.safetensors"
    if file_format != library:
        raise RequestError(
            f"{full_name} has {library}'s names",
            where=f"format {file_format}",
            allowed=f"{library}, safetensors",
        )
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, buffer)
    return buffer.getvalue(), f"{model}.pth"


def from_efficientnet_pytorch(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Translate the names of the `efficientnet_pytorch` family of files into timm's.

    Those files count blocks through; timm counts them within stages. A block without expansion
    (the first stage's) has a depthwise and a projecting layer, the others one more in front.

    Args:
        names: the file's, such as `_blocks.3._expand_conv.weight`.
        expected: the backbone's, such as `blocks.2.0.conv_pw.weight`, which show the stages.

    Returns:
        The file's names and timm's, those without a counterpart unchanged.
    """
    names = list(names)
    stages = sorted({(int(m[1]), int(m[2])) for name in expected if (m := _TIMM_BLOCK.match(name))})
    expanded = {int(m[1]) for name in names if (m := _BLOCK.match(name)) and m[2] == "_expand_conv"}

    def translate(name: str) -> str:
        if not (m := _BLOCK.match(name)):
            module, _, entry = name.partition(".")
            return f"{_OUTSIDE_BLOCKS.get(module, module)}.{entry}"
        number, module, entry = int(m[1]), m[2], m[3]
        layers = _EXPANDED_BLOCK if number in expanded else _PLAIN_BLOCK
        if number >= len(stages) or module not in layers:
            return name
        stage, block = stages[number]
        return f"blocks.{stage}.{block}.{layers[module]}.{entry}"

    return {name: translate(name) for name in names}


_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)$")
_TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_PLAIN_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
    **_SQUEEZE,
}
_EXPANDED_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_SQUEEZE,
}


def _renamed(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> StateDict:
    """Take off the prefix that leaves most of the expected names, and translate known dialects."""
    if "_conv_stem.weight" in found:
        names = from_efficientnet_pytorch(found, expected)
        return {names[name]: tensor for name, tensor in found.items()}

    def fits(prefix: str) -> int:
        return sum(prefix + name in found for name in expected)

    prefix = max(_PREFIXES, key=fits)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _fetch(source: WeightsSource, store: Store) -> StateDict:
    if source.kind == "torchvision":
        return _fetch_torchvision(source)
    if source.kind == "timm":
        return _fetch_timm(source)
    place, info = weights_source.locate(source, store)
    data = place.get(info.path)
    try:
        return read(data)[0] if info.path.endswith(".safetensors") else _read_pickle(data)
    except WeightsError as error:
        raise WeightsError(error.problem.what, where=source.name, fix=error.problem.fix) from error


def _read_pickle(data: bytes) -> StateDict:
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise almost anything
        raise WeightsError(
            f"this is no complete file of plain tensors ({type(error).__name__})",
            fix="save the state dict alone: torch.save(model.state_dict(), path)",
        ) from error
    return _unwrapped(found)


def _unwrapped(found: Any) -> StateDict:
    for key in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise WeightsError(f"this holds a {type(found).__name__}, not a state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"this is no state dict: its entry {name!r} is a {type(value).__name__}",
                fix=f"save the state dict alone, or under {' or '.join(_WRAPPERS)}",
            )
    return found


def _fetch_torchvision(source: WeightsSource) -> StateDict:
    where = f"torchvision/{source.name}/{source.weights}"
    names = models.list_models(module=models)
    if source.name not in names:
        raise RequestError("no such model", where=where, fix=nearest(source.name, names))
    weights = {entry.name: entry for entry in models.get_model_weights(source.name)}
    if source.weights not in weights:
        allowed = ", ".join(weights)
        raise RequestError("no such weights of this model", where=where, allowed=allowed)
    entry = weights[source.weights]
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it announces downloads on stdout
            found = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"torchvision could not get the file: {error}",
            where=where,
            fix=f"put {entry.url} into {torch.hub.get_dir()}/checkpoints, or name a file",
        ) from error
    return _unwrapped(found)


def _fetch_timm(source: WeightsSource) -> StateDict:
    where = f"timm/{source.name}"
    backbones.resolve(where)
    try:
        # With its classifier, since only then does timm insist that every entry matches.
        model = timm.create_model(source.name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"timm could not get the weights: {error}",
            where=where,
            fix="load them once on a machine with network and share HF_HOME, or name a file",
        ) from error
    state: StateDict = model.state_dict()
    return state


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the body of a whole safetensors file."""
    body = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:body]), data[body:]
