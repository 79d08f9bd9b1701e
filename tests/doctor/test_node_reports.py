"""The reports of a job's processes, which may be damaged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hpt_dist.doctor.finding import Finding
from hpt_dist.doctor.node import NodeReport
from hpt_dist.store.records import DamagedRecordError

REPORT = NodeReport(1, "n1", 5.0, 6.0, findings=[Finding("store", None, "it is slow")])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert NodeReport.read(tmp_path, 1) is None
    REPORT.write(tmp_path, doing="disk")
    assert NodeReport.read(tmp_path, 1) == REPORT


@pytest.mark.parametrize(
    "damage",
    [
        {"rank": 2},
        {"rank": "1"},
        {"findings": None},
        {"findings": [{"name": "x"}]},
        {"versions": 3},
    ],
)
def test_a_damaged_report_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    (tmp_path / "report-1.json").write_text(json.dumps(asdict(REPORT) | damage))
    with pytest.raises(DamagedRecordError) as caught:
        NodeReport.read(tmp_path, 1)
    assert caught.value.problem.where == str(tmp_path / "report-1.json")


@pytest.mark.parametrize("data", [b"", b"[1]", b"[" * 100_000, b"\xff"])
def test_so_is_one_that_is_no_json_object(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "report-1.json").write_bytes(data)
    with pytest.raises(DamagedRecordError):
        NodeReport.read(tmp_path, 1)
