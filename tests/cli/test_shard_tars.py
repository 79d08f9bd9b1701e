"""`shard` of tars as its users write it: in quotes or expanded by the shell, and with answers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from pictures import encoded, picture
from typer.testing import CliRunner
from webdataset import TarWriter

from hpt_dist.cli.main import app
from hpt_dist.errors import RequestError


def shard(*arguments: str | Path):
    return CliRunner().invoke(app, ["shard", *map(str, arguments), "--workers", "1"])


@pytest.fixture
def tars(tmp_path):
    """Two tars, whose samples have a text and two numbers."""
    for number in range(2):
        with tarfile.open(tmp_path / f"a-{number}.tar", "w") as archive:
            for i in range(3):
                facts = json.dumps({"label": i, "class_id": 7}).encode()
                image = encoded(picture(3 * number + i, (24, 16)))
                for field, content in (("jpg", image), ("json", facts)):
                    one = tarfile.TarInfo(f"{number}{i}.{field}")
                    one.size = len(content)
                    archive.addfile(one, io.BytesIO(content))
    return tmp_path


def test_a_list_in_quotes_is_what_the_shell_makes_of_it(tars, monkeypatch):
    (tars / "names.txt").write_text("a\nb\nc\n")
    monkeypatch.chdir(tars)
    answers = ("--label", "json:label", "--classes", "names.txt", "--split", "train")
    quoted = shard("a-{0..1}.tar", "store/datasets/quoted", *answers, "--json")
    assert quoted.exit_code == 0, quoted.output
    for line in (
        "read as WebDataset: 2 tars, 6 samples",
        "fields of the samples: jpg 6, json 6; the image is jpg",
        "labels: whole numbers in json:label, with names from names.txt",
        "train: 6 images (a 2, b 2, c 2)",
        "rule: all of train, by --split",
    ):
        assert line in quoted.stderr.splitlines()
    expanded = shard("a-0.tar", "a-1.tar", "store/datasets/expanded", *answers, "--json")
    manifests = [
        json.loads((tars / f"store/datasets/{name}/manifest.json").read_text())
        for name in ("quoted", "expanded")
    ]
    assert manifests[0]["classes"] == manifests[1]["classes"] == ["a", "b", "c"]
    shards = [one["splits"]["train"]["shards"][0]["sha256"] for one in manifests]
    assert shards[0] == shards[1], expanded.output


def test_the_command_for_a_folder_of_tars(tars, monkeypatch):
    """As docs/own_images.md shows it."""
    monkeypatch.chdir(tars)
    with TarWriter(str(tars / "train-000000.tar")) as writer:
        for i in range(4):
            image = encoded(picture(i, (24, 16)))
            writer.write({"__key__": f"{i}", "jpg": image, "txt": f"a photo of {i}"})
    (tars / "shards").mkdir()
    (tars / "train-000000.tar").rename(tars / "shards/train-000000.tar")
    done = shard("shards", "hpt-store/datasets/shards")
    assert done.exit_code == 0, done.output
    assert "shards: 4 images in hpt-store/datasets/shards" in done.stdout
    assert "txt is not read (--label txt takes it as the label)" in done.stderr


def test_answers_and_several_sources_are_for_tars_alone(tars):
    dataset = tars / "store/datasets/a"
    for arguments, what in (
        ((tars, dataset), "--label json:label or --label json:class_id or --label none"),
        ((tars / "a-0.tar", tars, dataset), "several sources, of which"),
        (("openmoji/line", dataset, "--split", "train"), "openmoji/line names no tars"),
        ((tars / "a-0.tar", dataset, "--root", tars), "only a file of paths has a root"),
    ):
        refused = shard(*arguments)
        assert isinstance(refused.exception, RequestError)
        assert what in str(refused.exception)
    assert not (tars / "store").exists()
