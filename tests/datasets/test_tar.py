"""Tars: headers are those of Python's own writer, and its reader finds what was written."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset import TarWriter

from hpt_dist.datasets import tar
from hpt_dist.errors import DataError

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,94}\.json", fullmatch=True)


@given(st.dictionaries(names, st.binary(max_size=2000), max_size=6))
def test_what_is_written_is_read_at_the_offset(files):
    written = io.BytesIO()
    offsets = {name: tar.add(written, name, data) for name, data in files.items()}
    written.write(tar.END)
    with tarfile.open(fileobj=io.BytesIO(written.getvalue())) as archive:
        read = {one.name: archive.extractfile(one).read() for one in archive}
        assert {one.name: one.offset_data for one in archive} == offsets
    assert read == files


@given(names, st.binary(max_size=600))
def test_headers_are_those_of_tarfile(name, data):
    written = io.BytesIO()
    tar.add(written, name, data)
    theirs = tarfile.TarInfo(name)
    theirs.size = len(data)
    header = written.getvalue()[: tar.BLOCK_BYTES]
    assert theirs.tobuf(tarfile.USTAR_FORMAT) == header


@given(st.dictionaries(names, st.binary(max_size=2000), max_size=6))
def test_webdatasets_writer_writes_the_same_up_to_its_padding(files):
    ours, theirs = io.BytesIO(), io.BytesIO()
    with TarWriter(theirs, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for name, data in files.items():
            key, _, field = name.rpartition(".")
            offset = tar.add(ours, name, data)
            assert writer.tarstream.offset + tar.BLOCK_BYTES == offset
            writer.write({"__key__": key, field: data})
    ours.write(tar.END)
    padding = -len(ours.getvalue()) % tarfile.RECORDSIZE
    assert theirs.getvalue() == ours.getvalue() + bytes(padding)


def test_data_that_a_header_cannot_size_are_refused():
    class Huge(bytes):
        def __len__(self):
            return 8**11

    with pytest.raises(DataError, match="too many for one file"):
        tar.add(io.BytesIO(), "a.jpg", Huge())
