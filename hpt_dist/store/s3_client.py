"""boto3's client for the AWS settings of this process: retries, waits, and answers checked.

boto3's own retries are off. All threads share a limit of about 100 in a short time, so a gateway
that fails for some seconds would end a job with many readers; and their waits may be very short.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Mapping
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
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from hpt_dist.errors import RequestError
from hpt_dist.errors.secrets import public_address
from hpt_dist.store.patience import in_haste

# A body that breaks off shows some of urllib3's errors, a cut list or error text the parser's.
FAILURES = (ClientError, BotoCoreError, ResponseParserError, HTTPError)
_NETWORK_FAILURES = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    HTTPError,
)
_BUSY = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
    "RequestTimeout",
}
# Damage in transfer: the server saw other bytes than were sent.
_DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch"}
# Of 500 and more: it knows no such request, or has no space.
_LASTING = {501, 507}
# The code of answers that come from something else: a web server, a login page of the network.
NOT_S3 = "NotS3"
_NEEDED = {
    "list_objects_v2": "IsTruncated",
    "create_multipart_upload": "UploadId",
    **dict.fromkeys(("head_object", "get_object", "put_object", "upload_part"), "ETag"),
}
_ENDPOINT = "http://host:port"
# The waits between 6 attempts sum up to 16 s at least and 32 s at most, those between 3 to 1 s.
_DEFAULT_ATTEMPTS, _HASTY_ATTEMPTS = 6, 3
_CONNECT_S, _HASTY_CONNECT_S = 10, 2
_FIRST_WAIT_S = 0.3
_LONGEST_WAIT_S = 20.0
_CLIENTS = 4
# A single failure is soon made up for; and threads of a process fail together.
_FAILURES_UNSAID = 2
_SILENCE_S = 60.0
_said: list[float] = []  # when, by the monotonic clock

log = logging.getLogger(__name__)


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
        if self._failures == (1 if in_haste() else _FAILURES_UNSAID) and is_out_of_reach(error):
            _say_once(f"the store does not answer, and is tried {self._attempts} times: {error}")
        longest_s = min(_FIRST_WAIT_S * 3 ** (self._failures - 1), _LONGEST_WAIT_S)
        if self._give_up.wait(longest_s * random.uniform(0.5, 1.0)):
            raise error


def call(
    operation: str, request: dict[str, Any], give_up: threading.Event | None = None
) -> dict[str, Any]:
    """Send a request such as `head_object`; send it again if the server or the network failed.

    Raises:
        ClientError, BotoCoreError: the last failure; see `s3_errors.explained`.
    """
    patience = Patience(give_up)
    while True:
        try:
            answer: dict[str, Any] = getattr(client(), operation)(**request)
            check_answer(operation, answer)
        except FAILURES as error:
            patience.wait_after(_with_reason(error, operation, request))
        else:
            return answer


def _with_reason(error: Exception, operation: str, request: dict[str, Any]) -> Exception:
    """Return a failure with the server's reason, which no answer to a HEAD has: it has no body."""
    bare = {"301", "302", "307", "400", "403", *(["404"] if operation == "head_bucket" else [])}
    if operation.startswith("head_") and code(error) in bare:
        try:
            prefix = request.get("Key", "")
            client().list_objects_v2(Bucket=request["Bucket"], Prefix=prefix, MaxKeys=1)
        except FAILURES as reason:
            return reason
    return error


def check_answer(operation: str, answer: dict[str, Any]) -> None:
    """Refuse an answer that no S3 server gives, such as a web page.

    Raises:
        ClientError: of the code NOT_S3.
    """
    needed = _NEEDED.get(operation, "ResponseMetadata")
    if needed not in answer:
        kind = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("content-type", "no type")
        error = {"Code": NOT_S3, "Message": f"the answer has no {needed}; it is of {kind}"}
        raise ClientError({**answer, "Error": error}, operation)


def client() -> Any:
    """Return the client for the AWS settings of this moment.

    Raises:
        RequestError: the address of the server cannot be used, or holds a password.
    """
    return _client_of(os.getpid(), settings(), _HASTY_CONNECT_S if in_haste() else _CONNECT_S)


def settings() -> tuple[tuple[str, str], ...]:
    """Return the AWS variables of the environment."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@functools.lru_cache(maxsize=_CLIENTS)
def _client_of(_pid: int, settings: tuple[tuple[str, str], ...], connect_s: int) -> Any:
    """Return the client of one process and AWS environment: connections survive no fork."""
    core = botocore.session.get_session()
    profile = core.get_scoped_config()
    name, custom_endpoint = _custom_endpoint(dict(settings), profile)
    # A private server seldom has a DNS name for each bucket.
    s3 = {"addressing_style": "path" if custom_endpoint else "auto"} | profile.get("s3", {})
    config = Config(
        s3=s3,
        # Servers behind TLS refuse the trailing checksums that boto3 would send by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=connect_s,
        read_timeout=60,
        max_pool_connections=32,
    )
    try:
        made = boto3.session.Session(botocore_session=core).client("s3", config=config)
    except ValueError as error:
        if isinstance(error, BotoCoreError):  # such as that of a region
            raise
        what, where = "this is not the address of a server", f"{name}={custom_endpoint}"
        raise RequestError(what, where=where, allowed=_ENDPOINT) from error
    made.meta.events.register_first("needs-retry.s3.HeadBucket", _end_without_region)
    return made


def _custom_endpoint(environment: Mapping[str, str], profile: Mapping[str, Any]) -> tuple[str, str]:
    """Return the setting that names the server, and the server's address; empty for AWS."""
    names = [name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if environment.get(name)]
    name = names[0] if names else "endpoint_url"
    address = str((environment if names else profile).get(name, ""))
    if public_address(address) != address:
        raise RequestError(
            "the address of the S3 server holds a password",
            where=f"{name}={address}",
            allowed=_ENDPOINT,
            fix="take it out; keys are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return name, address


def _end_without_region(response: Any, operation: Any, **_: Any) -> None:
    """End a request for a bucket's region that is answered without one.

    botocore would ask for the region again, in order to follow the answer, and again.
    """
    if response is None or response[0].status_code not in (301, 302, 307):
        return
    if "x-amz-bucket-region" not in response[1]["ResponseMetadata"]["HTTPHeaders"]:
        raise ClientError(response[1], operation.name)


def _attempts() -> int:
    default = _HASTY_ATTEMPTS if in_haste() else _DEFAULT_ATTEMPTS
    text = os.environ.get("AWS_MAX_ATTEMPTS", str(default))
    if not text.isdecimal() or int(text) < 1:
        raise RequestError(
            f"{text!r} is not a number of attempts",
            where="AWS_MAX_ATTEMPTS",
            allowed="a whole number from 1",
        )
    return int(text)


def _is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed a moment later."""
    return code(error) in _DAMAGED or is_out_of_reach(error)


def is_out_of_reach(error: Exception) -> bool:
    """Return whether the server or the network failed, and not the request."""
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        return code(error) in _BUSY or status == 429 or (status >= 500 and status not in _LASTING)
    lasting = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "<html", "<!doctype")
    text = str(error).lower()
    return isinstance(error, _NETWORK_FAILURES) and not any(one.lower() in text for one in lasting)


def _say_once(text: str) -> None:
    """Warn, unless a thread of this process did so a moment ago."""
    now_s = time.monotonic()
    if not _said or now_s - _said[-1] > _SILENCE_S:
        _said[:] = [now_s]
        log.warning("%s", " ".join(text.split()))


def code(error: BaseException | None) -> str:
    """Return the S3 error code of a failure; empty if it does not come from the server."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def etag_of(answer: dict[str, Any]) -> str:
    """Return the etag of an answer without quotes."""
    etag: str = answer.get("ETag", "")
    return etag.strip('"')
