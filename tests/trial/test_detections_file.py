"""Files of detections: read as written, the same bytes for the same answers, damaged ones named."""

import io

import pyarrow.parquet as pq
import pytest

from hpt_dist.errors import DataError
from hpt_dist.trial import detections_file
from hpt_dist.trial.detections_file import Row

ROWS = [
    Row("b", [[0.0, 1.0, 2.5, 4.0], [1.0, 1.0, 3.0, 3.0]], [0.75, 0.5], [1, 0]),
    Row("a", [], [], []),
]
FACTS = ("aerial", "digest", "test", ("car", "ship"))


def test_what_is_written_is_read_in_the_same_order_from_the_same_bytes():
    data = detections_file.encoded(ROWS, *FACTS)
    assert data == detections_file.encoded(ROWS, *FACTS)
    assert detections_file.read(data, "here") == ROWS
    table = pq.read_table(io.BytesIO(data)).to_pydict()
    assert table["class"] == [["ship", "car"], []]
    with_masks = [row._replace(masks=["02"] * len(row.labels)) for row in ROWS]
    assert detections_file.read(detections_file.encoded(with_masks, *FACTS), "") == with_masks


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: b"", lambda d: b"x" * len(d)])
def test_a_damaged_file_is_named(damage):
    data = damage(detections_file.encoded(ROWS, *FACTS))
    with pytest.raises(DataError, match="no file of detections") as error:
        detections_file.read(data, "detections.test.parquet")
    assert error.value.problem.where == "detections.test.parquet"


def test_its_name_has_the_split():
    assert detections_file.file_of("val") == "detections.val.parquet"
