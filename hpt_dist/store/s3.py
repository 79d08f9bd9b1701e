"""The store in an S3 bucket; `open_store` opens it."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from hpt_dist.errors import StoreError
from hpt_dist.store import s3_read, s3_upload
from hpt_dist.store.base import Content, ObjectInfo, checked, os_errors
from hpt_dist.store.s3_client import NOT_S3, call, client, code, etag_of, settings
from hpt_dist.store.s3_errors import explained

# The error codes of a conditional put that came too late. Ceph 16.2 and SeaweedFS answer 412; AWS
# also 409 while the other put is running, and NoSuchKey if the expected object is gone.
_TOO_LATE = {"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey"}


def endpoint() -> str:
    """Return the address of the S3 server that AWS's settings name."""
    return str(client().meta.endpoint_url)


@dataclass(frozen=True)
class S3Store:
    """A store in an S3 bucket, below a prefix without slashes at its ends.

    It holds no connection, so it can be copied, pickled and forked.
    """

    bucket: str
    prefix: str = ""

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store again."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def folder(self) -> None:
        """None; see `Store.folder`."""
        return None

    def put(self, path: str, data: Content) -> ObjectInfo:
        """Write an object; see `Store.put`."""
        where = f"{self.uri}/{path}"
        with os_errors(where), explained(where):
            return ObjectInfo(path, *s3_upload.write(self._target(path), data, where))

    def get(self, path: str, start: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """Read an object or a part of it; see `Store.get`."""
        # HTTP has no empty range: request one byte and drop it.
        requested = length if length is None else max(length, 1)
        pieces = s3_read.read(self._target(path), f"{self.uri}/{path}", start, requested, etag)
        return b"".join(pieces)[:length]

    def stream(self, info: ObjectInfo) -> Iterator[bytes]:
        """Read a whole object in order; see `Store.stream`."""
        return s3_read.stream(self._target(info.path), f"{self.uri}/{info.path}", info)

    def stat(self, path: str) -> ObjectInfo | None:
        """Describe an object; see `Store.stat`."""
        head = self._head(path)
        return ObjectInfo(path, head["ContentLength"], etag_of(head), _time(head)) if head else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Describe objects by the beginning of their path; see `Store.list`."""
        if "/" in prefix:
            checked(prefix.rpartition("/")[0], self.uri)
        begin = f"{self.prefix}/{prefix}" if self.prefix else prefix
        request = {"Bucket": self.bucket, "Prefix": begin}
        infos = []
        with explained(f"{self.uri}/{prefix}"):
            is_truncated = True
            while is_truncated:
                page = call("list_objects_v2", request)
                is_truncated = page["IsTruncated"]
                request["ContinuationToken"] = page.get("NextContinuationToken", "")
                infos += [
                    ObjectInfo(self._path(item["Key"]), item["Size"], etag_of(item), _time(item))
                    for item in page.get("Contents", [])
                    if not item["Key"].endswith("/")  # some tools mark folders so
                ]
        # SeaweedFS lists "a/b" before "a-b".
        yield from sorted(infos, key=lambda info: info.path)

    def delete(self, path: str) -> None:
        """Remove an object; see `Store.delete`."""
        with explained(f"{self.uri}/{path}"):
            call("delete_object", self._target(path))

    def swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """Write an object if its etag is the expected one; see `Store.swap`."""
        # Without quotes, as in `s3_read`.
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        mark = uuid.uuid4().hex
        request = self._target(path) | condition | {"Metadata": {"swap": mark}}
        try:
            with explained(f"{self.uri}/{path}"):
                return etag_of(s3_upload.put(request, data))
        except StoreError as error:
            if code(error.__cause__) not in _TOO_LATE:
                raise
        # If the answer to a put was lost, its own success makes its retry come too late.
        head = self._head(path)
        return etag_of(head) if head and head["Metadata"].get("swap") == mark else None

    def unfinished(self) -> Iterator[ObjectInfo]:
        """Describe uploads of many parts that are not complete; see `Store.unfinished`."""
        with explained(self.uri):
            found = s3_upload.unfinished(self.bucket, f"{self.prefix}/" if self.prefix else "")
        for key, size, begun in found:
            yield ObjectInfo(self._path(key), size, "", begun)

    def sweep(self) -> None:
        """Abort the uploads of killed writers, which cost money; see `Store.sweep`."""
        with explained(self.uri):
            s3_upload.abort_unfinished(self.bucket, f"{self.prefix}/" if self.prefix else "")

    def at(self, prefix: str) -> S3Store:
        """Return the store seen from a folder; see `Store.at`."""
        prefix = prefix.rstrip("/")
        return S3Store(self.bucket, self._target(prefix)["Key"]) if prefix else self

    def local(self, path: str) -> None:
        """Return None: there are no files; see `Store.local`."""
        checked(path, self.uri)

    def _target(self, path: str) -> dict[str, Any]:
        path = checked(path, self.uri)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{path}" if self.prefix else path}

    def _path(self, key: str) -> str:
        return key.removeprefix(f"{self.prefix}/") if self.prefix else key

    def _head(self, path: str) -> dict[str, Any] | None:
        target = self._target(path)
        with explained(f"{self.uri}/{path}"):
            try:
                return call("head_object", target)
            except ClientError as error:
                if code(error) not in {"404", "NoSuchKey"}:
                    raise
        with explained(f"s3://{self.bucket}"):
            _require_bucket(self.bucket, settings())
        return None


def _time(described: dict[str, Any]) -> float:
    """Return when an object was written, Unix time; 0 if the server does not say it."""
    time = described.get("LastModified")
    return float(time.timestamp()) if time else 0.0


@functools.lru_cache
def _require_bucket(bucket: str, _settings: tuple[tuple[str, str], ...]) -> None:
    """Raise if the bucket is missing, which HEAD of an object does not show; checked once."""
    try:
        call("head_bucket", {"Bucket": bucket})
    except ClientError as error:
        if code(error) == "404":  # S3 would have named its code
            error.response["Error"] = {"Code": NOT_S3, "Message": "it answers 404 to all requests"}
        raise
