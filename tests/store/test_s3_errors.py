"""What a server may answer instead of what was asked for: one line each, with what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from answering import Answering, answering
from services import free_ports

from hpt_dist.errors import RequestError, StoreAwayError, StoreError
from hpt_dist.store import Store, open_store, patience, s3_client
from hpt_dist.store.s3 import _require_bucket

LOGIN_PAGE = b"<!DOCTYPE html><html><body><p>Please log in<br></body></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("a", b"1"),
    "put in parts": lambda store: store.put("a", bytes(9 << 20)),
    "get": lambda store: store.get("a"),
    "stat": lambda store: store.stat("a"),
    "list": lambda store: list(store.list()),
    "swap": lambda store: store.swap("a", b"1", None),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    """One for all tests of this file: making a client takes longer than a test."""
    with answering() as running:
        yield running


@pytest.fixture(autouse=True)
def _settings(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "planted")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
    monkeypatch.setenv("NO_PROXY", "*")
    _require_bucket.cache_clear()


def error_of(call: Callable[[Store], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call(open_store("s3://bucket/p"))
    assert caught.value.exit_code == 1
    problem = caught.value.problem
    assert problem.where.startswith("s3://bucket")
    assert "\n" not in problem.what
    assert problem.fix
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, LOGIN_PAGE, HTML),
        (200, b"<html><body>a page that is also XML</body></html>", HTML),
        (302, b"", HTML | {"Location": "http://127.0.0.1:1/login"}),
        (404, LOGIN_PAGE, HTML),
        (511, LOGIN_PAGE, HTML),
    ],
)
def test_a_web_page_is_no_answer_of_s3(
    server: Answering, status: int, body: bytes, headers: dict[str, str]
) -> None:
    server.status, server.body, server.headers = status, body, headers
    for name, call in CALLS.items():
        if (status, name) == (404, "get"):  # nobody can tell this from an object that is missing
            with pytest.raises(StoreError):
                call(open_store("s3://bucket/p"))
        else:
            assert "AWS_ENDPOINT_URL_S3" in error_of(call).problem.fix, name


@pytest.mark.parametrize(
    ("status", "code", "fix"),
    [
        (301, "PermanentRedirect", "AWS_DEFAULT_REGION"),
        (307, "TemporaryRedirect", "AWS_DEFAULT_REGION"),
        (400, "AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION"),
        (400, "ExpiredToken", "log in again"),
        (400, "InvalidToken", "log in again"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "AccessDenied", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_ACCESS_KEY_ID"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (404, "NoSuchBucket", "create the bucket"),
        (503, "SlowDown", "later"),
        (500, "InternalError", "later"),
        (507, "XMinioStorageFull", "free space"),
        (418, "NobodyKnowsThis", "doctor"),
    ],
)
def test_a_refusal_says_what_to_do(server: Answering, status: int, code: str, fix: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>As it is.</Message></Error>".encode()
    server.status, server.body, server.headers = status, body, {"Content-Type": "application/xml"}
    for name, call in CALLS.items():
        error = error_of(call)
        assert fix in error.problem.fix, name
        # Whoever waits may get another answer; nobody may of the others.
        assert isinstance(error, StoreAwayError) == (status >= 500 and status != 507), name
        # A HEAD has no body; of transient refusals and unknown ones the status is enough.
        assert code in error.problem.what or (name == "stat" and status in (418, 500, 503, 507))


def test_a_server_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    for address, words in (
        ("http://no-such-host.invalid", "AWS_ENDPOINT_URL_S3"),
        (f"http://127.0.0.1:{port}", "AWS_ENDPOINT_URL_S3"),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        error = error_of(CALLS["list"])
        assert isinstance(error, StoreAwayError)
        assert words in error.problem.fix
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", f"http://ada:planted-password@127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store.invalid")
    error = error_of(CALLS["list"])
    assert "HTTP_PROXY" in error.problem.fix
    assert "planted" not in str(error)


def test_who_is_waited_for_by_a_person_gives_up_soon(monkeypatch, caplog) -> None:
    """It says what it tries; a name with no server behind it costs its timeout each time."""
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    s3_client._said.clear()
    began_s = time.monotonic()
    with patience.hurried():
        error = error_of(CALLS["list"])
    assert time.monotonic() - began_s < 10  # otherwise 16 at least
    assert isinstance(error, StoreAwayError)
    [said] = caplog.messages
    assert "does not answer, and is tried 3 times" in said
    assert "http://127.0.0.1:9" in said
    assert not patience.in_haste()


def test_tls_where_the_server_has_none(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address.replace("http:", "https:"))
    error = error_of(CALLS["list"])
    assert not isinstance(error, StoreAwayError)
    assert "does not speak TLS" in error.problem.fix
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/file")
    assert "AWS_CA_BUNDLE" in error_of(CALLS["list"]).problem.fix


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
        ({"AWS_DEFAULT_REGION": "no region!"}, "AWS_"),
    ],
)
def test_settings_that_reach_nothing(
    settings: dict[str, str], fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if "" in settings.values():
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert fix in error_of(CALLS["list"]).problem.fix


@pytest.mark.parametrize(
    "address",
    ["http://ada:planted-password@h:9", "https://planted-token@h", "http://h/?token=planted-token"],
)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_an_endpoint_with_a_password_is_refused_without_it(
    variable: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv(variable, address)
    for call in CALLS.values():
        with pytest.raises(RequestError, match="password") as caught:
            call(open_store("s3://bucket/p"))
        assert variable in caught.value.problem.where
        assert "planted" not in str(caught.value)
        assert "AWS_ACCESS_KEY_ID" in caught.value.problem.fix


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "localhost", "http://", "http://a b"])
def test_an_endpoint_that_is_no_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    with pytest.raises(RequestError, match="AWS_ENDPOINT_URL_S3") as caught:
        open_store("s3://bucket/p").stat("a")
    assert "http://host:port" in str(caught.value)


def test_an_endpoint_may_be_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://[::1]:1")
    assert "AWS_ENDPOINT_URL_S3" in error_of(CALLS["list"]).problem.fix


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:planted/se+cret@bucket/p",
        "s3://planted@bucket",
        "s3://b/p?X-Amz-Signature=planted",
    ],
)
def test_a_store_whose_address_holds_a_key_is_refused_without_it(uri: str) -> None:
    with pytest.raises(RequestError, match="holds a password or a key") as caught:
        open_store(uri)
    assert "planted" not in str(caught.value)
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") == "planted"
