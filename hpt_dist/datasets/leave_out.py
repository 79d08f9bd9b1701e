"""Lists of images that a sharding leaves out, as `hpt-dist data leaks --write-list` writes them.

An image is named by its key, which follows from its path in the source: the same source gives the
same keys, whatever else is in it and whatever the dataset is called.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hpt_dist.datasets.manifest import Quarantined
from hpt_dist.errors import RequestError
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import Sample, Source

COLUMNS = ("dataset", "split", "key", "file")
# The same for every list: a dataset's digest depends on which images are in it.
REASON = "listed by --leave-out"
_WHERE = "--leave-out"


def text_of(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return a list as CSV, of (dataset, split, key, file)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def read(file: Path, dataset: str, uri: str, source: Source) -> dict[str, Sample]:
    """Return the samples that a list leaves out, by key.

    Args:
        file: CSV with a header; it has the column key, and the column dataset where it names
            images of several datasets.
        dataset: the name of the dataset that is written. Only its rows count, if it has any; of a
            list of one other dataset all count.
        uri: of the same; rows name a dataset by it where two have the same name.
        source: of the images; every listed key is in it.

    Raises:
        RequestError: with every mistake in the list.
    """
    lines = _lines_of(file, dataset, uri)
    samples = list(source.samples())
    known = {sample.key: sample for sample in samples}
    problems = Problems()
    for key, line in lines.items():
        if key not in known:
            problems.add(f"{file}:{line}", f"{source.name} holds no image of the key {key!r}")
    problems.refuse(
        str(file), fix="give the list that was made of this source, or take these lines out of it"
    )
    _refuse_emptied(file, samples, lines)
    return {key: known[key] for key in lines}


def quarantined(samples: Iterable[Sample]) -> list[Quarantined]:
    """Return how a manifest names the images that a list left out."""
    return [Quarantined(sample.origin, REASON) for sample in samples]


def _lines_of(file: Path, dataset: str, uri: str) -> dict[str, int]:
    """Return the line of each key that counts."""
    rows = _rows(file)
    if not rows:  # no leak was found
        return {}
    named = dict.fromkeys(row.get("dataset") or "" for _, row in rows)
    counts = next((one for one in (uri, dataset) if one in named), next(iter(named)))
    if counts not in (uri, dataset) and len(named) > 1:
        raise RequestError(
            f"{file} lists images of several datasets, and none of them is {dataset}",
            where=_WHERE,
            allowed=", ".join(filter(None, named)),
            fix="keep the lines of the one that these images were sharded as",
        )
    return {row["key"]: line for line, row in rows if (row.get("dataset") or "") == counts}


def _rows(file: Path) -> Sequence[tuple[int, Mapping[str, str]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8"
        raise RequestError(f"{file} cannot be read: {why}", where=_WHERE) from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise RequestError(
            f"this is no CSV: {error}", where=f"{file}:{reader.reader.line_num}"
        ) from error
    columns = reader.fieldnames or []
    if "key" not in columns:
        raise RequestError(
            f"{file} has no column key",
            where=f"{file}:1",
            allowed=f"a header such as {','.join(COLUMNS)}",
            fix="hpt-dist data leaks URI --write-list FILE writes such a list",
        )
    problems = Problems()
    for line, row in rows:
        if not row["key"] or None in row:
            problems.add(f"{file}:{line}", "a line without a key, or with more cells than columns")
    problems.refuse(str(file))
    return rows


def _refuse_emptied(file: Path, samples: Iterable[Sample], listed: Mapping[str, int]) -> None:
    """Refuse a list that leaves no image in a split."""
    before = Counter(sample.split for sample in samples)
    gone = Counter(sample.split for sample in samples if sample.key in listed)
    if emptied := [split for split, count in before.items() if gone[split] == count]:
        raise RequestError(
            f"{file} lists every image of {', '.join(emptied)}",
            where=_WHERE,
            fix="take the split out of the source, or lines out of the list",
        )
