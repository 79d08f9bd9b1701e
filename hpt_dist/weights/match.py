"""Weights in: any known source to a backbone's state dict, with a report of the matches.

`source` parses where weights come from; `headers` and `files` read them without running code in
them, `libraries` those of timm and torchvision; `encoders` and `dialects` find the backbone in
them, `fit` compares, `adapt` resamples and repeats, `values` refuses. `exports` writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.page import one_line
from hpt_dist.store import Store
from hpt_dist.weights import files, fit, libraries, values
from hpt_dist.weights import source as weights_source
from hpt_dist.weights.adapt import CLASS_TOKENS, Positions
from hpt_dist.weights.files import StateDict, WeightsFile
from hpt_dist.weights.files import read as read
from hpt_dist.weights.files import save as save
from hpt_dist.weights.fit import Fit, MatchReport, Taken
from hpt_dist.weights.source import WeightsSource


def load(
    source: str, backbone_name: str, store: Store, *, force: bool = False, fingerprint: str = ""
) -> tuple[StateDict, MatchReport]:
    """Read weights from a source, in the names of a backbone.

    Args:
        source: see `source.WeightsSource`.
        backbone_name: see `backbones.resolve`.
        store: where relative paths are looked up.
        force: accept weights of which entries are missing, misshapen or of other layers.
        fingerprint: the result of `source.fingerprint` at planning; if it starts with `sha256:`,
            other content is refused.

    Returns:
        A state dict with every entry of the backbone; and the report of the matches. Entries that
        did not match, and all of `random`, come from torch's generator, which the caller seeds.

    Raises:
        RequestError: the source, its encoder or the backbone does not exist, or the file holds
            several networks and nothing says which is meant.
        WeightsError: the weights cannot be downloaded, are damaged, do not fit, or hold numbers
            that no weights have.
    """
    parsed = weights_source.parse(source)
    full_name = backbones.resolve(backbone_name)
    backbone = backbones.create(full_name)
    if parsed.kind == "random":
        fresh = backbone.state_dict()
        return fresh, MatchReport(matched=tuple(fresh))
    file = _opened(parsed, store, fingerprint)
    try:
        found = fit.fit(file.entries, backbone, full_name, parsed.encoder)
        _refuse_rivals(file, found, parsed.name)
    except RequestError as error:
        raise error.at(source) from error
    if not force:
        fit.require(found, file.entries, full_name, source)
    values.refuse(found.faults, source)
    return _filled(file, found, backbone, source), found.report


def match(
    file: WeightsFile, backbone: Backbone, full_name: str, encoder: str = ""
) -> tuple[StateDict, MatchReport]:
    """Fit a file's entries to a backbone: find it among them, and translate its names.

    Args:
        file: see `files.opened`.
        backbone: gives the names, shapes and types, and the values of missing entries.
        full_name: the backbone's, see `backbones.resolve`.
        encoder: which of several to take, see `encoders`; empty for the default.

    Raises:
        RequestError: there is no such encoder among them.
        WeightsError: entries hold numbers that no weights have.
    """
    found = fit.fit(file.entries, backbone, full_name, encoder)
    values.refuse(found.faults)
    return _filled(file, found, backbone, ""), found.report


def foresee(path: Path | None, source: str, backbone_name: str) -> None:
    """Refuse weights whose entries do not fit a backbone, to judge by names, types and shapes.

    Args:
        path: of the file; None for weights of a library, or random ones, which fit each backbone.
        source: which the weights are.
        backbone_name: see `backbones.resolve`.

    Raises:
        RequestError: the encoder, the backbone or the weights do not exist.
        WeightsError: the file is damaged, or does not fit.
    """
    full_name, parsed = backbones.resolve(backbone_name), weights_source.parse(source)
    if parsed.kind == "random":
        return
    entries = files.listed(path) if path else libraries.listed(parsed)
    blank, encoder = backbones.blank(full_name), parsed.encoder
    found = fit.fit(entries, blank, full_name, encoder)
    fit.require(found, entries, full_name, "")
    values.refuse(found.faults)


def _opened(source: WeightsSource, store: Store, fingerprint: str) -> WeightsFile:
    if source.kind in ("torchvision", "timm"):
        return files.of_tensors(libraries.fetch(source))
    name, data = weights_source.content(source, store)
    if fingerprint.startswith("sha256:"):
        digest = hashlib.sha256(data).hexdigest()
        if not fingerprint.startswith(f"sha256:{digest}"):
            raise WeightsError(
                "these weights have changed since the trial was planned",
                where=source.name,
                fix="launch again; results under the new content get a new key",
            )
    try:
        return files.opened(data, name)
    except WeightsError as error:
        raise error.at(source.name) from error


def _refuse_rivals(file: WeightsFile, found: Fit, name: str) -> None:
    """Refuse to guess which of several networks is meant; equal ones are no question."""
    others = [
        place for place, rival in found.rivals.items() if not _equal(file, found.taken, rival)
    ]
    if others:
        choices = [one_line(place) for place in (found.place, *others)]
        raise RequestError(
            f"this file holds {len(choices)} networks that fit, and nothing says which is meant",
            allowed=", ".join(choices),
            fix=f"choose one, as in {name}#{choices[0]}",
        )


def _equal(file: WeightsFile, one: Mapping[str, Taken], other: Mapping[str, Taken]) -> bool:
    """Return whether two networks of a file hold the same values."""
    if one.keys() != other.keys():
        return False
    pairs = (pair for name in one for pair in zip(one[name].parts, other[name].parts, strict=True))
    return all(a == b or torch.equal(file.read(a), file.read(b)) for a, b in pairs)


def _filled(file: WeightsFile, found: Fit, backbone: Backbone, where: str) -> StateDict:
    """Return the backbone's state dict with what is taken of a file, its values checked."""
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    faults: dict[str, str] = {}
    of_class: list[Tensor] = []
    for name, taken in found.taken.items():
        own = state[name]
        try:
            parts = [file.read(part) for part in taken.parts]
        except WeightsError as error:
            raise error.at(where) from error
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        if fault := values.wrong_values(name, joined, own):
            faults[name] = fault
            continue
        given = joined.to(own.dtype)
        if isinstance(taken.change, Positions) and taken.change.moves_class:
            of_class.append(taken.change.of_class(given))
        own.copy_(taken.change(given) if taken.change else given.reshape(own.shape))
    values.refuse(faults, where)
    for name in CLASS_TOKENS:
        for added in of_class:
            if name in state:
                state[name] += added
    return state
