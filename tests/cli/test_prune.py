"""`du` counts every byte once, and `prune` deletes what nobody needs, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from pictures import labelled, write
from small import hpt

from hpt_dist.datasets.shards import verify
from hpt_dist.launch import pruning
from hpt_dist.launch.pruning import Needs
from hpt_dist.store import lease, open_store, s3_client
from hpt_dist.store.paths import DONE, LEASE, stage_prefix

ORPHAN = f"{5:064x}"


@pytest.fixture
def store(tiny, tmp_path):
    """Return a copy of a store in which the tiny recipe went through, with its own datasets."""
    copy = Path(shutil.copytree(tiny[0], tmp_path / "store", symlinks=True))
    (copy / "datasets").unlink()
    shutil.copytree(tiny[0] / "datasets", copy / "datasets")
    return copy


def record_of(store: Path) -> dict:
    (record,) = store.glob("launches/tiny-2*.json")
    return json.loads(record.read_text())


def orphan(store: Path, key: str = ORPHAN) -> Path:
    """Leave a finished trial that no launch names, with what killed processes left."""
    source = store / "stages" / record_of(store)["trials"]["hpt"]
    folder = Path(shutil.copytree(source, store / "stages" / key))
    (folder / DONE).write_text((folder / DONE).read_text().replace(source.name, key))
    (folder / "state").mkdir(exist_ok=True)
    (folder / "state/a.state").write_bytes(b"state")
    (folder / ".tmp").mkdir(exist_ok=True)
    (folder / ".tmp/draft").write_bytes(b"draft")
    (store / "inputs/0123").write_text(key)
    return folder


def files(store: Path) -> dict[str, bytes]:
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def launched(store: Path, identity: str, **trials: str) -> None:
    """Record a launch of some trials."""
    record = record_of(store)
    record |= {"id": identity, "trials": trials, "settings": {}, "report": {}}
    (store / f"launches/{identity}.json").write_text(json.dumps(record))


def pruned(store: Path, *options: str, code: int = 0):
    printed = hpt("prune", *options, "--json", store=str(store), code=code)
    return json.loads(printed[printed.index("{") :])


def test_all_that_launches_need_stays(store):
    before = files(store)
    assert "nothing to delete: launches need all of it" in hpt("prune", "--yes", store=str(store))
    assert files(store) == before


def test_what_is_listed_goes_with_yes_and_nothing_else(store):
    before = files(store)
    folder = orphan(store)
    size = sum(len(data) for path, data in files(store).items() if ORPHAN in path)
    listed = hpt("prune", store=str(store))
    assert f"trial  {ORPHAN}" in listed
    assert "of no launch" in listed
    assert "the same command with --yes" in listed
    assert folder.exists()
    assert pruned(store)["items"] == [
        {"kind": "trial", "name": ORPHAN, "bytes": size, "why": "of no launch"}
    ]
    assert "deleted 1 of 1" in hpt("prune", "--yes", store=str(store))
    assert files(store) == before


def test_states_and_drafts_of_finished_trials_go(store):
    before = files(store)
    folder = store / "stages" / record_of(store)["trials"]["hpt"]
    (folder / "state").mkdir(exist_ok=True)
    (folder / "state/a.state").write_bytes(b"state")
    assert [one["kind"] for one in pruned(store, "--yes")["items"]] == ["saved states"]
    (folder / ".tmp").mkdir(exist_ok=True)
    (folder / ".tmp/draft").write_bytes(b"draft")
    assert [one["kind"] for one in pruned(store, "--yes")["items"]] == ["drafts"]
    assert files(store) == before


def test_states_that_a_launch_can_go_on_from_stay(store):
    folder = orphan(store)
    (folder / DONE).unlink()
    launched(store, "other", hpt=ORPHAN)
    (folder / ".tmp/draft").unlink()
    before = files(store)
    assert pruned(store, "--yes")["items"] == []
    assert files(store) == before


def test_a_trial_that_somebody_works_on_stays(store):
    folder = orphan(store)
    opened = open_store(str(store))
    items = pruning.find(opened, Needs())
    with lease.hold(opened.at(stage_prefix(ORPHAN)), LEASE):
        assert pruned(store, "--yes")["items"] == []
        # Also if it began after the listing.
        [kept] = [pruning.delete(opened, item, Needs()) for item in items]
        assert "held by process" in kept.why
        assert (folder / DONE).exists()
    assert pruning.delete(opened, items[0], Needs()) is None
    assert not (folder / DONE).exists()


def test_a_launch_that_began_meanwhile_keeps_its_trials(store):
    folder = orphan(store)
    opened = open_store(str(store))
    items = pruning.find(opened, Needs())
    launched(store, "meanwhile", hpt=ORPHAN)
    before = files(store)
    [kept] = [pruning.delete(opened, item, Needs()) for item in items]
    assert kept.why == "a launch names it now"
    assert files(store) == before
    assert folder.exists()


def test_the_lease_of_a_holder_that_died_elsewhere_is_watched(store, monkeypatch):
    folder = orphan(store)
    content = {"owner": "a", "host": "elsewhere", "pid": 1, "started": "1", "pids": "other"}
    (folder / LEASE).write_text(json.dumps(content))
    assert pruned(store)["items"] == []
    os.utime(folder / LEASE, (1, 1))
    assert [one["name"] for one in pruned(store)["items"]] == [ORPHAN]
    monkeypatch.setattr(lease, "TTL_S", 0.1)
    monkeypatch.setattr(lease, "RENEW_S", 2.0)
    assert pruned(store, "--yes")["kept"] == []
    assert not (folder / DONE).exists()


def test_a_launch_is_forgotten_with_what_only_it_needs(store):
    before = files(store)
    folder = orphan(store)
    hpt_key = record_of(store)["trials"]["hpt"]
    launched(store, "other", hpt=ORPHAN, base=record_of(store)["trials"]["base"])
    (store / "launches/other.end").write_text("FINISHED")
    found = pruned(store, "--forget", "other", "--yes")
    assert [(one["kind"], one["name"]) for one in found["items"]] == [
        ("launch", "other"),
        ("trial", ORPHAN),
    ]
    assert files(store) == before
    assert not (folder / DONE).exists()
    assert (store / "stages" / hpt_key / DONE).exists()
    assert "name a launch by its id" in hpt("prune", "--forget", "tiny", store=str(store), code=2)


def test_a_launch_that_runs_is_not_forgotten(store):
    folder = orphan(store)
    (folder / DONE).unlink()
    launched(store, "other", hpt=ORPHAN)
    with lease.hold(open_store(str(store)).at(stage_prefix(ORPHAN)), LEASE):
        printed = hpt("prune", "--forget", "other", "--yes", store=str(store), code=2)
    assert "other is running" in printed
    assert "hpt-dist cancel other" in printed


def test_what_a_recipe_needs_stays(store, tiny):
    for record in store.glob("launches/tiny-*"):
        record.unlink()
    before = files(store)
    assert pruned(store, "--keep", str(tiny[1]))["items"] == []
    keys = {one["name"] for one in pruned(store)["items"]}
    assert keys == {path.parent.name for path in store.glob("stages/*/DONE")}
    assert files(store) == before
    assert "no recipe nowhere" in hpt("prune", "--keep", "nowhere", store=str(store), code=2)


def test_a_damaged_launch_may_need_anything(store):
    orphan(store)
    before = files(store)
    (store / "launches/odd.json").write_text("{")
    printed = hpt("prune", "--yes", store=str(store), code=2)
    assert "nobody can tell which trials a damaged launch needs" in printed
    (store / "launches/odd.json").unlink()
    assert files(store) == before


def aged(folder: Path) -> Path:
    """Let a dataset look as if it had been written last year."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3e7,) * 2)
    return folder


def test_datasets_go_only_where_asked_for_and_old_and_unused(store):
    opened = open_store(str(store))
    for name in ("used", "young", "birds", "birds/flat", "half"):
        write(opened, name, labelled(3))
    (store / "datasets/half/manifest.json").unlink()
    for name in ("birds", "half", "openmoji"):
        aged(store / "datasets" / name)
    assert pruned(store, "--yes")["items"] == []
    listed = pruned(store, "--datasets")["items"]
    assert [one["name"] for one in listed] == ["birds", "birds/flat", "half"]
    os.utime(store / "datasets/birds/flat/manifest.json")
    own = [store / "datasets" / path for path in ("birds/notes.txt", "mine/train/a-000000.tar")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path, (1, 1))
    before = files(store)
    assert len(pruned(store, "--datasets", "--yes")["items"]) == 2
    gone = before.keys() - files(store).keys()
    assert {path.split("/")[1] for path in gone} == {"birds", "half"}
    assert all(path.read_bytes() == b"mine" for path in own)
    assert not [path for path in gone if path.startswith("datasets/birds/flat/")]
    assert verify(opened, "birds/flat") == []


def test_a_dataset_that_changed_or_is_used_by_now_stays(store, tiny):
    opened = open_store(str(store))
    write(opened, "birds", labelled(3))
    folder = aged(store / "datasets/birds")
    (item,) = pruning.find(opened, Needs(), datasets=True)
    digest = json.loads(hpt("data", "show", str(folder), "--json", store=""))["digest"]
    record = record_of(store)
    record["settings"] = {"hpt": {"datasets": {"birds": digest}}}
    (store / "launches/other.json").write_text(json.dumps(record | {"id": "other"}))
    assert pruning.delete(opened, item, Needs()).why == "a launch uses it now"
    (store / "launches/other.json").unlink()
    os.utime(next(folder.rglob("*.tar")))
    assert pruning.delete(opened, item, Needs()).why == "it has changed since"
    assert verify(opened, "birds") == []


def test_the_shards_that_a_killed_replacement_left_go(store):
    opened = open_store(str(store))
    write(opened, "birds", labelled(3))
    folder = store / "datasets/birds"
    kept = files(folder)
    left = folder / "version-0123456789ab/train"
    left.mkdir(parents=True)
    for path in list(folder.glob("train/birds-train-000000.*")):
        shutil.copy(path, left)
    (folder / "notes.txt").write_text("mine")
    aged(folder)
    record = record_of(store)
    digest = json.loads(hpt("data", "show", str(folder), "--json", store=""))["digest"]
    record["settings"] = {"hpt": {"datasets": {"birds": digest}}}
    (store / "launches/other.json").write_text(json.dumps(record | {"id": "other"}))
    (item,) = pruned(store, "--datasets", "--yes")["items"]
    assert item["kind"] == "old version"
    assert files(folder) == kept | {"notes.txt": b"mine"}


def test_features_that_nobody_wrote_lately_go_and_are_no_loss(store):
    old, *young = sorted(store.glob("features/*"))
    aged(old)
    assert [one["name"] for one in pruned(store)["items"]] == [old.name]
    hpt("prune", "--yes", store=str(store))
    assert not [path for path in old.rglob("*") if path.is_file() and path.name != "lock"]
    assert all((folder / "DONE").exists() for folder in young)


def test_of_two_recipes_that_share_trials_each_keeps_what_it_needs(store, tiny, tmp_path):
    """A forgotten launch takes only its own along, with the answers to images beside results."""
    text = tiny[1].read_text().replace("name: tiny", "name: second")
    text = text.partition("  adapt:")[0].replace("k: [5]", "k: [3]")
    second = tmp_path / "second.yaml"
    second.write_text(text)
    threads = torch.get_num_threads()
    hpt("launch", str(second), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    assert pruned(store)["items"] == []
    for folder in store.glob("features/*"):
        aged(folder)
    kinds = {one["kind"] for one in pruned(store)["items"]}
    assert kinds == {"features"}
    first, later = record_of(store), max(store.glob("launches/second-2*.json"))
    of_second = set(json.loads(later.read_text())["trials"].values())
    shared = of_second & set(first["trials"].values())
    own = set(first["trials"].values()) - of_second
    assert len(shared) == 2
    assert len(own) == 4
    before = {key: files(store / "stages" / key) for key in of_second}
    listed = pruned(store, "--forget", first["id"])["items"]
    assert {one["name"] for one in listed if one["kind"] == "trial"} == own
    sizes = {key: sum(map(len, files(store / "stages" / key).values())) for key in own}
    assert {one["name"]: one["bytes"] for one in listed if one["kind"] == "trial"} == sizes
    assert pruned(store, "--forget", first["id"], "--yes")["kept"] == []
    assert {key: files(store / "stages" / key) for key in of_second} == before
    assert not any(files(store / "stages" / key) for key in own)
    assert not files(store / "features")
    assert "4 trials: 4 cached" in hpt("plan", str(second), store=str(store))
    assert "6 trials: 2 cached, 4 runs" in hpt("plan", str(tiny[1]), store=str(store))
    runs = json.loads(hpt("runs", "--json", store=str(store)))
    assert [one["recipe"] for one in runs] == ["second"]
    assert json.loads(hpt("du", "--json", store=str(store)))["unnamed"] == 0
    names = [one["name"] for one in json.loads(hpt("data", "list", "--json", store=str(store)))]
    assert names == ["openmoji/color", "openmoji/line"]


def test_everything_is_counted_once(store):
    record = record_of(store)
    launched(store, "other", base=record["trials"]["base"])
    orphan(store)
    found = json.loads(hpt("du", "--json", store=str(store)))
    sizes = {path: len(data) for path, data in files(store).items() if ".tmp" not in path}
    in_work = sum(size for path, size in sizes.items() if path.startswith("work/"))
    assert found["total"] == sum(sizes.values()) - in_work
    assert sum(found["work"].values()) == in_work
    parts = sum(found[part] for part in ("trials", "features", "records", "other"))
    assert found["features"] > 0
    assert parts + sum(one["bytes"] for one in found["datasets"]) == found["total"]
    one = {launch["id"]: launch for launch in found["launches"]}
    base = sum(n for path, n in sizes.items() if f"stages/{record['trials']['base']}/" in path)
    assert one["other"] == {"id": "other", "trials": 1, "bytes": base, "shared_bytes": base}
    assert one[record["id"]]["bytes"] > one[record["id"]]["shared_bytes"] == base
    assert found["unnamed"] == sum(
        n for path, n in sizes.items() if ORPHAN in path and "stages" in path
    )
    assert (found["states"], found["unfinished"]) == (5, 5)
    printed = hpt("du", store=str(store))
    assert "trials, each counted once" in printed
    assert "openmoji/line" in printed
    assert "work folder: MLflow" in printed


@pytest.mark.services
def test_on_s3_uploads_of_killed_writers_go_too(ceph, tmp_path):
    bucket, settings = ceph.https.make_bucket(), {**ceph.https.environment}
    uri, settings = f"s3://{bucket}/hpt", settings | {"HPT_WORK": str(tmp_path)}
    with mock.patch.dict(os.environ, settings):
        store = open_store(uri)
        for name in ("STORE", f"stages/{ORPHAN}/DONE", f"stages/{ORPHAN}/state/a.state"):
            store.put(name, b"{}")
        store.put("inputs/01", ORPHAN.encode())
        target = {"Bucket": bucket, "Key": f"hpt/stages/{ORPHAN}/draft"}
        s3_client.call("create_multipart_upload", target)
        assert [one.path for one in store.unfinished()] == [f"stages/{ORPHAN}/draft"]
        assert all(info.modified_s > 1e9 for info in store.list())
    assert json.loads(hpt("du", "--json", store=uri, **settings))["unnamed"] == 4
    assert "deleted 1 of 1" in hpt("prune", "--yes", store=uri, **settings)
    with mock.patch.dict(os.environ, settings):
        assert list(store.unfinished()) == []
        assert {info.path for info in store.list()} == {"STORE"}


def test_what_is_no_store_is_refused(tmp_path):
    assert "there is no store" in hpt("prune", "--yes", store=str(tmp_path), code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_prune_that_was_killed_is_gone_on_with(store, monkeypatch):
    before = files(store)
    folder = orphan(store)
    opened = open_store(str(store))
    (item,) = pruning.find(opened, Needs())
    delete, paths = type(opened).delete, []

    def killed(root, path):
        paths.append(path)
        if len(paths) == 2:
            raise KeyboardInterrupt
        delete(root, path)

    with monkeypatch.context() as patch:
        patch.setattr(type(opened), "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            pruning.delete(opened, item, Needs())
    assert paths[0] == DONE
    assert (folder / "weights.safetensors").exists()
    assert "deleted 1 of 1" in hpt("prune", "--yes", store=str(store))
    assert files(store) == before
