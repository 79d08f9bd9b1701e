"""Mutated records of a store: one bad record never blocks the others."""

from __future__ import annotations

import json
import shutil

import mutations
import pytest
from hostile import Attempts, count

from hpt_dist.launch import launches, results, survey
from hpt_dist.report.report import build
from hpt_dist.store import open_store

RECORDS = ("launches/*.json", "stages/*/DONE", "stages/*/*.json", "inputs/*")


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the store of a finished launch, without its datasets."""
    folder = tmp_path / "store"
    shutil.copytree(tiny[0], folder, ignore=shutil.ignore_patterns("datasets", "work"))
    return folder


def looked(folder) -> None:
    """Read all that status and report read, and draw it."""
    store = open_store(str(folder))
    for record in launches.launches(store):
        survey.states_of(store, record)
        build(record, results.finished(store, record)).files()


def test_mutated_records(request, copy):
    records = sorted(path for pattern in RECORDS for path in copy.glob(pattern) if path.is_file())
    assert records
    with Attempts(r"store/(launches|stages|inputs)/") as attempt:
        for number in range(count(request, 200)):
            numbers = mutations.generator("record", number)
            path = numbers.choice(records)
            original = path.read_bytes()
            is_document = path.suffix == ".json" or path.name == "DONE"
            given = (
                mutations.document(json.loads(original), numbers)
                if is_document
                else mutations.data(original, numbers)
            )
            path.write_bytes(given)
            attempt(lambda: looked(copy), given)
            path.write_bytes(original)


def test_notes_that_are_damaged_block_nothing(request, copy):
    """Failures, leases and starts are notes: whatever they hold, `status` answers."""
    trial = next(iter((copy / "stages").iterdir()))
    (trial / "DONE").unlink()
    notes = {
        "failure.json": {"error": "no space", "when": "2026-01-01T00:00:00Z", "host": "a"},
        "lease.json": {"owner": "a", "host": "b", "step": 3, "renewed": 1.0, "ttl_s": 15},
        "starts.json": {"starts": 3},
    }
    with Attempts("nothing may be refused") as attempt:
        for number in range(count(request, 100)):
            numbers = mutations.generator("note", number)
            name = numbers.choice(sorted(notes))
            given = mutations.document(notes[name], numbers)
            (trial / name).write_bytes(given)
            attempt(lambda: looked(copy), given)
            (trial / name).unlink()
