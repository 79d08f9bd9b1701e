"""The store in an S3 bucket, through boto3; `store.open_store` opens it."""

from __future__ import annotations

import functools
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  (botocore's, of which SSLError is one)
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)

from hpt_dist.errors import StoreError
from hpt_dist.store import ObjectInfo, absent, checked

_TRANSFER = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
_DEFAULT_ATTEMPTS = 6
_CLIENTS = 4
# What a server says to a conditional put that came too late. Ceph 16.2 and SeaweedFS say 412; AWS
# also 409 while the other put is under way, and NoSuchKey if the expected object is gone.
_TOO_LATE = {"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey"}
_CUT = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)

_CREDENTIALS_FIX = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and the bucket's policy"
)
_S3_FIXES = {
    "NoSuchBucket": "create the bucket, or correct the URI of the store",
    "InvalidAccessKeyId": _CREDENTIALS_FIX,
    "SignatureDoesNotMatch": _CREDENTIALS_FIX,
    "AccessDenied": _CREDENTIALS_FIX,
    "403": _CREDENTIALS_FIX,
}


def endpoint() -> str:
    """Return the address of the S3 server that AWS's settings name."""
    return str(_client().meta.endpoint_url)


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

    def put(self, path: str, data: bytes | Path) -> ObjectInfo:
        """Write an object; see `Store.put`."""
        target = self._target(path)
        with _s3_errors(f"{self.uri}/{path}"):
            if isinstance(data, bytes) and len(data) <= _TRANSFER.multipart_threshold:
                answer = _client().put_object(**target, Body=data)
                return ObjectInfo(path, len(data), _etag(answer))
            with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as content:
                _client().upload_fileobj(content, *target.values(), Config=_TRANSFER)
        info = self.stat(path)
        if info is None:
            raise absent(f"{self.uri}/{path}")
        return info

    def get(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object or a part of it; see `Store.get`."""
        where = f"{self.uri}/{path}"
        # HTTP knows no empty range: ask for one byte and drop it.
        last = "" if length is None else start + max(length, 1) - 1
        request = self._target(path) | {"Range": f"bytes={start}-{last}"}
        try:
            with _s3_errors(where):
                return _read_whole(request)[:length]
        except StoreError as error:
            code = _code(error.__cause__)
            if code == "InvalidRange":  # past the end, also of an empty object
                return b""
            if code in {"NoSuchKey", "404"}:
                raise absent(where) from error
            raise

    def stat(self, path: str) -> ObjectInfo | None:
        """Describe an object; see `Store.stat`."""
        head = self._head(path)
        return ObjectInfo(path, head["ContentLength"], _etag(head)) if head else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Describe objects by the beginning of their path; see `Store.list`."""
        if "/" in prefix:
            checked(prefix.rpartition("/")[0], self.uri)
        pages = _client().get_paginator("list_objects_v2")
        found = []
        begin = f"{self.prefix}/{prefix}" if self.prefix else prefix
        with _s3_errors(f"{self.uri}/{prefix}"):
            for page in pages.paginate(Bucket=self.bucket, Prefix=begin):
                found += [
                    ObjectInfo(self._path(item["Key"]), item["Size"], _etag(item))
                    for item in page.get("Contents", [])
                    if not item["Key"].endswith("/")  # some tools mark folders so
                ]
        # SeaweedFS lists "a/b" before "a-b".
        yield from sorted(found, key=lambda info: info.path)

    def delete(self, path: str) -> None:
        """Remove an object; see `Store.delete`."""
        with _s3_errors(f"{self.uri}/{path}"):
            _client().delete_object(**self._target(path))

    def swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """Write an object if nobody else did; see `Store.swap`."""
        # Ceph 16.2 takes an etag in quotes for a different one; without them, all servers agree.
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        mark = uuid.uuid4().hex
        request = self._target(path) | condition | {"Metadata": {"swap": mark}}
        try:
            with _s3_errors(f"{self.uri}/{path}"):
                return _etag(_client().put_object(**request, Body=data))
        except StoreError as error:
            if _code(error.__cause__) not in _TOO_LATE:
                raise
        # If the answer to a put is lost, its retry comes too late by its own doing.
        head = self._head(path)
        return _etag(head) if head and head["Metadata"].get("swap") == mark else None

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
        with _s3_errors(f"{self.uri}/{path}"):
            try:
                head: dict[str, Any] = _client().head_object(**target)
            except ClientError as error:
                if _code(error) not in {"404", "NoSuchKey"}:
                    raise
            else:
                return head
        with _s3_errors(f"s3://{self.bucket}"):
            _require_bucket(self.bucket, _settings())
        return None


def _client() -> Any:
    return _client_of(os.getpid(), _settings())


def _settings() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@functools.lru_cache(maxsize=_CLIENTS)
def _client_of(_pid: int, settings: tuple[tuple[str, str], ...]) -> Any:
    """Return the client of one process and AWS environment: connections survive no fork."""
    core = botocore.session.get_session()
    profile = core.get_scoped_config()
    environment = dict(settings)
    custom_endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or profile.get("endpoint_url")
    )
    # A server of one's own seldom has a DNS name for each bucket.
    s3 = {"addressing_style": "path" if custom_endpoint else "auto"} | profile.get("s3", {})
    attempts = int(environment.get("AWS_MAX_ATTEMPTS", _DEFAULT_ATTEMPTS))
    config = Config(
        s3=s3,
        # Servers behind TLS refuse the trailing checksums that boto3 would send by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    return boto3.session.Session(botocore_session=core).client("s3", config=config)


@functools.lru_cache
def _require_bucket(bucket: str, _settings: tuple[tuple[str, str], ...]) -> None:
    """Tell a missing bucket from a missing object, which HEAD does not; asked once."""
    try:
        _client().head_bucket(Bucket=bucket)
    except ClientError as error:
        if _code(error) == "404":
            error.response["Error"] = {"Code": "NoSuchBucket", "Message": ""}
        raise


def _read_whole(request: dict[str, Any]) -> bytes:
    """GET an object, again from the start if the response is cut; boto3 retries only requests."""
    for _ in range(_DEFAULT_ATTEMPTS - 1):
        try:
            content: bytes = _client().get_object(**request)["Body"].read()
        except _CUT:
            continue
        return content
    last: bytes = _client().get_object(**request)["Body"].read()
    return last


def _etag(answer: dict[str, Any]) -> str:
    etag: str = answer["ETag"]
    return etag.strip('"')


def _code(error: BaseException | None) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


@contextmanager
def _s3_errors(where: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        said = " ".join(filter(None, [_code(error), error.response["Error"].get("Message")]))
        fix = _S3_FIXES.get(_code(error), "")
        raise StoreError(f"S3 refused: {said}", where=where, fix=fix) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(str(error), where=where, fix=_CREDENTIALS_FIX) from error
    except SSLError as error:
        fix = "set AWS_CA_BUNDLE to the file of the server's CA certificate"
        raise StoreError(str(error), where=where, fix=fix) from error
    except ConnectionError as error:
        fix = "check AWS_ENDPOINT_URL_S3, and that the server runs and can be reached from here"
        raise StoreError(str(error), where=where, fix=fix) from error
    except BotoCoreError as error:
        raise StoreError(f"S3 failed: {error}", where=where) from error
