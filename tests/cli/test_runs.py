"""What a store holds: its launches, its datasets, and whose trial a name stands for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pictures import labelled, write
from small import document, hpt

from hpt_dist.store import open_store


@pytest.fixture
def store(tiny, tmp_path):
    """Return a copy of a store in which the tiny recipe went through."""
    return Path(shutil.copytree(tiny[0], tmp_path / "store", symlinks=True))


def launch_of(store: Path) -> Path:
    (record,) = store.glob("launches/tiny-*.json")
    return record


def later(store: Path, number: int, **changes) -> str:
    """Record a later launch that was cancelled; its trials of changed settings did not end.

    Args:
        store: that holds one launch.
        number: distinguishes it.
        changes: trial names to a setting of theirs that differs; None for a trial it has not.
    """
    (first,) = (p for p in store.glob("launches/tiny-*.json") if "-later" not in p.name)
    record = json.loads(first.read_text())
    record["id"] = f"tiny-later-{number}"
    record["created"] = f"2099-01-0{number}T00:00:00+00:00"
    for name, value in changes.items():
        if value is None:
            del record["trials"][name], record["settings"][name]
        else:
            record["trials"][name] = f"{value:064x}"
            record["settings"][name]["spec"]["steps"] = value
    (store / f"launches/{record['id']}.json").write_text(json.dumps(record))
    for ending in (".cancel", ".end"):
        (store / f"launches/{record['id']}{ending}").write_text("FAILED")
    return record["id"]


def test_launches_are_listed_with_how_far_they_are(store):
    first = launch_of(store).stem
    count = len(json.loads(launch_of(store).read_text())["trials"])
    cancelled = later(store, 1, hpt=7)
    printed = hpt("runs", store=str(store))
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [cancelled, first]
    assert f"cancelled  {count - 1} of {count}" in lines[1]
    assert f"done       {count} of {count}" in lines[2]
    assert "tiny.yaml" in lines[2]
    found = json.loads(hpt("runs", "tiny", "--json", store=str(store)))
    assert found[0]["states"] == {"cached": count - 1, "runs": 1}
    assert [one["state"] for one in found] == ["cancelled", "done"]
    assert "no launch of others" in hpt("runs", "others", store=str(store))


def test_states_of_launches(store):
    first, key = launch_of(store), 7
    identity = later(store, 1, hpt=key)
    folder = store / f"stages/{key:064x}"
    folder.mkdir()

    def state() -> str:
        return json.loads(hpt("runs", "--json", store=str(store)))[0]["state"]

    (store / f"launches/{identity}.cancel").unlink()
    assert state() == "failed", "its processes are gone"
    (store / f"launches/{identity}.end").write_text("KILLED")
    assert state() == "stopped"
    (store / f"launches/{identity}.end").write_text("FAILED")
    (folder / "failure.json").write_text('{"error": "no"}')
    assert state() == "failed"
    (folder / "failure.json").unlink()
    lease = {"owner": "a", "host": "elsewhere", "pid": 1, "started": "1", "pids": "other"}
    (folder / "lease.json").write_text(json.dumps(lease))
    assert state() == "failed", "that is another launch's work"
    (store / f"launches/{identity}.end").unlink()
    assert state() == "running"
    first.write_text("{}")
    assert "is left out" in hpt("runs", store=str(store))


def test_many_launches_show_the_last_ones(store):
    for number in range(1, 10):
        for more in range(3):
            identity = later(store, number)
            record = store / f"launches/{identity}.json"
            text = record.read_text().replace(identity, f"{identity}-{more}")
            (store / f"launches/{identity}-{more}.json").write_text(text)
    shown = hpt("runs", store=str(store))
    assert f"and 17 earlier ones: hpt-dist runs --all --store {store}" in shown
    assert len(hpt("runs", "--all", store=str(store)).splitlines()) == 38


def test_an_empty_store_has_no_launch_and_no_dataset(tmp_path):
    assert "no launch in" in hpt("runs", store=str(tmp_path))
    assert "no dataset in" in hpt("data", "list", store=str(tmp_path))
    for words in (["runs"], ["data", "list"], ["du"]):
        assert f"there is no store at {tmp_path} yet" in hpt(*words, store=str(tmp_path))
    cache = str(tmp_path.parent / "no cache")  # this machine's may hold shards of others
    assert "what" not in hpt("du", store=str(tmp_path), HPT_CACHE=cache)
    assert document(hpt("runs", "--json", store=str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def test_a_name_leads_to_the_trial_although_a_later_launch_was_cancelled(store, tmp_path):
    first, key = launch_of(store).stem, json.loads(launch_of(store).read_text())["trials"]["hpt"]
    weights = (store / f"stages/{key}/weights.safetensors").read_bytes()

    def pulled(name: str, code: int = 0) -> str:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return hpt("pull", name, str(tmp_path / "out"), store=str(store), code=code)

    # The same trial: finished whoever did it.
    later(store, 1, **{"adapt/init=base,shots=1,seed=0": 5})
    pulled("tiny/hpt")
    assert (tmp_path / "out/weights.safetensors").read_bytes() == weights
    # A launch without the stage: that of the earlier one, which is said.
    second = later(store, 2, hpt=None)
    printed = pulled("tiny/hpt")
    assert f"{second} has no hpt: this is that of tiny-later-1" in printed
    assert (tmp_path / "out/weights.safetensors").read_bytes() == weights
    # Other settings that were not finished: the reader chooses.
    third = later(store, 3, hpt=7)
    printed = pulled("tiny/hpt", code=2)
    assert f"{third}: hpt is not done in the last launch" in printed
    assert "tiny-later-1: spec.steps: 7 -> 300" in printed
    assert not (tmp_path / "out").exists()
    pulled("tiny-later-1/hpt")
    pulled(f"{first}/hpt")
    assert (tmp_path / "out/weights.safetensors").read_bytes() == weights
    # The launch's own id is no question of which.
    assert "hpt is not done" in pulled(f"{third}/hpt", code=2)
    assert "has no stage or trial hqt" in pulled("tiny/hqt", code=2)


def test_finished_trials_of_different_settings_are_asked_about(store, tmp_path):
    """Two launches finished a stage, with other settings, and the last one has it not."""
    key = json.loads(launch_of(store).read_text())["trials"]["hpt"]
    later(store, 1, hpt=7)
    other = store / f"stages/{7:064x}"
    shutil.copytree(store / f"stages/{key}", other)
    (other / "DONE").write_text((other / "DONE").read_text().replace(key, f"{7:064x}"))
    later(store, 2, hpt=None)
    printed = hpt("pull", "tiny/hpt", str(tmp_path / "out"), store=str(store), code=2)
    assert "launches finished hpt with different settings" in printed
    assert "name the launch, as in tiny-later-1/hpt" in printed


def test_datasets_are_listed(tmp_path):
    store = open_store(str(tmp_path))
    write(store, "birds", labelled(5) + labelled(2, split="test"))
    write(store, "birds/flat", labelled(3, classes=0), classes="")
    write(store, "broken", labelled(3))
    store.put("datasets/broken/manifest.json", b"{")
    write(store, "half", labelled(3))
    store.delete("datasets/half/manifest.json")
    store.put("datasets/mine/a.jpg", b"mine")
    lines = hpt("data", "list", store=str(tmp_path)).splitlines()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert list(rows) == ["birds", "birds/flat", "broken", "half", "mine"]
    assert "test 2, train 5" in rows["birds"]
    assert "no labels" in rows["birds/flat"]
    assert "damaged manifest" in rows["broken"]
    assert "not finished" in rows["half"]
    assert "no dataset" in rows["mine"]
    found = {one["name"]: one for one in json.loads(
        hpt("data", "list", "--json", "--store", str(tmp_path), store=""))}  # fmt: skip
    assert found["birds"]["splits"] == {"test": 2, "train": 5}
    assert found["birds"]["classes"] == 3
    assert found["birds"]["written"].startswith("20")
    size = sum(p.stat().st_size for p in (tmp_path / "datasets").rglob("*") if p.is_file())
    assert sum(one["bytes"] for one in found.values()) == size
