"""Batches with boxes: the same at any step, on any ranks, by any threads; each image once."""

import json
import zlib

import numpy as np
import pytest
import torch
from composed import NAME
from pictures import encoded, picture, sample

from hpt_dist.datasets.manifest import canonical_json, sha256
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.datasets.verify import verify
from hpt_dist.errors import DataError, RequestError
from hpt_dist.images import run_lengths
from hpt_dist.images.box_views import VIEW_DRAWS, BoxAugment, drawn
from hpt_dist.reading.box_stream import BoxStream, batch_of, whole_images, with_objects
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import uniforms
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import open_split
from hpt_dist.sources.detection import with_boxes
from hpt_dist.sources.sample import FileSource
from hpt_dist.store import open_store

AUGMENT = BoxAugment(sizes=(96, 128), max_size=200, crop=0.5, jitter=0.5)


def pool_of(folder, split="train", name=NAME):
    return Pool([open_split(open_store(str(folder)), name, split)])


def stream(folder, name=NAME, **options):
    given = {"batch": 4, "seed": 3, "augment": AUGMENT, "workers": 0} | options
    return BoxStream(pool_of(folder, name=name), **given)


def taken(opened, count):
    with opened:
        return [next(opened) for _ in range(count)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (image, target), (other, wanted) in zip(found, expected, strict=True):
        assert torch.equal(image, other)
        assert target.keys() == wanted.keys()
        for name, value in target.items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(value, wanted[name]), name


def test_a_stream_goes_on_anywhere_with_the_same_bits(composed):
    whole = taken(stream(composed, masks=True), 6)
    later = stream(composed, masks=True, workers=2)
    later.load_state_dict({"step": 3})
    for found, expected in zip(taken(later, 3), whole[3:], strict=True):
        assert found.step == expected.step
        assert_same(found.samples, expected.samples)


def test_two_ranks_share_the_batches_of_one(composed):
    whole = taken(stream(composed, together=2), 3)
    shares = [taken(stream(composed, together=2, rank=rank, world=2), 3) for rank in (0, 1)]
    for step, expected in enumerate(whole):
        assert_same([one for share in shares for one in share[step].samples], expected.samples)
        assert [target["index"] for _, target in expected.samples] == list(range(4))


def test_an_epoch_holds_every_image_once_and_batches_lie_one_way(composed):
    opened = stream(composed, augment=BoxAugment(sizes=(16,), max_size=64))
    steps = opened.steps_of(1)
    assert steps == 7  # 11 wide and 21 high or square ones, in fours
    batches = taken(opened, steps)
    pool = pool_of(composed)
    keys = [target["key"] for one in batches for _, target in one.samples]
    assert len(set(keys)) == len(keys) == 28
    assert set(keys) < set(pool.keys)
    wide = {key: w > h for key, (w, h) in zip(pool.keys, pool.image_sizes.tolist(), strict=True)}
    for step, one in enumerate(batches):
        assert len({wide[target["key"]] for _, target in one.samples}) == 1
        np.testing.assert_array_equal(batch_of(pool, step, batch=4, seed=3)[0], one.indices)


def test_targets_follow_from_seed_epoch_and_sample(composed):
    [batch] = taken(stream(composed, masks=True), 1)
    pool = pool_of(composed)
    draws = uniforms(3, batch.epochs, batch.indices, 0, VIEW_DRAWS, purpose="boxes")
    for row, (image, target) in enumerate(batch.samples):
        truth = pool.boxes(int(batch.indices[row]))
        view = drawn(AUGMENT, draws[row], truth.size)
        assert image.shape == (3, *view.size)
        assert image.dtype == torch.uint8
        if view.crop is None:
            assert target["labels"].tolist() == truth.labels.tolist()
        for box, mask in zip(target["boxes"].numpy(), target["masks"].numpy(), strict=True):
            if view.crop is None:  # a cut mask may end before the cut box
                np.testing.assert_allclose(box, run_lengths.corners_of(mask), atol=0.501)


def test_scores_see_every_image_once_over_all_ranks(composed):
    pool = pool_of(composed, "val")
    found = [
        one
        for rank in (0, 1)
        for one in whole_images(pool, size=64, max_size=70, rank=rank, world=2)
    ]
    assert sorted(one.key for one in found) == sorted(pool.keys)
    for one in found:
        assert max(one.image.shape[1:]) <= 70
        assert one.truth == pool.boxes(pool.keys.index(one.key))


# What is no plain object, and what is damaged


def thing(class_id, box, **more):
    return {"class": class_id, "box": box, "crowd": False} | more


@pytest.fixture
def flagged(tmp_path):
    """A dataset of one plain image, one without an object, and one with every flag."""
    objects = {
        "plain": [thing(0, [2, 3, 10, 12])],
        "empty": [],
        "flags": [
            thing(1, [1, 1, 8, 8], difficult=True),
            thing(0, [20, 1, 8, 8], crowd=True),
            thing(0, [5, 5, 8, 8]),
        ],
        "crowd": [thing(1, [1, 1, 8, 8], crowd=True)],
    }
    samples = [
        sample(
            key,
            encoded(picture(number, (40, 30)), "PNG"),
            "train",
            (),
            {"width": 40, "height": 30, "objects": those},
        )
        for number, (key, those) in enumerate(objects.items())
    ]
    source = with_boxes(FileSource("flagged", "made", ["a", "b"], samples, multi_label=True))
    write_dataset(source, open_store(str(tmp_path)), "flagged")
    return tmp_path


PLAIN = BoxAugment(sizes=(30,), max_size=40, flip=0)


def targets(folder, steps, **options):
    batches = taken(stream(folder, "flagged", batch=1, augment=PLAIN, **options), steps)
    return {target["key"]: target for one in batches for _, target in one.samples}


def test_crowds_are_left_out_and_the_rest_is_said(flagged):
    pool = pool_of(flagged, name="flagged")
    assert sorted(with_objects(pool).keys) == ["flags", "plain"]
    found = targets(flagged, 2)
    assert found["plain"]["boxes"].tolist() == [[2, 3, 12, 15]]
    assert found["flags"]["labels"].tolist() == [1, 0]
    assert targets(flagged, 2, difficult=False)["flags"]["boxes"].tolist() == [[5, 5, 13, 13]]
    found = targets(flagged, 4, empty=True)
    assert found.keys() == {"plain", "empty", "flags", "crowd"}
    assert found["empty"]["boxes"].shape == found["crowd"]["boxes"].shape == (0, 4)


def test_masks_that_are_not_there_and_batches_that_do_not_fit_are_refused(flagged):
    with pytest.raises(RequestError, match="has no masks"):
        targets(flagged, 1, masks=True)
    with pytest.raises(RequestError, match="cannot be shared out evenly over 3 ranks"):
        stream(flagged, "flagged", batch=4, world=3)


def test_damaged_boxes_are_named_refused_or_replaced(flagged):
    path = flagged / "datasets/flagged/train/flagged-train-000000.tar"
    content = path.read_bytes()
    assert content.count(b'"box":[2.0,3.0') == 1
    path.write_bytes(content.replace(b'"box":[2.0,3.0', b'"box":[2.0,4.0'))
    with pytest.raises(DataError) as error:
        targets(flagged, 2)
    assert "plain of dataset flagged" in error.value.problem.what
    assert "the bytes of its boxes are not those" in error.value.problem.what
    replaced = Replacements(max_bad=1)
    assert targets(flagged, 2, replacements=replaced).keys() == {"flags"}
    assert replaced.until(2) == ["flagged/train/plain"]


def test_boxes_that_no_sharding_wrote_are_named(flagged):
    """With digests that fit: a dataset may come from anywhere."""
    folder = flagged / "datasets/flagged"
    tar, index = (folder / f"train/flagged-train-000000.{end}" for end in ("tar", "index.json"))
    content = tar.read_bytes()
    content = content.replace(b'"class":0', b'"class":7').replace(b'"labels":[0]', b'"labels":[7]')
    tar.write_bytes(content)
    columns = json.loads(index.read_bytes())
    pool = pool_of(flagged, name="flagged")
    for row, (_, _, length, _) in enumerate(columns["boxes"]):
        start = pool.splits[0]._places[0].box_offsets[row]
        member = tar.read_bytes()[start : start + length]
        columns["boxes"][row][3] = zlib.crc32(member)
    index.write_bytes(canonical_json(columns))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    [shard] = manifest["splits"]["train"]["shards"]
    shard |= {"sha256": sha256(tar.read_bytes()), "index_sha256": sha256(index.read_bytes())}
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    pool = pool_of(flagged, name="flagged")
    for key, words in (("plain", "a class 7 is unknown"), ("flags", r"labels are \[0, 1\]")):
        with pytest.raises(DataError, match=words):
            pool.boxes(pool.keys.index(key))
    found = "\n".join(map(str, verify(open_store(str(flagged)), "flagged")))
    assert "the boxes of plain (file plain): objects[0] is of a class 7, of 2" in found
    assert "the boxes of flags (file flags): labels are [0, 1], and those of its objects" in found
