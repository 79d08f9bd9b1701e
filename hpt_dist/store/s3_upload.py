"""Writing S3 objects: each part with its MD5, the whole with its SHA-256, all or nothing."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from hpt_dist.errors import StoreError
from hpt_dist.store.base import Content
from hpt_dist.store.s3_client import FAILURES, Patience, call, check_answer, client, code, etag_of

_PART_BYTES = 8 << 20
_MOST_PARTS = 10_000
_SENDERS = 4
_RESTARTS = 8
_LISTING_REFUSED = {"AccessDenied", "403", "NotImplemented", "MethodNotAllowed"}
_NEVER_SENT = (ConnectTimeoutError, EndpointConnectionError)  # the request reached no server


@dataclass(frozen=True)
class _UploadSource:
    """The content to write; `read(start, length)` may be called from many threads."""

    size_bytes: int
    read: Callable[[int, int], bytes]

    @property
    def part_bytes(self) -> int:
        needed = -(-self.size_bytes // _MOST_PARTS)
        return max(_PART_BYTES, -(-needed // (1 << 20)) << 20)

    def parts(self) -> Iterator[bytes]:
        for start in range(0, self.size_bytes, self.part_bytes):
            yield self.part(start // self.part_bytes)

    def part(self, number: int) -> bytes:
        """Return part `number`, from 0."""
        start = number * self.part_bytes
        return self.read(start, min(self.part_bytes, self.size_bytes - start))


@dataclass(frozen=True)
class _Digests:
    """The digests of the whole and of its parts, computed before anything is sent.

    Each part is sent with its MD5, so the server refuses a file that changes meanwhile.
    """

    sha256: str
    md5s: tuple[bytes, ...]

    @classmethod
    def from_source(cls, source: _UploadSource) -> _Digests:
        sha256 = hashlib.sha256()
        md5s = []
        with ThreadPoolExecutor(1) as executor:
            for part in source.parts():
                md5 = executor.submit(_md5, part)
                sha256.update(part)
                md5s.append(md5.result())
        return cls(sha256.hexdigest(), tuple(md5s))

    @property
    def metadata(self) -> dict[str, str]:
        return {"sha256": self.sha256}

    @property
    def etag(self) -> str:
        """The etag that most servers give an object of these parts."""
        return f"{_md5(b''.join(self.md5s)).hex()}-{len(self.md5s)}"


@dataclass(frozen=True)
class _CompletedUpload:
    """The server's answer to a completed upload.

    Args:
        etag: of the object; empty from Ceph 16.2.
        has_md5_etags: whether the etag of each part was its MD5; the object's etag then follows
            from these.
    """

    etag: str
    has_md5_etags: bool


def write(target: dict[str, str], data: Content, where: str) -> tuple[int, str]:
    """Write an object, in parts if it has more than 8 MB.

    Args:
        target: its `Bucket` and `Key`.
        data: its content, or the file that holds it.
        where: its URI, for messages.

    Returns:
        Its size in bytes, and its etag.

    Raises:
        StoreError: the stored object differs from the parts that were sent.
        ClientError, BotoCoreError: see `s3_errors.explained`.
        OSError: the file cannot be read.
    """
    with _opened(data) as source:
        if source.size_bytes > _PART_BYTES:
            return source.size_bytes, _write_parts(target, source, where)
        content = source.read(0, source.size_bytes)
        request = target | {"Metadata": {"sha256": hashlib.sha256(content).hexdigest()}}
        return len(content), etag_of(put(request, content))


def put(request: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Write an object by one request; raises ClientError and BotoCoreError."""
    return call("put_object", request | {"Body": content, "ContentMD5": _base64(_md5(content))})


def _write_parts(target: dict[str, str], source: _UploadSource, where: str) -> str:
    """Write an object in parts and return its etag.

    Another writer of the same object takes this upload for a stale one and aborts it. As only the
    first attempt aborts others, two writers cannot block each other for ever.
    """
    digests = _Digests.from_source(source)
    _abort_stale(target)
    for _ in range(_RESTARTS):
        request = _begin(target, digests)
        try:
            completed = _send(request, source, digests)
        except BaseException as error:
            with suppress(*FAILURES):
                call("abort_multipart_upload", request)
            if not _was_ended(error):
                raise
            # Aborted, or completed by a request whose answer was lost.
            head = _head(target)
            if head and head["Metadata"].get("sha256") == digests.sha256:
                return etag_of(head)
        else:
            return _checked(target, source.size_bytes, digests, completed, where)
    raise StoreError(
        f"other writers of the same object ended this upload {_RESTARTS} times",
        where=where,
        fix="let one process write it",
    )


def _was_ended(error: BaseException) -> bool:
    """Return whether an upload failed because another writer ended it.

    If an abort overtakes a completion, Ceph keeps the completion's lock for ten minutes. To each
    further attempt it then answers that a completion is in progress. If the abort comes in the
    middle of a completion, it answers NoSuchKey.
    """
    if isinstance(error, ClientError) and code(error) == "InternalError":
        return "already in progress" in error.response["Error"].get("Message", "")
    return code(error) in {"NoSuchUpload", "NoSuchKey"}


def _begin(target: dict[str, str], digests: _Digests) -> dict[str, Any]:
    """Start an upload and return the request fields that name it.

    If an answer was lost, the upload may have started under a name that we do not know. It is
    aborted before the next attempt: it would stay in the bucket and cost money.
    """
    patience, request = Patience(), target | {"Metadata": digests.metadata}
    while True:
        try:
            upload = client().create_multipart_upload(**request)
            check_answer("create_multipart_upload", upload)
        except BaseException as error:
            if not isinstance(error, _NEVER_SENT):
                with suppress(*FAILURES):
                    _abort_stale(target)
            if not isinstance(error, FAILURES):
                raise
            patience.wait_after(error)
        else:
            return target | {"UploadId": upload["UploadId"]}


def _checked(
    target: dict[str, str],
    size_bytes: int,
    digests: _Digests,
    completed: _CompletedUpload,
    where: str,
) -> str:
    """Return the etag of a completed upload, after checking that the object is what was sent."""
    etag = completed.etag
    head = _head(target)
    if head and head["Metadata"].get("sha256") == digests.sha256:
        etag = etag_of(head)
        if head["ContentLength"] != size_bytes:
            raise _wrong_object(f"{head['ContentLength']} of {size_bytes} bytes", where)
    if completed.has_md5_etags and etag not in {"", digests.etag}:
        raise _wrong_object(f"an object of etag {etag} instead of {digests.etag}", where)
    return etag or digests.etag


def _send(request: dict[str, Any], source: _UploadSource, digests: _Digests) -> _CompletedUpload:
    """Send all parts and complete the upload."""
    give_up = threading.Event()

    def send(number: int) -> str:
        md5 = _base64(digests.md5s[number])
        part = {"PartNumber": number + 1, "Body": source.part(number), "ContentMD5": md5}
        return etag_of(call("upload_part", request | part, give_up))

    with ThreadPoolExecutor(_SENDERS, thread_name_prefix="s3-upload") as executor:
        try:
            sent = [executor.submit(send, number) for number in range(len(digests.md5s))]
            wait(sent, return_when=FIRST_EXCEPTION)
            for failed in (part for part in sent if part.done() and part.exception()):
                failed.result()
            etags = [part.result() for part in sent]
        finally:
            # An upload that still gets parts cannot be aborted for good.
            give_up.set()
            executor.shutdown(cancel_futures=True)
    parts = [{"PartNumber": i + 1, "ETag": etag} for i, etag in enumerate(etags)]
    done = call("complete_multipart_upload", request | {"MultipartUpload": {"Parts": parts}})
    return _CompletedUpload(
        etag_of(done), has_md5_etags=etags == [md5.hex() for md5 in digests.md5s]
    )


def abort_unfinished(bucket: str, prefix: str, key: str = "") -> None:
    """Abort the uploads that killed writers left behind.

    Args:
        bucket: where they are.
        prefix: of their keys.
        key: of exactly which object; empty for all.

    Raises:
        ClientError, BotoCoreError: see `s3_client.explained`.
    """
    with _refusals_passed():
        head = call("list_multipart_uploads", {"Bucket": bucket, "Prefix": prefix})
        for upload in head.get("Uploads", []):
            if key in ("", upload["Key"]):
                request = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                call("abort_multipart_upload", request)


def unfinished(bucket: str, prefix: str) -> list[tuple[str, int, float]]:
    """Return key, bytes and start (Unix time) of the uploads that are not complete.

    Of more than 1,000 the first are returned; none where this user may not list uploads.

    Args:
        bucket: where they are.
        prefix: of their keys.

    Raises:
        ClientError, BotoCoreError: see `s3_client.explained`.
    """
    found: list[tuple[str, int, float]] = []
    with _refusals_passed():
        head = call("list_multipart_uploads", {"Bucket": bucket, "Prefix": prefix})
        for upload in head.get("Uploads", []):
            begun = upload.get("Initiated")
            with _refusals_passed():
                request = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                parts = call("list_parts", request).get("Parts", [])
                size = sum(part["Size"] for part in parts)
                found.append((upload["Key"], size, begun.timestamp() if begun else 0.0))
    return found


@contextmanager
def _refusals_passed() -> Iterator[None]:
    """Pass over uploads that are gone, and over the fact that this user may not list uploads."""
    try:
        yield
    except ClientError as error:
        if code(error) not in _LISTING_REFUSED | {"NoSuchUpload"}:
            raise


def _abort_stale(target: dict[str, str]) -> None:
    """Abort the uploads of exactly this key that killed writers left behind."""
    abort_unfinished(target["Bucket"], target["Key"], target["Key"])


def _head(target: dict[str, str]) -> dict[str, Any] | None:
    try:
        return call("head_object", target)
    except ClientError as error:
        if code(error) in {"404", "NoSuchKey"}:
            return None
        raise


def _wrong_object(what: str, where: str) -> StoreError:
    return StoreError(
        f"S3 stored {what} from the parts", where=where, fix="delete it; write it again"
    )


@contextmanager
def _opened(data: Content) -> Iterator[_UploadSource]:
    if not isinstance(data, Path):
        view = memoryview(data).cast("B")
        yield _UploadSource(len(view), lambda start, length: bytes(view[start : start + length]))
        return
    with data.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, start)

        yield _UploadSource(os.fstat(file.fileno()).st_size, read)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
