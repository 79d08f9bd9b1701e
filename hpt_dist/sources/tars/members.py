"""The members of a tar, where nothing that is damaged is passed over.

webdataset reads tars by `tarfile`, for which a damaged header, or the end of a file that was cut,
is the end of the archive: what follows is missing without a word. Here each of them is an error.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from hpt_dist.errors import HptError, RequestError
from hpt_dist.sources.sample import printable
from hpt_dist.store import PIECE_BYTES, ObjectInfo, Store

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

MAX_TEXT_BYTES = 16 * 2**20
_HEAD_BYTES = 64
# What a file that is no tar begins with, what it is then, and what to do.
_UNPACK = (
    "unpack it to a plain tar, from the middle of which images can be read: {}; or, where it holds "
    "folders of images, into a folder, and name that"
)
_KINDS = (
    (b"\x1f\x8b", "a gzip file", _UNPACK.format("gunzip FILE")),
    (b"BZh", "a bzip2 file", _UNPACK.format("bunzip2 FILE")),
    (b"\xfd7zXZ", "an xz file", _UNPACK.format("unxz FILE")),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK.format("unzstd FILE")),
    (b"PK", "a zip file", "unpack it into a folder, and name that"),
    (b"version https://git-lfs", "a pointer of Git LFS", "get the tars: git lfs pull"),
    (b"<", "a page of a web server", "download it again, and look at the page"),
)


class DamagedTarError(Exception):
    """A tar is damaged, or is none.

    Args:
        what: where it is damaged, or what it is.
        fix: the next thing to do.
    """

    def __init__(self, what: str, fix: str = "get it again, or move it away") -> None:
        super().__init__(what)
        self.fix = fix


class Member(NamedTuple):
    """An entry of a tar.

    Args:
        name: its path in the tar.
        offset: position of its first byte in the tar.
        size_bytes: of its content.
        content: where it was asked for, and is no larger than `MAX_TEXT_BYTES`.
        other: what it is, unless it is a file: a folder, a link, or something else.
    """

    name: str
    offset: int
    size_bytes: int
    content: bytes | None
    other: str


def members(store: Store, info: ObjectInfo, is_wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield the members of a tar in its order. Of a local file only headers and texts are read.

    Args:
        store: where it lies.
        info: the tar.
        is_wanted: whether the content of a file of this name is needed.

    Raises:
        DamagedTarError: it is no tar, is cut off, or has a damaged header.
        StoreError: the store refused.
    """
    if not info.bytes:
        raise DamagedTarError("an empty file")
    with _opened(store, info) as (file, mode):
        archive = None
        try:
            archive = tarfile.open(fileobj=file, mode=mode, tarinfo=_Header)  # noqa: SIM115
            while member := archive.next():
                archive.members = []  # type: ignore[attr-defined]  # or they would all be kept
                yield _member(archive, member, info.bytes, is_wanted)
            _refuse_more(archive.fileobj)
        except (HptError, DamagedTarError):
            raise
        except Exception as error:  # tarfile raises almost anything on strange headers
            place = getattr(archive, "offset", 0)
            if not place and (kind := _kind(store, info)):
                raise DamagedTarError(*kind) from error
            what = str(error) or type(error).__name__
            raise DamagedTarError(f"at byte {place:,}: {printable(what)}") from error


class _Header(tarfile.TarInfo):
    """A header, where nothing but an empty block is the end of a tar."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            what = f"no header of a tar ({error})"
            if len(buf) < tarfile.BLOCKSIZE:
                what = "it is cut off: the empty blocks of a tar's end are missing"
            raise tarfile.ReadError(what) from error
        if header.size < 0:
            raise tarfile.ReadError("a member of a negative size")
        return header


def _member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    size_bytes: int,
    is_wanted: Callable[[str], bool],
) -> Member:
    name = member.name.removeprefix("./")
    if member.isdir():
        return Member(name, 0, 0, None, "folders")
    if member.islnk() or member.issym():
        return Member(name, 0, 0, None, "links")
    if not member.isreg() or member.sparse is not None:
        return Member(name, 0, 0, None, "no plain files")
    if member.size > size_bytes - member.offset_data:
        raise tarfile.ReadError(f"it is cut off: {name} does not end in it")
    content = None
    if member.size <= MAX_TEXT_BYTES and is_wanted(name) and (file := archive.extractfile(member)):
        content = file.read()
    return Member(name, member.offset_data, member.size, content, "")


def _refuse_more(file: Any) -> None:
    """Raise where anything follows the end of a tar, as where several were joined by `cat`."""
    while piece := file.read(PIECE_BYTES):
        if piece.strip(b"\0"):
            raise tarfile.ReadError(
                "other content follows the end of the tar; tars that were joined are read up to "
                "there only"
            )


@contextmanager
def _opened(store: Store, info: ObjectInfo) -> Iterator[tuple[IO[bytes], Any]]:
    """Open a tar as a file, with the mode of `tarfile`."""
    path = store.local(info.path)
    if path is None:
        with io.BufferedReader(_Pieces(store.stream(info)), PIECE_BYTES) as file:
            yield file, "r|"
        return
    try:
        with path.open("rb") as local:
            yield local, "r:"
    except OSError as error:
        raise RequestError(
            f"cannot be read: {error.strerror}", where=str(path), fix="allow reading it"
        ) from error


class _Pieces(io.RawIOBase):
    """The pieces of a stored object as a file that is read once, front to back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Buffer, /) -> int:
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        view = memoryview(target)
        part, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(part)] = part
        return len(part)


def _kind(store: Store, info: ObjectInfo) -> tuple[str, str] | None:
    """Return what a file is that is no tar, and what to do, or None."""
    head = store.get(info.path, 0, _HEAD_BYTES).lstrip()
    return next(((kind, fix) for start, kind, fix in _KINDS if head.startswith(start)), None)
