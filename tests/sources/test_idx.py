"""IDX files: the array of each, and every other length or header refused."""

from __future__ import annotations

import gzip
import struct
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import DataError
from hpt_dist.sources.named import idx

# Without the time, so that all workers collect the same tests.
zipped = partial(gzip.compress, mtime=0)


def idx_file(array, magic=None):
    header = magic or bytes((0, 0, 8, array.ndim))
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3)


@given(SHAPES, st.booleans(), st.integers(0, 255))
def test_an_idx_file_gives_its_array_packed_or_not(tmp_path_factory, shape, packed, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    file = tmp_path_factory.mktemp("idx") / "a"
    file.write_bytes(zipped(idx_file(array)) if packed else idx_file(array))
    assert np.array_equal(idx.read(file, len(shape)), array)


@given(st.data(), st.booleans())
def test_an_idx_file_of_any_other_length_is_refused(tmp_path_factory, data, packed):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    whole = idx_file(array)
    length = data.draw(st.integers(0, len(whole) - 1) | st.just(len(whole) + 1))
    changed = (whole + b"\0")[:length]
    file = tmp_path_factory.mktemp("idx") / "a"
    file.write_bytes(zipped(changed) if packed else changed)
    with pytest.raises(DataError) as caught:
        idx.read(file, 3)
    assert caught.value.problem.where == str(file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "begins with nothing"),
        (idx_file(np.zeros((2, 3, 4), np.uint8), b"\0\0\x0d\3"), "begins with 00000d03"),
        (idx_file(np.zeros(4, np.uint8)), "with 3 dimensions begins with 00000803"),
        (b"\0\0\x08\3\0\0", "truncated: its header has no end"),
        (idx_file(np.zeros((2, 3, 4), np.uint8))[:-1], "truncated: 23 of the 2 x 3 x 4 bytes"),
        (idx_file(np.zeros((2, 3, 4), np.uint8)) + b"\0", "oversized: bytes follow"),
        (b"\0\0\x08\3" + b"\xff" * 12, "at most 1,073,741,824 are read"),
        (zipped(idx_file(np.zeros((2, 3, 4), np.uint8)))[:-4], "its gzip stream has no end"),
        (zipped(idx_file(np.zeros((9, 9, 9), np.uint8)))[:-8] + b"\1" * 8, "cannot be read"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 40, "cannot be read"),
    ],
)
def test_what_is_wrong_with_an_idx_file(tmp_path, content, why):
    file = tmp_path / "a"
    file.write_bytes(content)
    with pytest.raises(DataError, match=why):
        idx.read(file, 3)


def test_an_idx_file_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        idx.read(tmp_path / "a", 1)
