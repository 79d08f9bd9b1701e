"""The public weights of torchvision and timm, downloaded or from their caches."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import Any

import timm
import torch
from torchvision import models

from hpt_dist.errors import RequestError, WeightsError, nearest
from hpt_dist.networks import backbones
from hpt_dist.weights.files import StateDict
from hpt_dist.weights.headers import Entry
from hpt_dist.weights.source import WeightsSource


def fetch(source: WeightsSource) -> StateDict:
    """Return the state dict of a library's weights.

    Args:
        source: of kind `torchvision` or `timm`.

    Raises:
        RequestError: the library has no such model or weights.
        WeightsError: it could not get the file.
    """
    return _fetch_torchvision(source) if source.kind == "torchvision" else _fetch_timm(source)


def listed(source: WeightsSource) -> dict[str, Entry]:
    """Return the entries that a library's weights have, which its network tells: no download.

    Args:
        source: of kind `torchvision` or `timm`.

    Raises:
        RequestError: the library has no such model or weights.
    """
    if source.kind == "torchvision":
        _torchvision_weights(source)
        build = partial(models.get_model, source.name, weights=None)
    else:
        backbones.resolve(f"timm/{source.name}")
        build = partial(timm.create_model, source.name, pretrained=False)
    state = backbones.without_memory(build).state_dict()
    return {
        name: Entry(tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in state.items()
    }


def _torchvision_weights(source: WeightsSource) -> Any:
    """Return torchvision's own object of some weights."""
    where = f"torchvision/{source.name}/{source.weights}"
    names = models.list_models(module=models)
    if source.name not in names:
        raise RequestError("no such model", where=where, fix=nearest(source.name, names))
    weights = {entry.name: entry for entry in models.get_model_weights(source.name)}
    if source.weights not in weights:
        allowed = ", ".join(weights)
        raise RequestError("no such weights of this model", where=where, allowed=allowed)
    return weights[source.weights]


def _fetch_torchvision(source: WeightsSource) -> StateDict:
    where = f"torchvision/{source.name}/{source.weights}"
    entry = _torchvision_weights(source)
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
