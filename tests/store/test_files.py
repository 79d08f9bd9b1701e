"""Files of this machine that appear whole or not at all."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpt_dist.store import files

KB = 1024


@contextmanager
def nearly_full_disk() -> Iterator[None]:
    """Let the system refuse files above 4 KB, as a full disk refuses any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * KB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_and_its_folders_are_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    for content in (b"first", b"", b"second"):
        status = files.replace(path, content)
        assert path.read_bytes() == content
        assert os.path.samestat(status, path.stat())
        assert status.st_mtime_ns == path.stat().st_mtime_ns
        assert list(path.parent.iterdir()) == [path]
    copy = tmp_path / "copy"
    files.replace(copy, path)
    assert copy.read_bytes() == b"second"


def test_two_writes_differ_in_their_time(tmp_path: Path) -> None:
    stamps = [files.replace(tmp_path / "a", b"same").st_mtime_ns for _ in range(20)]
    assert len(set(stamps)) == len(stamps)


@pytest.mark.parametrize("draft", [None, "draft"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, draft: str | None
) -> None:
    path = tmp_path / "a"
    files.replace(path, b"old")
    with nearly_full_disk(), pytest.raises(OSError, match="File too large"):
        files.replace(path, bytes(64 * KB), tmp_path / draft if draft else None)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_a_folder_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.partial(path).write_bytes(b"left by a writer that was killed, longer than the new one")
    files.replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
