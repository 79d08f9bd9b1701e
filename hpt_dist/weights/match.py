"""Weights in: any known source to a backbone's state dict, with a report of the matches.

`source` parses where weights come from, `files` reads them without running code in them,
`encoders` and `dialects` find the backbone in them; `exports` writes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import timm
import torch
from torch import Tensor
from torchvision import models

from hpt_dist.errors import RequestError, WeightsError, nearest
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.store import Store
from hpt_dist.weights import dialects, encoders
from hpt_dist.weights import source as weights_source
from hpt_dist.weights.files import StateDict, tensors
from hpt_dist.weights.files import read as read
from hpt_dist.weights.files import save as save
from hpt_dist.weights.source import WeightsSource

MATCHED_SHARE = 0.99  # of the backbone's entries; less is refused unless forced

_NAMES_SHOWN = 4


@dataclass(frozen=True)
class MatchReport:
    """How a file's entries fit a backbone's.

    Not counted are absent counters (`num_batches_tracked`, which older files lack and no default
    batch norm reads).

    Args:
        matched: names with the same shape on both sides.
        missing: the backbone's names that the file lacks.
        unexpected: the file's names that neither the backbone nor any known head has.
        misshapen: `name file-shape, backbone-shape` where the two differ.
        recognised: the project that wrote the file, the chosen encoder, and its place in the file.
        aside: entries left out on purpose, as `place (number of entries)`: classifiers and
            projection heads, other encoders, queues.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    recognised: str = ""
    aside: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The matched share of the backbone's entries, 0 to 1."""
        return len(self.matched) / self._expected

    @property
    def _expected(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.misshapen)

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} of {self._expected} entries match ({self.share:.1%})"]
        if self.recognised:
            lines.append(f"  recognised: {self.recognised}")
        kinds = ("missing", "unexpected", "misshapen", "aside")
        for kind in kinds:
            if names := getattr(self, kind):
                more = f", ... {len(names)} in all" if len(names) > _NAMES_SHOWN else ""
                title = "left aside" if kind == "aside" else kind
                lines.append(f"  {title}: {', '.join(names[:_NAMES_SHOWN])}{more}")
        return "\n".join(lines)


def load(
    source: str, backbone_name: str, store: Store, *, force: bool = False, fingerprint: str = ""
) -> tuple[StateDict, MatchReport]:
    """Read weights from a source, in the names of a backbone.

    Args:
        source: see `source.WeightsSource`.
        backbone_name: see `backbones.resolve`.
        store: where relative paths are looked up.
        force: accept weights of which less than 99 % match.
        fingerprint: the result of `source.fingerprint` at planning; if it starts with `sha256:`,
            other content is refused.

    Returns:
        A state dict with every entry of the backbone; and the report of the matches. Entries that
        did not match, and all of `random`, come from torch's generator, which the caller seeds.

    Raises:
        RequestError: the source, its encoder or the backbone does not exist.
        WeightsError: the weights cannot be downloaded, are damaged, or do not fit.
    """
    parsed = weights_source.parse(source)
    full_name = backbones.resolve(backbone_name)
    backbone = backbones.create(full_name)
    if parsed.kind == "random":
        fresh = backbone.state_dict()
        return fresh, MatchReport(matched=tuple(fresh))
    entries = _fetch(parsed, store, fingerprint)
    try:
        state, report = match(entries, backbone, full_name, parsed.encoder)
    except RequestError as error:
        problem = error.problem
        raise RequestError(problem.what, where=source, allowed=problem.allowed) from error
    if report.share < MATCHED_SHARE and not force:
        raise WeightsError(
            f"these weights do not fit {full_name}: {report}",
            where=source,
            allowed=f"at least {MATCHED_SHARE:.0%} of the backbone's entries",
            fix="name the backbone that the weights were made for, or set force: true",
        )
    return state, report


def match(
    entries: Mapping[str, Tensor], backbone: Backbone, full_name: str, encoder: str = ""
) -> tuple[StateDict, MatchReport]:
    """Fit a file's entries to a backbone: find it among them, and translate its names.

    Args:
        entries: of the file by full name.
        backbone: gives the names, shapes and types, and the values of missing entries.
        full_name: the backbone's, see `backbones.resolve`.
        encoder: which of several to take, see `encoders`; empty for the default.

    Raises:
        RequestError: there is no such encoder among them.
    """
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    known = dialects.dialects_of(full_name)
    at, others = encoders.find(entries, known, dialects.shapes(full_name), encoder)
    names = {
        name: [at.prefix + part for part in parts] for name, parts in known[at.dialect].items()
    }
    matched, missing, misshapen = [], [], []
    for name, value in state.items():
        parts = [entries[part] for part in names.get(name, ()) if part in entries]
        if not parts or len(parts) < len(names[name]):
            if not name.endswith("num_batches_tracked"):
                missing.append(name)
            continue
        fitting = _joined(parts, value)
        if fitting is None:
            shape = " + ".join(str(list(part.shape)) for part in parts)
            misshapen.append(f"{name} {shape}, {list(value.shape)}")
        else:
            value.copy_(fitting)
            matched.append(name)
    taken = {part for parts in names.values() for part in parts}
    aside, unexpected = encoders.split_rest(
        entries, taken, at, others, set(backbone.classifier_names)
    )
    report = MatchReport(
        tuple(matched),
        tuple(missing),
        tuple(unexpected),
        tuple(misshapen),
        str(at),
        tuple(aside),
    )
    return state, report


def _joined(parts: list[Tensor], like: Tensor) -> Tensor | None:
    """Return several tensors joined to one, or None if the result has another shape than `like`."""
    if len(parts) > 1:
        if any(part.shape[1:] != like.shape[1:] or not part.dim() for part in parts):
            return None
        parts = [torch.cat(parts)]
    return parts[0] if parts[0].shape == like.shape else None


def _fetch(source: WeightsSource, store: Store, fingerprint: str) -> StateDict:
    if source.kind == "torchvision":
        return _fetch_torchvision(source)
    if source.kind == "timm":
        return _fetch_timm(source)
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
        return tensors(data, name)
    except WeightsError as error:
        raise WeightsError(error.problem.what, where=source.name, fix=error.problem.fix) from error


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
            state = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"torchvision could not get the file: {error}",
            where=where,
            fix=f"put {entry.url} into {torch.hub.get_dir()}/checkpoints, or name a file",
        ) from error
    return dict(state)


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
