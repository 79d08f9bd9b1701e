"""The command that refuses an archive can be pasted, and shards what the archive holds."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pictures import encoded, picture
from services import need
from small import REFUSED, environment, hpt

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.store import open_store

PICTURES = [encoded(picture(number, (24, 24))) for number in range(40)]
FOLDERS = {f"{'cat' if n % 2 else 'dog'}/{n}.jpg": data for n, data in enumerate(PICTURES)}
SAMPLES = {
    f"{n:03}.{field}": content
    for n, data in enumerate(PICTURES)
    for field, content in (("jpg", data), ("cls", str(n % 2).encode()))
}


def archive(file: Path, members: dict[str, bytes]) -> None:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as opened:
            for name, data in members.items():
                opened.writestr(name, data)
        return
    with tarfile.open(file, "w:gz" if file.suffix == ".tgz" else "w:xz") as opened:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "members", "classes"),
    [
        ("my photos.zip", FOLDERS, ("cat", "dog")),
        ("my photos.tgz", FOLDERS, ("cat", "dog")),
        ("samples.tgz", SAMPLES, ("0", "1")),
        ("it's.tar.xz", SAMPLES, ("0", "1")),
    ],
)
def test_the_printed_command_shards_what_an_archive_holds(
    name, members, classes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    need({".zip": "unzip", ".tgz": "gunzip", ".xz": "unxz"}[Path(name).suffix])
    archive(tmp_path / name, members)
    printed = hpt("shard", name, "./my store/datasets/pets", store="", code=REFUSED)
    command = printed.partition(" do: ")[2].partition(": ")[2].strip()
    own = f"{sys.executable} -m hpt_dist"
    done = subprocess.run(
        ["bash", "-c", command.replace("hpt-dist", own)],
        env=environment(""), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    manifest = read_manifest(open_store(str(tmp_path / "my store")), "pets")
    assert manifest.label == "single"
    assert tuple(manifest.classes) == classes
    assert sum(split.images for split in manifest.splits.values()) == len(PICTURES)


def test_init_prints_its_own_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive(tmp_path / "photos.zip", FOLDERS)
    printed = hpt("init", "photos.zip", store="", code=REFUSED)
    assert printed.rstrip().endswith("unzip -q photos.zip -d photos && hpt-dist init photos")


def test_a_damaged_archive_is_refused_like_a_whole_one(tmp_path):
    (tmp_path / "broken.tgz").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    printed = hpt("shard", str(tmp_path / "broken.tgz"), "s/datasets/x", store="", code=REFUSED)
    assert "tar -xf" in printed
