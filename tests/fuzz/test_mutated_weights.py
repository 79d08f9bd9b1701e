"""Mutated files of weights."""

from __future__ import annotations

import io

import mutations
import numpy as np
import pytest
import torch
from hostile import Attempts, count
from safetensors.torch import save

from hpt_dist.networks import backbones
from hpt_dist.store import open_store
from hpt_dist.weights import match

NAME = "timm/test_resnet"


def _npz(state) -> bytes:
    data = io.BytesIO()
    np.savez(data, **{name.replace(".", "/"): value.numpy() for name, value in state.items()})
    return data.getvalue()


def _pickled(state) -> bytes:
    data = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, data)
    return data.getvalue()


WRITERS = {"w.safetensors": save, "w.pt": _pickled, "w.npz": _npz}


@pytest.mark.parametrize("name", WRITERS)
def test_mutated_weights(request, tmp_path, name):
    state = backbones.create(backbones.resolve(NAME)).state_dict()
    original = WRITERS[name]({key: value.contiguous() for key, value in state.items()})
    store = open_store(str(tmp_path))
    path = tmp_path / name
    with Attempts(rf"{path.name}") as attempt:
        for number in range(count(request, 60)):
            given = mutations.data(original, mutations.generator(name, number))
            path.write_bytes(given)
            attempt(lambda: match.load(str(path), NAME, store), given)
