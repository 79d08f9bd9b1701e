"""Files of weights to named tensors, and back. Nothing in a file is executed.

Pickles are read with `weights_only=True`: what they hold besides tensors and plain values is
refused before it is created. Arrays of numpy are read with `allow_pickle=False`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Parameter

from hpt_dist.errors import WeightsError

StateDict = dict[str, Tensor]

# Training scripts save their options beside the weights (facebookresearch/dino does). A namespace
# only holds attributes, and what those are is checked like everything else.
_HARMLESS_CLASSES: list[Any] = [argparse.Namespace]
_DEEPEST = 8  # levels of dicts in a file
_CODE_IN_PICKLE = re.compile(r"GLOBAL ([\w.]+)")


def tensors(data: bytes, name: str) -> StateDict:
    """Return every tensor of a file by its full name, dots between the levels.

    Args:
        data: the file.
        name: its name; the suffix determines the format.

    Raises:
        WeightsError: it is damaged, holds code, or holds no named tensors.
    """
    if name.endswith(".safetensors"):
        return read(data)[0]
    content = _read_npz(data) if name.endswith(".npz") else _flat(_read_pickle(data))
    if not content:
        raise WeightsError(
            "this holds no state dict: no tensors with names",
            fix="save the state dict: torch.save(model.state_dict(), path)",
        )
    return content


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


def content_digest(data: bytes) -> str:
    """Return the SHA-256 of a safetensors file's tensors: names, types, shapes and values.

    Raises:
        WeightsError: the file is damaged.
    """
    header, body = _split(data)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    names = json.dumps(tensors, sort_keys=True).encode()
    return str(hashlib.sha256(names + b"\0" + body).hexdigest())


def save_pickle(content: Mapping[str, Any]) -> bytes:
    """Return a file of torch's, for programs that read nothing else."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def _read_pickle(data: bytes) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS_CLASSES):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise almost anything
        if code := _CODE_IN_PICKLE.search(str(error)):
            raise WeightsError(
                f"this holds a {code[1]}, which is not read: creating one could run code",
                fix="where you trust the file, save its tensors alone: "
                "torch.save(model.state_dict(), path)",
            ) from error
        raise WeightsError(
            f"this is no complete file of plain tensors ({type(error).__name__})",
            fix="save the state dict alone: torch.save(model.state_dict(), path)",
        ) from error


def _flat(content: Any, root: str = "", depth: int = 0) -> StateDict:
    """Return the dense tensors of nested dicts; options, optimizers and the like are not named."""
    tensors: StateDict = {}
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return tensors
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if type(value) in (Tensor, Parameter) and _is_dense(value):
            inner = {root + name: value.detach()}
        else:
            inner = _flat(value, f"{root}{name}.", depth + 1)
        if twice := tensors.keys() & inner.keys():
            raise WeightsError(f"this is no state dict: it holds {min(twice)} twice")
        tensors |= inner
    return tensors


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta and not value.is_quantized


def _read_npz(data: bytes) -> StateDict:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise WeightsError("this is a single array, not an npz archive")  # noqa: TRY301
            arrays = {name: archive[name] for name in archive.files}
        if any("/~/" in name for name in arrays):
            return _from_haiku(arrays)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except WeightsError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, MemoryError) as error:
        raise WeightsError(f"this is no complete npz file ({type(error).__name__})") from error
    except Exception as error:  # damaged bytes can raise almost anything
        raise WeightsError(
            f"this npz file cannot be read: {error}",
            fix="write arrays of plain numbers: np.savez(path, **{name: np.asarray(value)})",
        ) from error


def _from_haiku(arrays: Mapping[str, np.ndarray[Any, Any]]) -> StateDict:
    """Give haiku's parameters dotted names and torch's order of dimensions.

    A convolution's `w` is [height, width, in, out] there and [out, in, height, width] here; a
    linear layer's is turned too. A norm's values are [1, 1, 1, channels]. Its averages keep
    `average`, which evaluation reads, and drop `hidden` and `counter`, from which it is computed.
    """
    state: StateDict = {}
    for name, array in arrays.items():
        *module, entry = name.replace("/~/", "/").split("/")
        if entry in ("hidden", "counter"):
            continue
        if entry == "w":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T  # noqa: PLW2901
        else:
            array = array.reshape(-1)  # noqa: PLW2901
        state[".".join([*module, entry])] = torch.from_numpy(np.ascontiguousarray(array))
    return state


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the body of a whole safetensors file."""
    body = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:body]), data[body:]
