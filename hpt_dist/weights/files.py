"""Files of weights to named tensors, and back. Nothing in a file is executed.

Pickles are read with `weights_only=True`: what they hold besides tensors and plain values is
refused before it is created. Arrays of numpy are read with `allow_pickle=False`, and only those
that are asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Parameter

from hpt_dist.errors import WeightsError
from hpt_dist.page import one_line
from hpt_dist.weights import headers
from hpt_dist.weights.headers import Array, Entry

StateDict = dict[str, Tensor]

# Training scripts save their options beside the weights (facebookresearch/dino does). A namespace
# only holds attributes, and what those are is checked like everything else.
_HARMLESS_CLASSES: list[Any] = [argparse.Namespace]
_DEEPEST = 8  # levels of dicts in a file
_MOST_VALUES = 1_000_000  # in all dicts of a file; one in many places counts in each
_CODE_IN_PICKLE = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights: what it declares, and its tensors when they are asked for.

    Args:
        entries: by full name, dots between the levels.
        read: returns the tensor of an entry.
    """

    entries: Mapping[str, Entry]
    read: Callable[[str], Tensor]


def opened(data: bytes, name: str) -> WeightsFile:
    """Open a file that is in memory.

    Args:
        data: the file.
        name: its name; the suffix determines the format.

    Raises:
        WeightsError: it is damaged, holds code, or holds no named tensors.
    """
    headers.check_start(data[:512], len(data), name)
    if name.endswith(".npz"):
        return _opened_npz(data)
    if name.endswith(".safetensors"):
        state, _ = read(data)
    else:
        state = _flat(_read_pickle(io.BytesIO(data)))
    return of_tensors(state)


def of_tensors(state: Mapping[str, Tensor]) -> WeightsFile:
    """Return tensors in memory as a file.

    Raises:
        WeightsError: there are none, or they have names that no network has.
    """
    if not state:
        raise WeightsError(
            "this holds no state dict: no tensors with names",
            fix="save the state dict: torch.save(model.state_dict(), path)",
        )
    headers.check_names(state)
    entries = {name: Entry(tuple(tensor.shape), _type_of(tensor)) for name, tensor in state.items()}
    return WeightsFile(entries, state.__getitem__)


def listed(path: Path) -> Mapping[str, Entry]:
    """Return the entries of a file on this machine, without reading its numbers.

    Raises:
        WeightsError: it is damaged, holds code, or holds no named tensors.
    """
    with path.open("rb") as file:
        entries = headers.listed(file, path.name, path.stat().st_size)
        if entries is not None:
            return entries
        file.seek(0)
        return of_tensors(_flat(_read_pickle(file))).entries


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
    headers.safetensors_entries(io.BytesIO(data), len(data))
    try:
        state = safetensors.torch.load(data)
    # a type that this version of torch has not
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        what = f"this is no complete safetensors file: {one_line(str(error))}"
        raise WeightsError(what) from error
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


def _read_pickle(file: BinaryIO) -> Any:
    if file.read(2) == b"PK":
        headers.check_torch_archive(file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(_HARMLESS_CLASSES):
            return torch.load(file, map_location="cpu", weights_only=True)
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


def _flat(content: Any) -> StateDict:
    """Return the tensors of nested dicts; options, optimizers and the like are not named."""
    tensors: StateDict = {}
    values = 0

    def walk(inner: Mapping[Any, Any], root: str, depth: int) -> None:
        nonlocal values
        values += len(inner)
        if values > _MOST_VALUES:
            raise WeightsError(f"this is no state dict: it holds over {_MOST_VALUES:,} values")
        for name, value in inner.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, Mapping) and depth < _DEEPEST:
                walk(value, f"{root}{name}.", depth + 1)
            elif isinstance(value, Tensor):
                if root + name in tensors:
                    what = f"this is no state dict: it holds {one_line(root + name)} twice"
                    raise WeightsError(what)
                tensors[root + name] = value.detach()

    if isinstance(content, Mapping):
        walk(content, "", 0)
    return tensors


def _type_of(value: Tensor) -> str:
    """Return the name of a tensor's type, or why it holds no plain numbers."""
    if type(value) not in (Tensor, Parameter):
        return type(value).__name__
    if value.is_meta:
        return "no"
    if value.is_quantized:
        return "quantized"
    if value.layout != torch.strided:
        return "sparse"
    return str(value.dtype).removeprefix("torch.")


def _opened_npz(data: bytes) -> WeightsFile:
    arrays = headers.npz_arrays(io.BytesIO(data))
    if not arrays:
        raise WeightsError("this archive is empty")
    archive = zipfile.ZipFile(io.BytesIO(data))
    return WeightsFile(
        {name: array.entry for name, array in arrays.items()},
        lambda name: _array(archive, arrays[name]),
    )


def _array(archive: zipfile.ZipFile, array: Array) -> Tensor:
    """Read one array of an npz archive."""
    try:
        with archive.open(array.member) as stream:
            found = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read(1)  # at its end the archive compares the checksum
        turned = found.transpose(array.axes) if array.axes else found.reshape(array.entry.shape)
        # In the order of this machine's bytes, which torch needs.
        plain = np.ascontiguousarray(turned, turned.dtype.newbyteorder("="))
        return torch.from_numpy(plain.reshape(array.entry.shape))
    except Exception as error:  # damaged bytes can raise almost anything
        raise WeightsError(
            f"this is no complete npz file: {one_line(array.member)} cannot be read "
            f"({type(error).__name__})",
            fix="copy it again",
        ) from error


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the body of a whole safetensors file."""
    body = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:body]), data[body:]
