from __future__ import annotations

import json

import pytest
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, labelled, picture, sample, write
from small import hpt

from hpt_dist.cli.main import app
from hpt_dist.datasets import subset
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.subset import Chooser, SubsetRule, read_subset, subset_names, write_subset
from hpt_dist.errors import DataError, RequestError
from hpt_dist.store import open_store

COUNT = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("store")))
    write(store, "birds", labelled(COUNT), shard_bytes=20_000)
    write(store, "bare", labelled(COUNT, classes=0), classes="")
    data = encoded(picture(0, (24, 16)), "PNG")
    several = [(), (0, 1), (0, 2), (1,), (0,)]
    samples = [sample(f"x-{i}", data, "train", several[i % 5]) for i in range(COUNT)]
    write(store, "many", samples, classes="abcd")  # nothing is a d
    return store


def chooser(store, name: str, seed: int = 0) -> Chooser:
    return Chooser(store, read_manifest(store, name), "train", seed)


def labels_of(store, name: str) -> dict[str, object]:
    it = chooser(store, name)
    return dict(zip(it._keys, it._labels, strict=True))


@few(30)
@given(st.integers(0, 2**63), st.integers(3, COUNT - 1), st.data())
def test_subsets_are_nested_and_show_every_class(store, seed, count, data):
    larger = data.draw(st.integers(count, COUNT))
    labels = labels_of(store, "birds")
    choose = chooser(store, "birds", seed).choose
    for kind, small, large in [
        ("labels", count, larger),
        ("percent", count, larger),
        ("shots", count // 3, larger // 3),
    ]:
        one, other = (
            choose("one", SubsetRule(kind, small)),
            choose("other", SubsetRule(kind, large)),
        )
        assert set(one.keys) <= set(other.keys) <= set(labels)
        assert list(one.keys) == sorted(one.keys)
        if kind != "percent":
            assert {labels[key] for key in one.keys} == {0, 1, 2}
    assert len(choose("n", SubsetRule("labels", count)).keys) == count
    assert len(choose("p", SubsetRule("percent", count)).keys) == max(1, round(COUNT * count / 100))


def test_images_of_several_classes_count_for_each(store):
    labels = labels_of(store, "many")
    for seed in range(20):
        choose = chooser(store, "many", seed).choose
        chosen = choose("few", SubsetRule("labels", 4)).keys
        assert {one for key in chosen for one in labels[key]} == {0, 1, 2}
        shots = choose("shots", SubsetRule("shots", 5)).keys
        for number in range(3):
            assert sum(number in labels[key] for key in shots) >= 5
        assert set(choose("shots", SubsetRule("shots", 2)).keys) <= set(shots)


def test_a_share_does_not_depend_on_the_shards(store, tmp_path):
    other = open_store(str(tmp_path))
    write(other, "birds", list(reversed(labelled(COUNT))), shard_bytes=5_000)
    rule = SubsetRule("percent", 25)
    assert chooser(store, "birds").choose("x", rule).keys == (
        chooser(other, "birds").choose("x", rule).keys
    )


def test_a_dataset_without_labels_has_shares_alone(store):
    assert len(chooser(store, "bare").choose("tenth", SubsetRule("percent", 10)).keys) == 4
    for kind in ("labels", "shots"):
        with pytest.raises(RequestError, match="bare has no labels"):
            chooser(store, "bare").choose("x", SubsetRule(kind, 5))


@pytest.mark.parametrize("share", [0.0, -1.0, 100.1, float("nan"), float("inf")])
def test_impossible_shares_are_refused(store, share):
    with pytest.raises(RequestError, match=r"cannot choose \S+ percent"):
        chooser(store, "birds").choose("x", SubsetRule.from_number("percent", share))


def round_trip(store) -> None:
    write(store, "birds", labelled(COUNT))
    chosen = chooser(store, "birds", 3).choose("ten", SubsetRule("labels", 10))
    path = write_subset(store, "birds", chosen)
    assert write_subset(store, "birds", chosen) == path
    assert read_subset(store, "birds", "ten") == chosen
    assert subset.sha256(store.get(path)) == chosen.digest
    assert subset_names(store, "birds") == ["ten"]
    document = json.loads(store.get(path))
    assert document["dataset"] == read_manifest(store, "birds").digest
    assert document["keys"] == list(chosen.keys)


def test_written_is_read(tmp_path):
    round_trip(open_store(str(tmp_path)))


@pytest.mark.services
def test_written_is_read_from_s3(ceph, monkeypatch):
    for name, value in ceph.https.environment.items():
        monkeypatch.setenv(name, value)
    round_trip(open_store(f"s3://{ceph.https.make_bucket()}/hpt"))


def test_a_subset_of_another_version_of_the_dataset_is_refused(tmp_path):
    store = open_store(str(tmp_path))
    write(store, "birds", labelled(COUNT))
    chosen = chooser(store, "birds").choose("ten", SubsetRule("labels", 10))
    write_subset(store, "birds", chosen)
    write(store, "birds", labelled(COUNT - 1), replace=True)
    with pytest.raises(DataError, match="another version of birds") as error:
        read_subset(store, "birds", "ten")
    assert "ten --labels 10 --split train --seed 0" in error.value.problem.fix
    again = chooser(store, "birds").choose("ten", SubsetRule("labels", 10))
    write_subset(store, "birds", again)
    assert read_subset(store, "birds", "ten") == again


def test_a_name_keeps_its_meaning(tmp_path):
    store = open_store(str(tmp_path))
    write(store, "birds", labelled(COUNT))
    choose = chooser(store, "birds").choose
    write_subset(store, "birds", choose("ten", SubsetRule("labels", 10)))
    with pytest.raises(RequestError, match="another subset ten exists: 10 labels"):
        write_subset(store, "birds", choose("ten", SubsetRule("labels", 11)))
    for name in ("", "a/b", "../x", "manifest", "a b", ".x"):
        with pytest.raises(RequestError, match="cannot name a subset"):
            choose(name, SubsetRule("labels", 10))
        with pytest.raises(RequestError, match="has no subset"):
            read_subset(store, "birds", name)
    with pytest.raises(RequestError, match="did you mean ten") as error:
        read_subset(store, "birds", "tenn")
    assert error.value.problem.allowed == "ten"


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-1],
        lambda data: data.replace(b'"format":1', b'"format":2'),
        lambda data: data.replace(b":[", b": ["),
        lambda data: data.replace(b'"train-0', b'"train-9', 1),
    ],
)
def test_a_damaged_subset_is_named(tmp_path, harm):
    store = open_store(str(tmp_path))
    write(store, "birds", labelled(COUNT))
    path = write_subset(store, "birds", chooser(store, "birds").choose("x", SubsetRule("shots", 3)))
    store.put(path, harm(store.get(path)))
    with pytest.raises(DataError, match="damaged subset") as error:
        read_subset(store, "birds", "x")
    assert path in str(error.value)


def test_the_papers_sets(tmp_path):
    store = open_store(str(tmp_path))
    plain = write(store, "birds", labelled(COUNT))
    assert list(subset.paper_rules(plain)) == [
        "percent-1",
        "percent-10",
        "percent-25",
        "labels-1000",
    ]
    data = encoded(picture(0, (8, 8)), "PNG")
    domain = write(
        store,
        "domainnet/real",
        [sample(f"r-{i}", data, "train", i % 345) for i in range(400)],
        classes=[f"c{i}" for i in range(345)],
    )
    names = list(subset.paper_rules(domain))
    budgets = [345, 1000, 3795, 5470, 7883, 11362, 16376, 23603]
    assert names[3:] == [f"labels-{budget}" for budget in budgets]
    printed = hpt("data", "subset", f"{tmp_path}/datasets/domainnet/real", "--paper", store="")
    assert "labels-345: 345 labels of train, seed 0, 345 images" in printed
    assert "no labels-1000: cannot choose 1000 labelled images" in printed
    assert len(read_subset(store, "domainnet/real", "percent-10").keys) == 40


def test_the_command_and_its_mistakes(tmp_path):
    store = open_store(str(tmp_path / "store"))
    write(store, "birds", labelled(COUNT))
    uri, keys = f"{tmp_path}/store/datasets/birds", tmp_path / "five.txt"
    hpt("data", "subset", uri, "five", "--shots", "5", "--out", str(keys), store="")
    chosen = read_subset(store, "birds", "five")
    assert tuple(keys.read_text().split()) == chosen.keys
    assert len(chosen.keys) == 15
    reported = json.loads(hpt("data", "subset", uri, "five", "--shots", "5", "--json", store=""))
    assert reported == [{"name": "five", "images": 15, "digest": chosen.digest}]
    printed = hpt("data", "subset", uri, "many", "--shots", "14", store="")
    assert "2 of 3 classes of train have fewer than 14 images and give all; b has 13" in printed
    assert "have fewer" not in hpt("data", "subset", uri, "some", "--shots", "13", store="")
    for arguments, words in [
        (["x"], "a subset needs exactly one"),
        (["x", "--labels", "5", "--percent", "5"], "a subset needs exactly one"),
        (["x", "--paper"], "have their own names"),
        (["--labels", "5"], "the subset has no name"),
        (["x", "--labels", "41"], "3 (one of each class) to 40 (all)"),
        (["x", "--labels", "5", "--split", "tran"], "did you mean train?"),
    ]:
        with pytest.raises(RequestError) as error:
            app(["data", "subset", uri, *arguments], standalone_mode=False)
        assert words in str(error.value)
