"""Files that are no weights, lie about their sizes, or are too much, are refused at once."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.store import open_store
from hpt_dist.weights import files, headers
from hpt_dist.weights import source as weights_source


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


# Other files


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>Not found", "a web page"),
        (b"<HTML>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "an XML document"),
        (b"\x1f\x8b\x08\x00", "packed with gzip"),
    ],
)
def test_what_is_plainly_something_else_is_named_by_plan(store, suffix, content, says):
    store.put(f"a{suffix}", content)
    with pytest.raises(WeightsError, match=says) as refused:
        weights_source.fingerprint(f"a{suffix}", store)
    assert str(refused.value).startswith(f"a{suffix}: ")


@pytest.mark.parametrize("save", [torch.save, lambda state, path: np.savez(path, **state)])
def test_a_file_of_another_format_than_its_suffix_is_named_by_plan(store, tmp_path, save):
    state = {"a": torch.zeros(3)}
    with (tmp_path / "file").open("wb") as file:
        save(state, file)
    store.put("a.safetensors", (tmp_path / "file").read_bytes())
    store.put("a.bin", files.save(state, {}))
    for name, suffix in (("a.safetensors", r"\.pt"), ("a.bin", r"\.safetensors")):
        with pytest.raises(WeightsError, match=f"suffix of its format: {suffix}"):
            weights_source.fingerprint(name, store)


def test_only_regular_files_are_read(store, tmp_path, monkeypatch):
    (tmp_path / "folder.pth").mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    for name in ("folder.pth", "pipe.pth", "zero.pth"):
        with pytest.raises(RequestError, match="no regular file"):
            weights_source.fingerprint(str(tmp_path / name), store)
        with pytest.raises(RequestError, match=r"no such file|no regular file"):
            weights_source.fingerprint(name, store)


def test_a_file_that_no_machine_could_read_is_refused_by_its_size(store, tmp_path):
    with (tmp_path / "a.pth").open("wb") as file:
        file.truncate(headers.MAX_FILE_BYTES + 1)
    with pytest.raises(WeightsError, match="allowed: at most"):
        weights_source.fingerprint(str(tmp_path / "a.pth"), store)


# Safetensors


def safetensors(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + body


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LIES = {
    "a header beyond the file": safetensors({}, length=1 << 62),
    "deep": safetensors(b"[" * 100_000),
    "a number of many digits": safetensors(b'{"a": ' + b"9" * 5000 + b"}"),
    "a list": safetensors([]),
    "no entry": safetensors({"a": 5}),
    "overlap": safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "a hole": safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "beyond the file": safetensors({"a": entry([1 << 40], 0, 4 << 40)}, bytes(8)),
    "more in the file": safetensors({"a": entry([1], 0, 4)}, bytes(8)),
    "another shape": safetensors({"a": entry([3], 0, 8)}, bytes(8)),
    "an unknown type": safetensors({"a": entry([1], 0, 4, "F33")}, bytes(4)),
    "below zero": safetensors({"a": entry([-1, -1], 0, 4)}, bytes(4)),
    "twins": safetensors(
        f'{{"a": {json.dumps(entry([1], 0, 4))}, "a": {json.dumps(entry([1], 0, 4))}}}'.encode(),
        bytes(4),
    ),
    "a long name": safetensors({"a" * 2000: entry([1], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_does_not_describe_its_file_is_refused(lie, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(LIES[lie])
    for read in (lambda: files.listed(tmp_path / "a.safetensors"), lambda: files.read(LIES[lie])):
        with pytest.raises(WeightsError):
            read()


# Archives


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_an_array_that_nobody_asks_for_is_not_unpacked():
    """64 MB of zeros in 64 kB."""
    data = npz(weight=np.ones(3, np.float32), zeros=np.zeros((1 << 24,), np.float32))
    tracemalloc.start()
    file = files.opened(data, "a.npz")
    assert file.entries["zeros"].shape == (1 << 24,)
    assert torch.equal(file.read("weight"), torch.ones(3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def lying(shape, body):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(body)
    return buffer.getvalue()


def test_an_array_whose_header_lies_is_refused():
    for shape in ((1 << 60,), (3,), (-1,), (1 << 32, 1 << 32)):
        with pytest.raises(WeightsError, match="declares the shape"):
            files.opened(lying(shape, bytes(8)), "a.npz")
    assert files.opened(lying((2,), bytes(8)), "a.npz").entries["a"].shape == (2,)


def test_an_archive_of_torchs_is_not_unpacked_to_far_more_than_it_is():
    plain = io.BytesIO()
    torch.save({"a": torch.zeros(1 << 25)}, plain)
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    with pytest.raises(WeightsError, match="unpacks to 134,"):
        files.opened(packed.getvalue(), "a.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_dicts_that_are_few_bytes_and_many_values_are_refused(zipped):
    laughs: object = {"x": 1}
    for _ in range(6):
        laughs = OrderedDict((str(n), laughs) for n in range(30))
    buffer = io.BytesIO()
    torch.save(laughs, buffer, _use_new_zipfile_serialization=zipped)
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(WeightsError, match="over 1,000,000 values"):
        files.opened(buffer.getvalue(), "a.pth")


def test_a_deep_pickle_is_refused():
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(WeightsError):
        files.opened(deep, "a.pth")


def test_an_optimizer_alone_is_no_state_dict():
    buffer = io.BytesIO()
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]}, buffer)
    with pytest.raises(WeightsError, match="no state dict"):
        files.opened(buffer.getvalue(), "a.pth")
