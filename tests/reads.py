"""What samples of the tests read with in worker processes, which import this small module."""

from __future__ import annotations

import time


def slowly(data: bytes) -> bytes:
    time.sleep(0.04)
    return data


def broken() -> bytes:
    raise ZeroDivisionError("a fault of the program")
