"""What is known of a dataset without reading an image."""

import pytest
from pictures import labelled, write

from hpt_dist.datasets.facts import open_dataset
from hpt_dist.errors import DataError, RequestError
from hpt_dist.store import open_store


def test_the_facts_are_the_manifests(tmp_path):
    samples = [*labelled(7), *labelled(4, split="val")]
    manifest = write(open_store(str(tmp_path)), "pictures/small", samples)
    found = open_dataset(str(tmp_path), "pictures/small")
    assert found.splits == {"train": 7, "val": 4}
    assert found.classes == ("a", "b", "c")
    assert found.class_counts["train"] == {"a": 3, "b": 2, "c": 2}
    assert (found.name, found.digest, found.label) == ("pictures/small", manifest.digest, "single")
    assert (found.mean, found.std) == (manifest.mean, manifest.std)
    assert open_dataset(found.store, found.name) == found


def test_what_is_not_there_or_damaged_is_an_error(tmp_path):
    write(open_store(str(tmp_path)), "pictures", labelled(3))
    with pytest.raises(RequestError, match="did you mean pictures"):
        open_dataset(str(tmp_path), "picture")
    (tmp_path / "datasets/pictures/manifest.json").write_text("{")
    with pytest.raises(DataError, match="damaged manifest"):
        open_dataset(str(tmp_path), "pictures")
