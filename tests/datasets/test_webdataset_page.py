"""docs/webdataset.md does what it shows: plain webdataset and WebLoader read our shards."""

import gc
import re
from pathlib import Path

import pytest
from pictures import labelled, write

from hpt_dist.store import open_store

PAGE = (Path(__file__).parents[2] / "docs/webdataset.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


# webdataset leaves the tars it has read open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_and_its_loader_read_our_shards(tmp_path, monkeypatch, capfd):
    images = labelled(40)
    manifest = write(open_store(str(tmp_path / "hpt-store")), "photos", images, shard_bytes=90_000)
    assert len(manifest.splits["train"].shards) == 2
    monkeypatch.chdir(tmp_path)
    samples, batches = BLOCKS
    exec(compile(samples, "docs/webdataset.md", "exec"), {"__name__": "__main__"})
    shown = capfd.readouterr().out.splitlines()
    assert sorted(shown) == [f"{one.key} (24, 16) {one.label}" for one in images]
    exec(compile(batches, "docs/webdataset.md", "exec"), {"__name__": "__main__"})
    shown = re.findall(
        r"torch.Size\(\[(\d+), 3, 64, 64\]\) torch.Size\(\[(\d+)\]\)", capfd.readouterr().out
    )
    assert sum(int(count) for count, _ in shown) == sum(int(count) for _, count in shown) == 40
    gc.collect()
