"""The index of trials that read the same: it may be damaged, and is then of no use."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpt_dist.store import FolderStore
from hpt_dist.trial import alike
from hpt_dist.trial.result import Result

KEY = "7" * 64
DOCUMENT = {"backbone": "timm/x", "init": "1" * 64, "spec": {"kind": "knn"}}
TRIAL = SimpleNamespace(document=DOCUMENT | {"init": "2" * 64})
RESULT = {"kind": "knn", "seed": 0, "images": 0, "metrics": {"test/top1": 0.5}, "details": {}}
RUN = {"seconds": 1.0, "numerics": "float32"}


def leave(store: FolderStore, spec: object, result: object, run: object) -> None:
    """Leave a finished trial."""
    objects = {}
    for name, value in (("spec", spec), ("result", result), ("run", run)):
        data = json.dumps(value).encode()
        store.put(f"stages/{KEY}/{name}.json", data)
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        objects[f"{name}.json"] = entry
    store.put(f"stages/{KEY}/DONE", json.dumps({"key": KEY, "objects": objects}).encode())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def test_a_trial_that_read_the_same_is_found(store: FolderStore) -> None:
    leave(store, DOCUMENT, RESULT, RUN)
    alike.note(store, "x", KEY)
    found = alike.find(store, TRIAL, "x")
    assert found == (KEY, Result(RESULT["metrics"], RESULT["details"], numerics="float32"))
    assert alike.find(store, TRIAL, "y") is None
    assert alike.find(store, TRIAL, "") is None


@pytest.mark.parametrize(
    "index", [b"", b"\xff" * 64, b"../../outside", b"/etc/passwd", b"7" * 63, b"8" * 64, b"{}"]
)
def test_a_damaged_index_is_of_no_use(
    store: FolderStore, index: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave(store, DOCUMENT, RESULT, RUN)
    store.put("inputs/x", index)
    assert alike.find(store, TRIAL, "x") is None
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        {"spec": [1]},
        {"spec": {}},
        {"spec": DOCUMENT | {"backbone": "timm/y"}},
        {"result": {}},
        {"result": RESULT | {"metrics": {"test/top1": "high"}}},
        {"run": []},
        {"run": {"seconds": "long"}},
    ],
)
def test_a_damaged_trial_is_of_no_use(
    store: FolderStore, damage: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    leave(store, **{"spec": DOCUMENT, "result": RESULT, "run": RUN} | damage)
    alike.note(store, "x", KEY)
    assert alike.find(store, TRIAL, "x") is None
    assert "cannot be used" in caplog.text
