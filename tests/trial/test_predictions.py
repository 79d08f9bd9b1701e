"""Predictions as a Parquet file: read as they were written, always the same bytes, small."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet as pq

from hpt_dist.errors import DataError
from hpt_dist.evals import metrics
from hpt_dist.trial import predictions_file
from hpt_dist.trial.predictions import Predictions, file_of, split_of

NASTY = "<b>é\n\x1b[31m"


def made(n=50, classes=8, *, several=False, seed=0, **changed):
    """Return random answers; scores are rounded, so that some are equal."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(-1, 3, (n, classes)).round(1)
    has = generator.random((n, classes)) < 0.3
    keys = tuple(hashlib.sha256(f"{seed} {at}".encode()).hexdigest()[:16] for at in range(n))
    one = Predictions(
        dataset="birds/small",
        digest="0" * 64,
        split="test",
        classes=tuple(f"class {c}" for c in range(classes)),
        keys=keys,
        files={key: f"images/{key}.jpg" for key in keys[1:]},
        labels=has if several else generator.integers(0, classes, n),
        scores=scores,
        average_precisions=(0.5, None, *[1.0] * (classes - 2)) if several else (),
    )
    return dataclasses.replace(one, **changed)


def probability(score):
    return 1 / (1 + np.exp(-score))


@given(st.integers(1, 40), st.integers(2, 12), st.booleans(), st.integers(0, 999))
def test_what_is_read_is_what_was_answered(n, classes, several, seed):
    one = made(n, classes, several=several, seed=seed)
    facts, answers = predictions_file.read(predictions_file.encoded(one), "x")
    assert (facts.dataset, facts.digest, facts.split) == ("birds/small", "0" * 64, "test")
    assert facts.classes == one.classes
    assert facts.average_precisions == one.average_precisions
    assert [answer.key for answer in answers] == list(one.keys)
    assert [answer.file for answer in answers] == ["", *(f"images/{k}.jpg" for k in one.keys[1:])]
    for answer, scores, label in zip(answers, one.scores, one.labels, strict=True):
        answered = scores.argmax()
        ranked = sorted(range(classes), key=lambda c: (c != answered, -scores[c], -c))
        above = sum(scores > 0) if several else 0
        assert list(answer.top) == ranked[: max(min(5, classes), above)]
        assert answer.top_scores == pytest.approx([probability(scores[c]) for c in answer.top])
        its = np.flatnonzero(label).tolist() if several else [label]
        assert list(answer.labels) == its
        assert answer.label_scores == pytest.approx([probability(scores[c]) for c in its])


def test_the_likeliest_classes_are_those_of_the_accuracies():
    """Scores are equal for many classes, as those that no neighbour voted for."""
    one = made(2000, 8)
    one = dataclasses.replace(one, scores=np.maximum(one.scores, 0))
    one.scores[np.arange(2000), one.scores[:, ::-1].argmax(axis=1)] = 9  # not all are equal
    _, answers = predictions_file.read(predictions_file.encoded(one), "x")
    table = pq.read_table(pa.BufferReader(predictions_file.encoded(one)))
    assert np.mean(table["correct"].to_pylist()) == metrics.compute("top1", one.scores, one.labels)
    among = [answer.labels[0] in answer.top for answer in answers]
    assert np.mean(among) == metrics.compute("top5", one.scores, one.labels)


def test_of_several_labels_nothing_is_simply_correct_and_images_may_have_none():
    one = made(several=True)
    one.labels[3] = False
    table = pq.read_table(pa.BufferReader(predictions_file.encoded(one)))
    assert set(table["correct"].to_pylist()) == {None}
    assert table["class"][3].as_py() == table["label_score"][3].as_py() == []


def test_columns_say_what_they_are():
    schema = pq.read_schema(pa.BufferReader(predictions_file.encoded(made())))
    metadata = {field.name: field.metadata or {} for field in schema}
    assert all(one[b"description"] for one in metadata.values())
    assert metadata["top_score"][b"unit"] == metadata["label_score"][b"unit"]
    assert b"probability" in metadata["top_score"][b"unit"]


def test_equal_answers_are_equal_bytes_in_another_process():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from hashlib import sha256\n"
        "from test_predictions import made, predictions_file\n"
        "for several in (False, True):\n"
        "    data = predictions_file.encoded(made(5000, 40, several=several))\n"
        "    print(sha256(data).hexdigest())"
    )
    run = [sys.executable, "-c", code, *sys.path, __file__.rpartition("/")[0]]
    found = subprocess.run(run, capture_output=True, text=True, check=True)
    here = [predictions_file.encoded(made(5000, 40, several=several)) for several in (False, True)]
    digests = [hashlib.sha256(data).hexdigest() for data in here]
    assert found.stdout.split() == digests
    assert b"hpt_dist" in here[0]
    assert str(__file__).encode() not in here[0]


def test_ten_thousand_images_of_a_thousand_classes_take_less_than_a_megabyte():
    assert len(predictions_file.encoded(made(10_000, 1000))) < 1e6


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-9],
        lambda data: data[:40] + b"\x00" * 40 + data[80:],
        lambda data: data.replace(b'"format": 1', b'"format": 7'),
        lambda data: data.replace(b'"class 7"', b'"class 7'),
        lambda data: other_table(),
    ],
    ids=["empty", "cut", "changed", "later format", "no JSON", "another table"],
)
def test_what_is_no_such_file_is_refused(damage):
    data = predictions_file.encoded(made())
    with pytest.raises(DataError, match=r"^stage/x: (this is no file|predictions of format 7)"):
        predictions_file.read(damage(data), "stage/x")


def other_table():
    """Return a Parquet file of other columns with our metadata."""
    schema = pq.read_schema(pa.BufferReader(predictions_file.encoded(made())))
    table = pa.table({"key": ["a"]}).replace_schema_metadata(schema.metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_classes_beyond_those_of_the_dataset_are_refused():
    data = predictions_file.encoded(made(labels=np.full(50, 7)))
    fewer = data.replace(b', "class 7"]', b"]           ")
    assert len(fewer) == len(data)
    with pytest.raises(DataError, match="has a class that is none"):
        predictions_file.read(fewer, "x")


def test_names_from_data_come_back_as_they_are():
    one = made(classes=2, files={}, keys=tuple("abc"), n=3)
    one = dataclasses.replace(one, classes=("a", NASTY), files={"a": NASTY})
    facts, answers = predictions_file.read(predictions_file.encoded(one), "x")
    assert facts.classes == ("a", NASTY)
    assert [answer.file for answer in answers] == [NASTY, "", ""]


def test_names_of_files_tell_splits():
    assert split_of(file_of("val")) == "val"
    assert split_of("result.json") == split_of("predictions.parquet") == ""
