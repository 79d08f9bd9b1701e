"""An HTTP proxy in front of a real S3 server that makes faults to a fixed schedule.

    faults = [Every(5, Refuse()), Every(7, Cut(100_000), methods="GET")]
    with FaultyProxy(ceph.http.endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        ...
    assert proxy.made["Cut"]

Requests go on as they came, with the Host header that the client signed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>'


@dataclass(frozen=True)
class Cut:
    """End the connection after so many bytes of the answer's body; then call `meanwhile`."""

    after_bytes: int
    meanwhile: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Shorten:
    """Send only so many bytes of the answer's body, and say that this is its length."""

    to_bytes: int


@dataclass(frozen=True)
class Damage:
    """Change one byte in the middle of the request's body or, if it has none, of the answer's."""


@dataclass(frozen=True)
class Delay:
    """Wait before the request is sent on."""

    delay_s: float


@dataclass(frozen=True)
class Refuse:
    """Answer with an error; the server sees nothing."""

    status: int = 503


@dataclass(frozen=True)
class Reset:
    """Reset the connection instead of an answer; the server has done what was asked."""


Fault = Cut | Shorten | Damage | Delay | Refuse | Reset


@dataclass
class Every:
    """A fault for every n-th of the requests with one of the methods, such as "GET HEAD".

    The count of requests begins at `seen`.
    """

    nth: int
    fault: Fault
    methods: str = "GET HEAD PUT POST DELETE"
    seen: int = 0


class FaultyProxy:
    """The running proxy; leaving the block ends it.

    Args:
        upstream: `http://host:port` of the server.
        faults: of several that fall on one request, the first is made.

    Attributes:
        endpoint: what clients use in place of `upstream`.
        requests: how many there were, by method.
        made: how many faults, by the name of their class.
    """

    def __init__(self, upstream: str, faults: Sequence[Every] = ()) -> None:
        self.faults = list(faults)
        self.requests: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self._lock = threading.Lock()
        address = urlsplit(upstream)
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": address.netloc})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, method: str) -> Fault | None:
        """Count a request and return what is to go wrong with it."""
        with self._lock:
            self.requests[method] += 1
            due = []
            for every in self.faults:
                if method in every.methods.split():
                    every.seen += 1
                    if every.seen % every.nth == 0:
                        due.append(every.fault)
            if not due:
                return None
            self.made[type(due[0]).__name__] += 1
            return due[0]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that give up close their connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultyProxy
    upstream: str

    def log_message(self, *_: object) -> None:
        pass

    def handle_request(self) -> None:
        fault = self.proxy.next_fault(self.command)
        content = bytearray(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if isinstance(fault, Refuse):
            return self.answer(fault.status, {"Content-Length": str(len(SLOW_DOWN))}, SLOW_DOWN)
        if isinstance(fault, Delay):
            time.sleep(fault.delay_s)
        if isinstance(fault, Damage) and content:
            content[len(content) // 2] ^= 1
        answer, body = self.send_on(bytes(content))
        if isinstance(fault, Reset):
            return self.end_connection()
        if isinstance(fault, Damage) and not content and body:
            body[len(body) // 2] ^= 1
        if isinstance(fault, Shorten):
            del body[fault.to_bytes :]
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in {"transfer-encoding", "connection"}
        }
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(body))
        if isinstance(fault, Cut):
            self.answer(answer.status, headers, bytes(body[: fault.after_bytes]))
            self.close_connection = True
            return fault.meanwhile()
        return self.answer(answer.status, headers, bytes(body))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815

    def send_on(self, content: bytes) -> tuple[http.client.HTTPResponse, bytearray]:
        with contextlib.closing(http.client.HTTPConnection(self.upstream, timeout=60)) as server:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":  # answered here
                    server.putheader(name, value)
            server.endheaders(content or None)
            answer = server.getresponse()
            return answer, bytearray(answer.read())

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_connection(self) -> None:
        """Close by RST."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
