"""Failures of S3 in words: what the server answered, or why none did, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  (botocore's, of which SSLError is one)
    HTTPClientError,
    SSLError,
)

from hpt_dist.errors import StoreAwayError, StoreError
from hpt_dist.store.s3_client import FAILURES, NOT_S3, code, is_out_of_reach

_LONGEST = 300

_KEYS = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and the bucket's policy"
)
_LOGIN = (
    "log in again (aws sso login), or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
    "AWS_SESSION_TOKEN to new values; the same command then continues"
)
_CLOCK = "synchronise this machine's clock (chrony or ntpd): timedatectl shows it"
_REGION = (
    "set AWS_DEFAULT_REGION to the bucket's region, or AWS_ENDPOINT_URL_S3 to the server that has "
    "the bucket"
)
_LATER = (
    "run the same command again later; AWS_MAX_ATTEMPTS=12 makes it wait longer, fewer trials at "
    "once make fewer requests"
)
_ADDRESS = "check AWS_ENDPOINT_URL_S3, and that the server runs and can be reached from here"
_PROXY = "check HTTPS_PROXY and HTTP_PROXY; NO_PROXY names servers that are reached without it"
_NO_S3 = (
    "this is a web page and not S3: check AWS_ENDPOINT_URL_S3 (the port of the S3 interface, not "
    "of a console), the proxy, and whether this network asks for a login in a browser"
)
_CERTIFICATE = "set AWS_CA_BUNDLE to the file of the server's CA certificate"
_NO_TLS = "the server does not speak TLS at this port: write http:// in AWS_ENDPOINT_URL_S3"
_ELSE = "check the AWS_* settings: hpt-dist doctor --store URI"

_FIXES = {
    "NoSuchBucket": "create the bucket, or correct the URI of the store",
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "AllAccessDisabled"), _KEYS
    ),
    **dict.fromkeys(("403", "401", "AccountProblem", "InvalidSecurity"), _KEYS),
    **dict.fromkeys(("ExpiredToken", "TokenRefreshRequired", "InvalidToken"), _LOGIN),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), _CLOCK),
    **dict.fromkeys(("301", "302", "307", "PermanentRedirect", "TemporaryRedirect"), _REGION),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
    "400": f"{_REGION}; or else the session's token is too old: {_LOGIN}",
    **dict.fromkeys(
        ("SlowDown", "ServiceUnavailable", "Throttling", "RequestLimitExceeded"), _LATER
    ),
    **dict.fromkeys(("429", "500", "502", "503", "504", "InternalError", "RequestTimeout"), _LATER),
    **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull", "507"), "free space in the bucket"),
    "NotImplemented": "use a server that knows this request; hpt-dist doctor --store URI tries all",
    "BadDigest": "leave the file as it is during its upload; else check the network and memory",
    NOT_S3: _NO_S3,
}
# What to do about a failure without an answer, by words in its message; the first that fits.
_TLS_FIXES = (
    ("wrong_version_number", _NO_TLS),
    ("expired", f"renew the server's certificate; or {_CLOCK}"),
    ("not yet valid", _CLOCK),
    ("mismatch", "write the name that is in the server's certificate in AWS_ENDPOINT_URL_S3"),
    ("", _CERTIFICATE),
)
_NETWORK_FIXES = (
    ("to proxy", _PROXY),
    ("no such file", "AWS_CA_BUNDLE names a file that does not exist: correct it"),
    ("", _ADDRESS),
)
_OTHER_FIXES = (
    ("<html", _NO_S3),
    ("<!doctype", _NO_S3),
    ("parse response", _LATER),
    ("credentials", _KEYS),
    ("token", _LOGIN),
    ("config profile", "correct AWS_PROFILE, or add that profile to AWS_CONFIG_FILE"),
    ("invalid bucket name", "correct the URI of the store"),
    ("", _ELSE),
)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Raise failures as StoreError, or StoreAwayError; the failure itself is their cause.

    Args:
        where: the URI that messages name.
    """
    try:
        yield
    except ClientError as error:
        message = error.response["Error"].get("Message")
        answer = " ".join(filter(None, [code(error), message]))
        fix = _NO_S3 if _is_page(error) else _FIXES.get(code(error), _ELSE)
        kind = StoreAwayError if is_out_of_reach(error) else StoreError
        raise kind(f"S3 refused: {_line(answer)}", where=where, fix=fix) from error
    except FAILURES as error:
        kind = StoreAwayError if is_out_of_reach(error) else StoreError
        raise kind(_line(_what(error)), where=where, fix=_fix(error)) from error


def _is_page(error: ClientError) -> bool:
    """Return whether a refusal that names no code of S3 came with a web page."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return code(error).isdecimal() and headers.get("content-type", "").startswith("text/html")


def _what(error: Exception) -> str:
    if isinstance(error, BotoCoreError):
        cause = error.kwargs.get("error")
        # botocore leaves out why it could not connect.
        why = f" ({cause})" if cause is not None and str(cause) not in str(error) else ""
        return f"{error}{why}"
    return f"S3 failed: {error}"


def _fix(error: Exception) -> str:
    rows: Sequence[tuple[str, str]] = _OTHER_FIXES
    if isinstance(error, SSLError):
        rows = _TLS_FIXES
    elif isinstance(error, ConnectionError | HTTPClientError):
        rows = _NETWORK_FIXES
    return next(fix for words, fix in rows if words in str(error).lower())


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
