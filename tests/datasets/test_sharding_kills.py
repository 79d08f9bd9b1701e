"""Sharding ended by signals at any moment: run again, the bytes are those of an undisturbed run.

The program is the real command with two workers, killed alone or with its process group.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from services import Ceph
from typer.testing import CliRunner

from hpt_dist.cli.main import app
from hpt_dist.datasets.shards import verify, write_dataset
from hpt_dist.sources import open_source
from hpt_dist.sources.understood import in_words
from hpt_dist.store import Store, open_store
from hpt_dist.store.marker import MARKER

NAME = "photos"
SHARD_MB = 0.05
IMAGES = 300


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A few hundred small JPEGs in two splits, two files of them damaged."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        file = root / ("test" if i % 5 == 0 else "train") / f"class-{i % 3}" / f"{i:03}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((160, 120), Image.Resampling.BICUBIC).save(data, "JPEG")
        file.write_bytes(data.getvalue()[: 700 if i in {7, 70} else None])
    return root


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory) -> dict[str, bytes]:
    """What a run that nobody disturbs writes."""
    store = open_store(str(tmp_path_factory.mktemp("whole")))
    finish(photos, store)
    return contents(store)


def finish(photos: Path, store: Store) -> None:
    write_dataset(open_source(str(photos)), store, NAME, shard_bytes=round(SHARD_MB * 1e6))


def contents(store: Store) -> dict[str, bytes]:
    """Return the objects of a store by path, except its marker, which commands make."""
    return {info.path: store.get(info.path) for info in store.list() if info.path != MARKER}


class Sharding:
    """One run of the command, and the processes that carry its mark."""

    def __init__(self, photos: Path, uri: str) -> None:
        self._mark = uuid.uuid4().hex
        options = ("--workers", "2", "--shard-mb", str(SHARD_MB))
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hpt_dist",
                "shard",
                photos,
                f"{uri}/datasets/{NAME}",
                *options,
            ],
            env=os.environ | {"HPT_TEST_MARK": self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def others(self) -> list[int]:
        """Return the ids of its living processes but the first."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = self._mark.encode() in (folder / "environ").read_bytes()
            except OSError:
                continue
            if marked and int(folder.name) != self.process.pid:
                found.append(int(folder.name))
        return found

    def wait_for(self, store: Store, objects: int) -> None:
        """Return when the store has so many objects, or the run is over."""
        while self.process.poll() is None and sum(1 for _ in store.list()) < objects:
            time.sleep(0.002)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what stderr printed. No process is left."""
        _, printed = self.process.communicate(timeout=60)
        deadline = time.monotonic() + 10
        while left := self.others():
            assert time.monotonic() < deadline, f"processes are left: {left}"
            time.sleep(0.01)
        return self.process.returncode, printed


@contextmanager
def sharding(photos: Path, uri: str) -> Iterator[Sharding]:
    run = Sharding(photos, uri)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


def reading(photos: Path) -> str:
    """Return how the command says that it understands a folder."""
    return "".join(f"{line}\n" for line in in_words(open_source(str(photos))))


def finished_tars(store: Store) -> dict[str, tuple[int, int]]:
    """Return inode and time of each tar whose record is there."""
    there = {info.path for info in store.list()}
    tars = {path for path in there if path.endswith(".tar")}
    done = {path for path in tars if f"{path.removesuffix('.tar')}.done.json" in there}
    stats = {path: store.local(path).stat() for path in sorted(done)}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in stats.items()}


@pytest.fixture(scope="module")
def in_time() -> Iterator[list[bool]]:
    """Whether each kill came before the end; most of them must."""
    kills: list[bool] = []
    yield kills
    assert sum(kills) >= 0.7 * len(kills)


# Kills from the first objects to the last, of one process and of the group.
FEW = {0, 2, 3, 5, 6, 11}
SEEDS = [s if s in FEW else pytest.param(s, marks=pytest.mark.deep) for s in range(20)]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_any_moment_and_run_again_the_bytes_are_the_same(
    tmp_path, photos, whole, in_time, seed
):
    rng = random.Random(seed)
    store = open_store(str(tmp_path / "store"))
    with sharding(photos, store.uri) as run:
        run.wait_for(store, rng.randrange(len(whole) - 1))
        time.sleep(rng.uniform(0, 0.02))
        (os.kill if seed % 2 else os.killpg)(run.process.pid, signal.SIGKILL)
        run.end()
    in_time.append(store.stat(f"datasets/{NAME}/manifest.json") is None)
    finished = finished_tars(store)
    finish(photos, store)
    assert contents(store) == whole
    after = finished_tars(store)
    assert {path: after[path] for path in finished} == finished


def test_an_undisturbed_command_writes_the_same_and_leaves_no_process(tmp_path, photos, whole):
    store = open_store(str(tmp_path / "store"))
    with sharding(photos, store.uri) as run:
        assert run.end() == (0, f"{reading(photos)}new store at {store.uri}\n")
    assert contents(store) == whole


def test_ctrl_c_ends_with_one_line_and_leaves_no_unfinished_file(tmp_path, photos, whole):
    store = open_store(str(tmp_path / "store"))
    with sharding(photos, store.uri) as run:
        run.wait_for(store, 9)
        os.killpg(run.process.pid, signal.SIGINT)
        code, printed = run.end()
    before = f"{reading(photos)}new store at {store.uri}\n"
    assert (code, printed.removeprefix(before).split()) == (1, ["interrupted"])
    assert not [path for path in (tmp_path / "store").rglob("*/.tmp/*") if path.is_file()]
    finish(photos, store)
    assert contents(store) == whole


def test_a_worker_that_is_killed_ends_the_command_with_advice(tmp_path, photos, whole):
    store = open_store(str(tmp_path / "store"))
    with sharding(photos, store.uri) as run:
        run.wait_for(store, 3)
        os.kill(run.others()[0], signal.SIGKILL)
        code, printed = run.end()
    assert code == 1
    assert "a worker process ended too early: SIGKILL" in printed
    assert "fewer --workers" in printed
    assert "Traceback" not in printed
    finish(photos, store)
    assert contents(store) == whole


@pytest.mark.services
def test_sharding_to_s3_is_killed_and_run_again(ceph: Ceph, monkeypatch, photos, whole):
    for name, value in ceph.http.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{ceph.http.make_bucket()}/below")
    with sharding(photos, store.uri) as run:
        run.wait_for(store, len(whole) // 3)
        os.killpg(run.process.pid, signal.SIGKILL)
        assert run.end()[0] == -signal.SIGKILL
    finished = {info.path: info.etag for info in store.list() if info.path.endswith(".done.json")}
    assert finished
    with sharding(photos, store.uri) as run:
        assert run.end()[0] == 0
    assert contents(store) == whole
    assert verify(store, NAME) == []


# What the command says


def without_rights(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to which file permissions apply, as they do not to root."""
    bounded = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
    prefix = bounded if os.geteuid() == 0 else []
    return subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=60)


def test_the_command_names_what_it_left_out(tmp_path):
    source = tmp_path / "source" / "train"
    source.mkdir(parents=True)
    data = io.BytesIO()
    Image.new("RGB", (9, 9)).save(data, "PNG")
    for i in range(9):
        (source / f"{i}.png").write_bytes(data.getvalue() if i < 3 else b"")
    (source / "2.png").chmod(0)
    dataset = tmp_path / "store" / "datasets" / "a"
    command = [sys.executable, "-m", "hpt_dist", "shard", tmp_path / "source", dataset]
    ended = without_rights(*command)
    assert ended.returncode == 0, ended.stderr
    assert "left out: 7 of 9 images" in ended.stdout
    assert "train/2.png: cannot be read: Permission denied" in ended.stdout
    assert ended.stdout.count("empty file") == 4
    assert f"hpt-dist data show {dataset} --json" in ended.stdout
    reported = json.loads(without_rights(*command, "--json").stdout)
    assert (reported["images"], len(reported["quarantined"])) == (2, 7)
    assert reported["quarantined"][0] == {
        "origin": "train/2.png",
        "reason": "cannot be read: Permission denied",
    }
    refused = without_rights(*command, "--max-bad", "3")
    assert refused.returncode == 1
    assert "more than 3 images cannot be used" in refused.stderr
    (source / "2.png").chmod(0o644)
    refused = without_rights(*command)
    assert refused.returncode == 2
    assert "became readable" in refused.stderr
    assert "left out: 6 of 9 images" in without_rights(*command, "--replace").stdout


def test_options_of_the_encoding_reach_the_manifest(tmp_path, photos):
    uri = str(tmp_path / "store" / "datasets" / NAME)
    options = ["--resize", "32", "--quality", "70", "--workers", "1", "--shard-mb", "0.5", "--json"]
    ended = CliRunner().invoke(app, ["shard", str(photos), uri, *options])
    assert ended.exit_code == 0, ended.output
    rule = json.loads(CliRunner().invoke(app, ["data", "show", uri, "--json"]).stdout)
    assert rule["source"]["rule"] == (
        "splits by the top folders; short sides of more than 32 pixels resized to that, "
        "all images encoded as JPEG of quality 70"
    )


def test_a_new_store_is_announced_once_and_not_made_for_nothing(tmp_path, photos):
    store = tmp_path / "store"

    def printed(source, name, code):
        options = ["--workers", "1", "--resize", "8"]
        words = ["shard", str(source), str(store / "datasets" / name), *options]
        ended = CliRunner().invoke(app, words)
        assert (ended.exception is not None) is bool(code), ended.output
        return " ".join(ended.output.split())

    printed(tmp_path / "nothing", "a", 2)
    assert not store.exists()
    assert f"new store at {store}" in printed(photos, "a", 0)
    assert (store / "STORE").exists()
    assert "new store" not in printed(photos, "b", 0)


@pytest.mark.parametrize(
    "options", [["--resize", "0"], ["--quality", "101"], ["--workers", "0"], ["--shard-mb", "0"]]
)
def test_options_out_of_range_are_refused(tmp_path, photos, options):
    uri = str(tmp_path / "store" / "datasets" / NAME)
    assert CliRunner().invoke(app, ["shard", str(photos), uri, *options]).exit_code == 2
    assert not (tmp_path / "store").exists()
