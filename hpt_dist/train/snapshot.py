"""The bytes of a training state at one moment, and back.

They are the memory of the tensors, one after the other, then the structure of the state as JSON:

    magic | memory of the 1st tensor, of the 2nd, ... | JSON | length of the JSON, 8 bytes

So writing a state only needs one copy that training cannot change: nothing is converted or copied
again, and the hash, the file and the network read that copy without Python's global lock. For
108 MB in 900 tensors on a CPU with SHA instructions the hash takes 71 ms and copy and hash together
about 0.1 s; `torch.save` into memory alone took 0.2 s, a quarter of it under the lock.
"""

from __future__ import annotations

import io
import json
import pickle  # for its error only
from collections import OrderedDict
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from hpt_dist.errors import DataError, TrainingError

if TYPE_CHECKING:
    import torch  # functions import it, so that checkpoints can be listed without it

_MAGIC = b"hpt-dist state 1\n"
_ZIP = b"PK"  # the first bytes of a file from torch.save
_LENGTH_BYTES = 8
# Pieces of memory start at multiples of this, so that a tensor of any type can lie in them.
_ALIGNED_BYTES = 64
# Spare bytes of the buffer: the JSON grows a little from save to save.
_ROOM_BYTES = 1 << 20

# The errors of reading bytes of another kind.
_UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, RuntimeError)

State = dict[str, Any]


class Snapshot:
    """The bytes of a state at one moment, in memory that the next snapshot uses again.

    Attributes:
        step: of the state it holds.
    """

    def __init__(self) -> None:
        self.step = 0
        self._buffer: torch.Tensor | None = None
        self._length = 0
        self._copied: list[torch.cuda.Event] = []

    def take(self, step: int, state: State) -> None:
        """Copy a state, which may change once this has returned.

        Copies from a GPU are only started, on the compute stream: its next operations run after
        them. (On another stream they would race with the next step, or it would have to wait as
        well.)

        Raises:
            TypeError: the state holds something that could not be loaded again.
        """
        import torch

        layout = _Layout()
        tree = layout.describe(state, "state")
        begin, places = len(_MAGIC), []
        for piece in layout.pieces.values():
            places.append([piece.start, piece.stop - piece.start])
            begin += piece.stop - piece.start
        text = json.dumps({"step": step, "pieces": places, "state": tree}).encode()
        tail = text + len(text).to_bytes(_LENGTH_BYTES, "little")
        gpus = {device for device, _ in layout.pieces if device.type == "cuda"}
        buffer = self._sized(begin + len(tail), pinned=bool(gpus))
        view = _bytes_of(buffer)
        view[: len(_MAGIC)] = _MAGIC
        view[begin : begin + len(tail)] = tail
        self.step, self._length = step, begin + len(tail)
        begin = len(_MAGIC)
        for piece in layout.pieces.values():
            memory = piece.memory()
            target = buffer[begin : begin + len(memory)]
            if memory.is_cpu:
                # By one thread: torch's threads synchronise after each tensor, which takes long on
                # a busy machine. NumPy releases the global lock meanwhile, a memoryview does not.
                target.numpy()[:] = memory.numpy()
            else:
                target.copy_(memory, non_blocking=memory.is_cuda)
            begin += len(memory)
        self._copied = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def data(self) -> memoryview:
        """Return the bytes, once all have arrived; they stay until the next `take`."""
        for event in self._copied:
            event.synchronize()
        if self._buffer is None:
            raise ValueError("nothing was taken yet")
        return _bytes_of(self._buffer)[: self._length]

    def _sized(self, size_bytes: int, *, pinned: bool) -> torch.Tensor:
        import torch

        if self._buffer is None or len(self._buffer) < size_bytes:
            self._buffer = None  # first, so that there are never two
            room = size_bytes + _ROOM_BYTES
            self._buffer = torch.empty(room, dtype=torch.uint8, pin_memory=pinned)
        return self._buffer


@dataclass
class _Piece:
    """The part of a storage that tensors of a state use: bytes `start` to `stop`."""

    storage: torch.UntypedStorage
    start: int
    stop: int

    def memory(self) -> torch.Tensor:
        """Return it as bytes, not copied."""
        import torch

        flat = torch.empty(0, dtype=torch.uint8, device=self.storage.device)
        return flat.set_(self.storage, self.start, (self.stop - self.start,), (1,))


def _bytes_of(buffer: torch.Tensor) -> memoryview:
    return buffer.numpy().data


class _Layout:
    """The pieces of memory that a state's tensors use. Shared memory is shared again once loaded.

    Attributes:
        pieces: by device and address of their storage, in the order in which they are written.
    """

    def __init__(self) -> None:
        self.pieces: dict[tuple[Any, int], _Piece] = {}
        self._numbers: dict[tuple[Any, int], int] = {}

    def describe(self, value: Any, where: str) -> Any:
        """Return JSON for a value: a scalar as it is, all else as a list that begins with its kind.

        Raises:
            TypeError: such a value cannot be loaded again; `where` names it.
        """
        import torch

        kind = type(value)
        if kind in (bool, int, float, str, NoneType):
            return value
        if kind in (list, tuple):
            entries = enumerate(value)
            return [kind.__name__, *(self.describe(e, f"{where}[{i}]") for i, e in entries)]
        if kind in (dict, OrderedDict):
            items = [
                [self.describe(key, f"a key of {where}"), self.describe(entry, f"{where}[{key!r}]")]
                for key, entry in value.items()
            ]
            if kind is dict:
                return ["dict", *items]
            # The versions of a model's modules: some modules need them to load a state.
            versions = getattr(value, "_metadata", None)
            return ["OrderedDict", self.describe(versions, f"{where}._metadata"), *items]
        if kind in (torch.Tensor, torch.nn.Parameter):
            return self._describe_tensor(value, where)
        raise TypeError(f"{where} is a {kind.__name__}, which no checkpoint can hold")

    def _describe_tensor(self, tensor: torch.Tensor, where: str) -> list[Any]:
        import torch

        plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not plain or tensor.is_conj() or tensor.is_neg():
            raise TypeError(f"{where} is no plain tensor in memory; no checkpoint can hold it")
        shape, strides = list(tensor.shape), list(tensor.stride())
        description = ["tensor", str(tensor.dtype).removeprefix("torch."), shape, strides]
        if tensor.numel() == 0:
            return description
        start = int(tensor.storage_offset()) * tensor.itemsize
        last = sum((size - 1) * int(step) for size, step in zip(shape, strides, strict=True))
        stop = start + (last + 1) * tensor.itemsize
        storage = tensor.untyped_storage()
        key = (storage.device, storage.data_ptr())
        number = self._numbers.setdefault(key, len(self._numbers))
        piece = self.pieces.setdefault(key, _Piece(storage, start, stop))
        piece.start = min(piece.start, start) // _ALIGNED_BYTES * _ALIGNED_BYTES
        piece.stop = max(piece.stop, stop)
        return [*description, number, start]


def load_state(step: int, data: bytes, where: str) -> State:
    """Load a state from its bytes; no code in them is executed.

    Raises:
        DataError: they belong to another step.
        TrainingError: this version cannot read them.
    """
    import torch

    try:
        if data.startswith(_ZIP):  # from a version before this format
            written_step = step
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        else:
            written_step, state = _parsed(data)
    except (*_UNREADABLE, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"this version cannot load the state of step {step} ({error})",
            where=where,
            fix="continue with the version that wrote it, or delete the state's folder",
        ) from error
    if written_step != step:
        raise DataError(
            f"this is the state of step {written_step}, not of step {step}", where=where
        )
    if not isinstance(state, dict):
        raise TrainingError(
            f"a checkpoint holds a {type(state).__name__}, not a state", where=where
        )
    return state


def _parsed(data: bytes) -> tuple[int, Any]:
    """Return the step and the state that a snapshot's bytes hold."""
    import torch

    if not data.startswith(_MAGIC):
        raise ValueError("it begins otherwise")
    view = memoryview(data)
    length = int.from_bytes(view[-_LENGTH_BYTES:], "little")
    document = json.loads(bytes(view[-_LENGTH_BYTES - length : -_LENGTH_BYTES]))
    # Each piece gets its own memory: whoever keeps one tensor does not keep all of them.
    pieces = []
    begin = len(_MAGIC)
    for start, size_bytes in document["pieces"]:
        memory = torch.empty(size_bytes, dtype=torch.uint8)
        _bytes_of(memory)[:] = view[begin : begin + size_bytes]
        pieces.append((start, memory.untyped_storage()))
        begin += size_bytes
    return document["step"], _value(document["state"], pieces)


def _value(node: Any, pieces: list[tuple[int, torch.UntypedStorage]]) -> Any:
    """Return the value that `_Layout.describe` described."""
    if not isinstance(node, list):
        return node
    kind, *entries = node
    if kind == "tensor":
        return _tensor(pieces, *entries)
    if kind in ("list", "tuple"):
        values = [_value(entry, pieces) for entry in entries]
        return values if kind == "list" else tuple(values)
    if kind == "dict":
        return {_value(key, pieces): _value(entry, pieces) for key, entry in entries}
    if kind != "OrderedDict":
        raise ValueError(f"it holds a {kind}")
    versions, *items = entries
    ordered = OrderedDict((_value(key, pieces), _value(entry, pieces)) for key, entry in items)
    if versions is not None:
        ordered._metadata = _value(versions, pieces)  # type: ignore[attr-defined]
    return ordered


def _tensor(
    pieces: list[tuple[int, torch.UntypedStorage]],
    type_name: str,
    shape: list[int],
    strides: list[int],
    number: int | None = None,
    start: int = 0,
) -> torch.Tensor:
    import torch

    dtype = getattr(torch, type_name)
    if number is None:
        return torch.empty_strided(shape, strides, dtype=dtype)
    piece_start, storage = pieces[number]
    tensor = torch.empty(0, dtype=dtype)
    offset, remainder = divmod(start - piece_start, tensor.itemsize)
    if remainder or offset < 0:
        raise ValueError("a tensor lies askew in its memory")
    return tensor.set_(storage, offset, shape, strides)
