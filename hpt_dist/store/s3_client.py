"""boto3's client for the AWS settings of this process: retries, waits and error messages.

boto3's own retries are off. All threads share a limit of about 100 in a short time, so a gateway
that fails for some seconds would end a job with many readers; and their waits may be very short.
"""

from __future__ import annotations

import functools
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  (botocore's, of which SSLError is one)
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from hpt_dist.errors import RequestError, StoreError

# A body that breaks off shows some of urllib3's errors, a cut list or error text the parser's.
FAILURES = (ClientError, BotoCoreError, ResponseParserError, HTTPError)
_NETWORK_FAILURES = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    HTTPError,
)
_TRANSIENT = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
    # Damage in transfer: the server saw other bytes than were sent.
    *("RequestTimeout", "BadDigest", "XAmzContentSHA256Mismatch"),
}
_DEFAULT_ATTEMPTS = 6
# The waits between 6 attempts sum up to 16 s at least and 32 s at most.
_FIRST_WAIT_S = 0.3
_LONGEST_WAIT_S = 20.0
_CLIENTS = 4

_CREDENTIALS_FIX = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and the bucket's policy"
)
_S3_FIXES = {
    "NoSuchBucket": "create the bucket, or correct the URI of the store",
    "InvalidAccessKeyId": _CREDENTIALS_FIX,
    "SignatureDoesNotMatch": _CREDENTIALS_FIX,
    "AccessDenied": _CREDENTIALS_FIX,
    "403": _CREDENTIALS_FIX,
    "BadDigest": "leave the file as it is during its upload; else check the network and memory",
}


class Patience:
    """How often one request may still fail, and how long to wait before the next attempt.

    Args:
        give_up: ends a wait, and the attempts, once it is set.
    """

    def __init__(self, give_up: threading.Event | None = None) -> None:
        self._give_up = give_up or threading.Event()
        self._attempts = _attempts()
        self._failures = 0

    def progress(self) -> None:
        """Start to count attempts anew."""
        self._failures = 0

    def wait_after(self, error: Exception) -> None:
        """Wait before the next attempt, or raise the error if there is none."""
        self._failures += 1
        if self._failures >= self._attempts or not _is_transient(error):
            raise error
        longest_s = min(_FIRST_WAIT_S * 3 ** (self._failures - 1), _LONGEST_WAIT_S)
        if self._give_up.wait(longest_s * random.uniform(0.5, 1.0)):
            raise error


def call(
    operation: str, request: dict[str, Any], give_up: threading.Event | None = None
) -> dict[str, Any]:
    """Send a request such as `head_object`; send it again if the server or the network failed.

    Raises:
        ClientError, BotoCoreError: the last failure; see `explained`.
    """
    patience = Patience(give_up)
    while True:
        try:
            answer: dict[str, Any] = getattr(client(), operation)(**request)
        except FAILURES as error:
            patience.wait_after(error)
        else:
            return answer


def client() -> Any:
    """Return the client for the AWS settings of this moment."""
    return _client_of(os.getpid(), settings())


def settings() -> tuple[tuple[str, str], ...]:
    """Return the AWS variables of the environment."""
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
    # A private server seldom has a DNS name for each bucket.
    s3 = {"addressing_style": "path" if custom_endpoint else "auto"} | profile.get("s3", {})
    config = Config(
        s3=s3,
        # Servers behind TLS refuse the trailing checksums that boto3 would send by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    return boto3.session.Session(botocore_session=core).client("s3", config=config)


def _attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS", str(_DEFAULT_ATTEMPTS))
    if not text.isdecimal() or int(text) < 1:
        raise RequestError(
            f"{text!r} is not a number of attempts",
            where="AWS_MAX_ATTEMPTS",
            allowed="a whole number from 1",
        )
    return int(text)


def _is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed a moment later."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        return code(error) in _TRANSIENT or status == 429 or (status >= 500 and status != 501)
    return isinstance(error, _NETWORK_FAILURES) and "CERTIFICATE_VERIFY_FAILED" not in str(error)


def code(error: BaseException | None) -> str:
    """Return the S3 error code of a failure; empty if it does not come from the server."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def etag_of(answer: dict[str, Any]) -> str:
    """Return the etag of an answer without quotes."""
    etag: str = answer.get("ETag", "")
    return etag.strip('"')


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Raise failures as StoreError; the failure itself is its cause.

    Args:
        where: the URI that messages name.
    """
    try:
        yield
    except ClientError as error:
        answer = " ".join(filter(None, [code(error), error.response["Error"].get("Message")]))
        fix = _S3_FIXES.get(code(error), "")
        raise StoreError(f"S3 refused: {answer}", where=where, fix=fix) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(str(error), where=where, fix=_CREDENTIALS_FIX) from error
    except SSLError as error:
        fix = "set AWS_CA_BUNDLE to the file of the server's CA certificate"
        raise StoreError(str(error), where=where, fix=fix) from error
    except ConnectionError as error:
        fix = "check AWS_ENDPOINT_URL_S3, and that the server runs and can be reached from here"
        raise StoreError(str(error), where=where, fix=fix) from error
    except FAILURES as error:
        raise StoreError(f"S3 failed: {error}", where=where) from error
