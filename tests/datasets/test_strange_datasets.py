"""Somebody else's datasets: whatever is in their tars, indexes and manifests is reported by name.

No digest protects from them, so all digests here are right.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
import time

import pytest
from pictures import encoded, sample, write
from PIL import Image, ImageFont
from small import hpt

from hpt_dist.datasets import preview as previews
from hpt_dist.datasets.inventory import StoredDataset
from hpt_dist.datasets.leaks import find
from hpt_dist.datasets.manifest import canonical_json, read_manifest, sha256
from hpt_dist.datasets.preview import preview, truncated
from hpt_dist.datasets.subset import Chooser, SubsetRule
from hpt_dist.datasets.verify import verify
from hpt_dist.errors import DataError, HptError
from hpt_dist.store import Store, open_store

FOLDER = "datasets/birds"
TAR, INDEX = "train/birds-train-000000.tar", "train/birds-train-000000.index.json"
FACTS = {"width": 20, "height": 20, "objects": [{"class": 0, "box": [5, 5, 10, 10]}]}


@pytest.fixture
def store(tmp_path) -> Store:
    store = open_store(str(tmp_path))
    white = encoded(Image.new("RGB", (20, 20), "white"), "PNG")
    write(store, "birds", [sample(f"x{i}", white, "train", (0, 1), FACTS) for i in range(2)])
    return store


def changed(store: Store, tar=None, index=None, manifest=None) -> None:
    """Change the files of the dataset, and let the manifest have the new digests."""
    document = json.loads(store.get(f"{FOLDER}/manifest.json"))
    shard = document["splits"]["train"]["shards"][0]
    if tar is not None:
        store.put(f"{FOLDER}/{TAR}", tar)
        shard |= {"sha256": sha256(tar), "bytes": len(tar)}
    if index is not None:
        store.put(f"{FOLDER}/{INDEX}", index)
        shard["index_sha256"] = sha256(index)
    if manifest is not None:
        document = manifest(document)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    store.put(f"{FOLDER}/manifest.json", data)


def problems_of(store: Store) -> list[str]:
    """Return what each command says of the dataset. Only errors of ours are caught."""
    found = []

    def looked(work) -> None:
        began_s = time.process_time()
        try:
            found.extend(str(one) for one in work() or [])
        except HptError as error:
            found.append(str(error))
        assert time.process_time() - began_s < 5

    looked(lambda: verify(store, "birds"))
    looked(lambda: preview(store, read_manifest(store, "birds"), "train", 9).png() and [])
    looked(lambda: find([StoredDataset(store, read_manifest(store, "birds"))]).pairs and [])
    looked(
        lambda: (
            Chooser(store, read_manifest(store, "birds"), "train").choose(
                "one", SubsetRule("percent", 50)
            )
            and []
        )
    )
    return found


# Annotations


def with_annotation(store: Store, content: bytes) -> None:
    """Replace the first annotation; the images stay where they are."""
    members = dict(_members(store))
    first = next(name for name in members if name.endswith(".json"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as new:
        # The changed annotation moves to the end, behind all images, with its own image before it.
        key = first.partition(".")[0]
        for name in sorted(members, key=lambda name: (name.startswith(f"{key}."), members)):
            add(new, name, content if name == first else members[name])
    data = archive.getvalue()
    index = json.loads(store.get(f"{FOLDER}/{INDEX}"))
    order = sorted(range(2), key=lambda row: index["keys"][row] == key)
    columns = {name: [column[row] for row in order] for name, column in index.items()}
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        places = {one.name.partition(".")[0]: one for one in read if one.name.endswith(".png")}
    columns["offsets"] = [places[one].offset_data for one in columns["keys"]]
    changed(store, tar=data, index=canonical_json(columns))


def _members(store: Store):
    with tarfile.open(fileobj=io.BytesIO(store.get(f"{FOLDER}/{TAR}"))) as archive:
        for one in archive:
            yield one.name, archive.extractfile(one).read()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def facts(**changes) -> bytes:
    return json.dumps({"labels": [0, 1]} | FACTS | changes).encode()


def thing(**changes) -> bytes:
    return facts(objects=[FACTS["objects"][0] | changes])


NOT_DRAWN = {
    "objects is a number": facts(objects=5),
    "objects is a text": facts(objects="abc"),
    "objects hold no dicts": facts(objects=[1, "a", None, []]),
    "no box": facts(objects=[{"class": 0}]),
    "three numbers": thing(box=[1, 2, 3]),
    "five numbers": thing(box=[1, 2, 3, 4, 5]),
    "texts": thing(box=["1", "2", "3", "4"]),
    "null": thing(box=[None] * 4),
    "truths": thing(box=[True] * 4),
    "negative": thing(box=[5, 5, -4, -4]),
    "no area": thing(box=[5, 5, 0, 4]),
    "NaN": thing(box=[math.nan] * 4),
    "infinite": thing(box=[1, 1, math.inf, 2]),
    "beyond floats": thing(box=[1, 1, 10**400, 2]),
    "class is a text": thing(**{"class": "cat"}),
    "class beyond the classes": thing(**{"class": 10**400}),
    "class below zero": thing(**{"class": -1}),
    "class is a list": thing(**{"class": [0]}),
    "width is a text": facts(width="20"),
    "width is 0": facts(width=0),
    "height is below zero": facts(height=-20),
    "height is NaN": facts(height=math.nan),
    "no frame": json.dumps({"labels": [0, 1], "objects": FACTS["objects"]}).encode(),
}


def colours(store: Store) -> list[int]:
    shown = preview(store, read_manifest(store, "birds"), "train", 9).thumbnails
    return [len(one.picture.getcolors()) for one in shown]


def test_the_boxes_are_drawn_of_annotations_that_make_sense(store):
    assert colours(store) == [2, 2]
    with_annotation(store, facts())
    assert colours(store) == [2, 2]
    assert problems_of(store) == []


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_a_box_that_makes_no_sense_is_not_drawn(store, name):
    with_annotation(store, NOT_DRAWN[name])
    assert sorted(colours(store)) == [1, 2]
    assert problems_of(store) == []


def test_a_huge_box_is_drawn_where_it_crosses_the_picture(store):
    with_annotation(store, thing(box=[5, 5, 1e9, 1e9]))
    assert colours(store) == [2, 2]


STRANGE_LABELS = {
    "infinite": b'{"labels": [1e999]}',
    "a text": b'{"labels": "01"}',
    "floats": b'{"labels": [0.0, 1.0]}',
    "deep": b'{"labels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a list": b"[0, 1]",
    "no JSON": b"\xff\xfe",
    "a number of 5,000 digits": b'{"labels": [' + b"9" * 5000 + b"]}",
    "empty": b"",
}


@pytest.mark.parametrize("name", STRANGE_LABELS)
def test_a_strange_label_is_named_with_its_sample(store, name):
    with_annotation(store, STRANGE_LABELS[name])
    text = "\n".join(problems_of(store))
    assert "json says label" in text
    assert "the index (0, 1)" in text
    assert TAR in text
    assert len(text) < 500


# Tars


def archive_of(*members: tarfile.TarInfo, kind=tarfile.PAX_FORMAT, **options) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind, **options) as archive:
        for one in members:
            content = io.BytesIO(b"x" * one.size) if one.isreg() else None
            archive.addfile(one, content)
    return data.getvalue()


def member(name: str, size: int = 0, **changes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in changes.items():
        setattr(info, field, value)
    return info


def raw(name: bytes, size: bytes, kind: bytes = b"0", data: bytes = b"") -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[124 : 124 + len(size)] = size
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


def base_256(value: int) -> bytes:
    return (0x80 if value >= 0 else 0xFF).to_bytes(1, "big") + (value % 2**88).to_bytes(11, "big")


END = bytes(1024)
STRANGE_TARS = {
    "a link": archive_of(member("x0.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": archive_of(member("x0.png", type=tarfile.LNKTYPE, linkname="x0.png")),
    "a link to itself": archive_of(member("x0.cls", type=tarfile.SYMTYPE, linkname="x0.cls")),
    "a device": archive_of(member("x0.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "a pipe": archive_of(member("x0.json", type=tarfile.FIFOTYPE)),
    "a folder": archive_of(member("x0.png", type=tarfile.DIRTYPE)),
    "a kind that there is not": raw(b"x0.png", b"00000000010", b"Z", bytes(8)) + END,
    "an absolute name": archive_of(member("/etc/passwd", 4), member("../../x0.png", 4)),
    "a name of 10,000 letters": archive_of(member("n" * 10_000 + ".png", 4)),
    "a name that is no UTF-8": raw(b"\xff\xfe\x1b[31m.png", b"00000000000") + END,
    "an empty name": raw(b"", b"00000000000") + END,
    "PAX: a sparse map of letters": archive_of(
        member("x0.png", 4, pax_headers={"GNU.sparse.map": "a,b"})
    ),
    "PAX: a sparse map of 1 TB": archive_of(
        member("x0.png", 4, pax_headers={"GNU.sparse.map": f"0,{2**40}", "GNU.sparse.size": "9"})
    ),
    "PAX: sparse, 1.0": archive_of(
        member(
            "x0.png",
            4,
            pax_headers={
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.realsize": "1000000000000",
            },
        )
    ),
    "PAX: a size of letters": archive_of(member("x0.png", 4, pax_headers={"size": "abc"})),
    "PAX: a size below zero": archive_of(member("x0.png", 4, pax_headers={"size": "-512"})),
    "PAX: no UTF-8": archive_of(member("x0.png", 4, pax_headers={"path": "\udcff"})),
    "PAX: broken": raw(b"PaxHeader", b"00000000020", b"x", b"999 path=x0.png\n") + END,
    "PAX: 20,000 headers": archive_of(
        member("x0.png", 4, pax_headers={f"k{i}": "v" for i in range(20_000)})
    ),
    "a size beyond the file": raw(b"x0.png", b"77777777777") + END,
    "a size of letters": raw(b"x0.png", b"abcdefghijk") + END,
    "a size below zero": raw(b"x0.png", base_256(-512)) + END,
    "a size of many bytes": raw(b"x0.png", base_256(2**80)) + END,
    "a long name without an end": raw(b"././@LongLink", b"77777777777", b"L") + END,
    "a long name in a long name": raw(b"././@LongLink", b"00000000010", b"L", b"x") * 2000 + END,
    "twice the same": archive_of(member("x0.cls", 1), member("x0.cls", 1)),
    "many that nobody knows": archive_of(*(member(f"n{i}.png") for i in range(5000))),
    "empty": b"",
    "no tar": b"x" * 5000,
    "zeros": bytes(5000),
}
# Where members were before it, this is the end of a tar.
ENDS = ("empty", "zeros", "no tar", "a size of letters")


@pytest.mark.parametrize("name", STRANGE_TARS)
@pytest.mark.parametrize("place", ["alone", "after"])
def test_a_strange_tar_is_reported_and_never_followed(store, name, place):
    tars = {"alone": STRANGE_TARS[name]}
    tars["after"] = store.get(f"{FOLDER}/{TAR}")[: -len(END)] + tars["alone"]
    changed(store, tar=tars[place])
    found = problems_of(store)
    if place == "alone" or name not in ENDS:
        assert TAR in "\n".join(found)
    assert all(line.isprintable() and len(line) < 1000 for one in found for line in one.split("\n"))
    assert len(found) < 110


# Indexes and manifests

DEEP = b"[" * 100_000 + b"]" * 100_000


def index_of(**changes) -> bytes:
    index = {
        "keys": ["x0", "x1"],
        "extensions": ["png", "png"],
        "offsets": [512, 2048],
        "lengths": [80, 80],
        "crc32s": [1, 2],
        "labels": [[0, 1], [0, 1]],
    }
    return json.dumps(index | changes).encode()


STRANGE_INDEXES = {
    "deep": DEEP,
    "a list": b"[]",
    "empty": b"",
    "null": b"null",
    "a column missing": b'{"keys": []}',
    "a column too short": index_of(keys=["x0"]),
    "an offset below zero": index_of(offsets=[-5, 2048]),
    "an offset beyond the tar": index_of(offsets=[512, 10**9]),
    "an offset beyond all numbers": index_of(offsets=[512, 10**30]),
    "offsets that go back": index_of(offsets=[2048, 512]),
    "a length below zero": index_of(lengths=[-1, 80]),
    "a length beyond the tar": index_of(lengths=[80, 10**12]),
    "a checksum of 33 bits": index_of(crc32s=[1, 2**33]),
    "a key of another folder": index_of(keys=["../x", "x1"]),
    "a key that colours": index_of(keys=["\x1b[31m", "x1"]),
    "an extension that starts a program": index_of(extensions=["eps", "png"]),
    "a label beyond the classes": index_of(labels=[[0, 37], [0]]),
    "a label below zero": index_of(labels=[[-2], [0]]),
    "a label of many digits": index_of(labels=[[10**400], [0]]),
    "three images": index_of(**{k: v + v[:1] for k, v in json.loads(index_of()).items()}),
}


@pytest.mark.parametrize("name", STRANGE_INDEXES)
def test_a_strange_index_is_named(store, name):
    changed(store, index=STRANGE_INDEXES[name])
    found = problems_of(store)
    assert len(found) >= 4
    assert sum(INDEX in one for one in found) >= 3
    assert all(len(one) < 1000 for one in found)


def field(*path):
    """Return a change of a manifest that sets the last part of a path."""
    *parts, last, value = path

    def change(document):
        place = document
        for part in parts:
            place = place[part]
        place[last] = value
        return document

    return change


SHARD = ("splits", "train", "shards", 0)
STRANGE_MANIFESTS = {
    "deep": lambda _: DEEP,
    "empty": lambda _: b"",
    "no UTF-8": lambda _: b'{"format": 2, "name": "\xff"}',
    "a list": lambda _: b"[]",
    "format": field("format", 10**50),
    "a class missing": lambda one: one | {"classes": one["classes"][:-1]},
    "a class missing, and its count": lambda one: field("splits", "train", "class_counts", [2])(
        one | {"classes": one["classes"][:1]}
    ),
    "classes are numbers": field("classes", [1, 2, 3]),
    "a name of another folder": field("name", "../other"),
    "mean": field("mean", [0.5, 0.5, 1e999]),
    "std": field("std", [0.5, 0.5, -1]),
    "label": field("label", "many"),
    "no splits": field("splits", []),
    "no shards": field("splits", "train", "shards", None),
    "counts": field("splits", "train", "class_counts", [-2, 2, 0]),
    "images": field("splits", "train", "images", -1),
    "more images than in its shards": field("splits", "train", "images", 10**12),
    "a path upwards": field(*SHARD, "path", "../../../etc/passwd"),
    "an absolute path": field(*SHARD, "path", "/etc/passwd"),
    "an index upwards": field(*SHARD, "index", "train/../../x"),
    "a hidden path": field(*SHARD, "index", ".tmp/x"),
    "bytes": field(*SHARD, "bytes", -1),
    "bytes beyond all numbers": field(*SHARD, "bytes", 10**30),
    "sha256": field(*SHARD, "sha256", "abc"),
    "a shard twice": lambda one: field("splits", "train", "images", 4)(
        field("splits", "train", "shards", one["splits"]["train"]["shards"] * 2)(one)
    ),
    "a folder upwards": lambda one: one | {"folder": "../version-0123456789ab"},
    "a folder of another kind": lambda one: one | {"folder": "train"},
    "more": lambda one: one | {"more": 1},
}


@pytest.mark.parametrize("name", STRANGE_MANIFESTS)
def test_a_strange_manifest_is_named(store, tmp_path, name):
    changed(store, manifest=STRANGE_MANIFESTS[name])
    found = problems_of(store)
    assert len(found) >= 4
    part = INDEX if name == "a class missing, and its count" else "manifest.json"
    assert sum(part in one for one in found) >= 4
    assert all(len(one) < 1000 for one in found)
    if part != INDEX:
        assert "manifest.json" in hpt("data", "show", f"{tmp_path}/{FOLDER}", store="", code=1)


# Captions


def test_a_caption_takes_little_time_at_any_length():
    font = ImageFont.load_default(12)

    def cpu_s(text: str) -> float:
        began_s = time.process_time()
        for _ in range(20):
            truncated(text, font, previews.THUMBNAIL_PX)
        return time.process_time() - began_s

    assert cpu_s("n" * 100_000) < 4 * cpu_s("n" * 1000)
    for text in ("n" * 3000, "wide " * 30, "\u0301" * 5000, "猫" * 500):
        cut = truncated(text, font, previews.THUMBNAIL_PX)
        assert cut.endswith("…")
        assert font.getlength(cut) <= previews.THUMBNAIL_PX


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\u202eback", "a\0b", "\udc80"])
def test_a_caption_that_cannot_be_printed_is_drawn(name):
    assert truncated(name, ImageFont.load_default(12), 500).isprintable()


def test_the_longest_caption_that_fits_is_chosen():
    font = ImageFont.load_default(12)
    name = "a very long name of a class of birds"
    fitting = [f"{name[:end].rstrip()}…" for end in range(1, len(name))]
    for width in range(10, 200, 7):
        fits = [one for one in fitting if font.getlength(one) <= width]
        whole = name if font.getlength(name) <= width else ""
        assert truncated(name, font, width) == (whole or (fits[-1] if fits else ""))


def test_a_damaged_manifest_is_a_data_error(store):
    changed(store, manifest=lambda _: b"{")
    with pytest.raises(DataError, match="damaged manifest"):
        read_manifest(store, "birds")
