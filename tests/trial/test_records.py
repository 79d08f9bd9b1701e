"""What is kept of trials."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hpt_dist.errors import StoreError
from hpt_dist.store import open_store
from hpt_dist.store.committed import is_done

KEY = "0" * 64


def test_a_trial_is_done_once_its_last_object_is_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert not is_done(store, KEY)
    for name in ("spec.json", "result.json", "run.json", "lease.json", "state/10/DONE"):
        store.put(f"stages/{KEY}/{name}", b"{}")
        assert not is_done(store, KEY)
    objects = {"result.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}}
    store.put(f"stages/{KEY}/DONE", json.dumps({"key": KEY, "objects": objects}).encode())
    assert is_done(store, KEY)
    assert not is_done(store, "1" * 64)
    store.delete(f"stages/{KEY}/DONE")
    assert not is_done(store, KEY)


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be the path"):
        is_done(open_store(str(tmp_path)), "..")
