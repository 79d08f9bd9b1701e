"""Records are what their spec says, or one error that names them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hpt_dist.store.records import Count, DamagedRecordError, Name, decoded


@dataclass(frozen=True)
class Part:
    name: Name


@dataclass(frozen=True)
class Whole:
    step: Count
    job: str = ""
    state: Literal["on", "off"] = "on"
    rate: float | None = None
    parts: tuple[Part, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def test_a_record_is_read_as_its_spec_says():
    data = b'{"step": 1, "state": "off", "rate": 2, "parts": [{"name": "a"}], "newer": [null]}'
    assert decoded(data, Whole, where="x") == Whole(1, "", "off", 2.0, (Part("a"),))
    assert decoded(b'{"a": 1}', dict[str, int], where="x") == {"a": 1}


DAMAGED = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "cut": b'{"step": 1, "jo',
    "more behind it": b'{"step": 1}}',
    "no field": b"{}",
    "a float": b'{"step": 1.0}',
    "a bool": b'{"step": true}',
    "a text": b'{"step": "1"}',
    "negative": b'{"step": -1}',
    "huge": b'{"step": 1' + b"0" * 30 + b"}",
    "too many digits": b'{"step": ' + b"1" * 6000 + b"}",
    "NaN": b'{"step": 1, "rate": NaN}',
    "becomes infinite": b'{"step": 1, "rate": 1e999}',
    "infinite inside": b'{"step": 1, "more": {"a": [1e999]}}',
    "infinite beside": b'{"step": 1, "newer": -Infinity}',
    "no such word": b'{"step": 1, "state": "maybe"}',
    "wrong inside": b'{"step": 1, "parts": [{"name": ""}]}',
    "not UTF-8": b'{"step": 1, "job": "\xff"}',
    "UTF-16": '{"step": 1}'.encode("utf-16"),
    "half a character": b'{"step": 1, "job": "\\ud800"}',
    "deep": b'{"step": 1, "more": ' + b"[" * 100_000,
    "deep and whole": b'{"step": 1, "newer": ' + b"[" * 9_999 + b"]" * 9_999 + b"}",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_one_error_that_names_it(data):
    with pytest.raises(DamagedRecordError) as caught:
        decoded(data, Whole, where="/store/x.json", fix="delete it")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("/store/x.json: the record is damaged: ")
    assert lines[1:] == ["  do: delete it"]


def test_few_faults_are_listed():
    data = b'{"a": "x", "b": "x", "c": "x", "d": "x", "e": "x"}'
    with pytest.raises(DamagedRecordError, match=r"a: input should be .*; and 2 more$"):
        decoded(data, dict[str, int], where="x")
