from __future__ import annotations

import io
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from birds import COUNT, SETTINGS, SIZE, encoded, same, take, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop, v2

from hpt_dist.errors import DataError, HptError, RequestError
from hpt_dist.images.crops import CROP_DRAWS, random_box
from hpt_dist.images.photometric import Photometric
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.order import uniforms
from hpt_dist.reading.stream import (
    Pool,
    ReadableSplit,
    Stream,
    View,
    batch_keys,
    center_batches,
    crop_batches,
    network_views,
    open_split,
)
from hpt_dist.recipe import Augment
from hpt_dist.store import Store, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    images = [encoded(number, "JPEG" if number % 2 else "PNG") for number in range(COUNT)]
    write(store, "birds", images, shard_bytes=20_000)
    return store


@pytest.fixture(scope="module")
def pool(store) -> Pool:
    return Pool([open_split(store, "birds", "train")])


def test_written_is_read(store, pool):
    assert len(pool) == COUNT
    assert len(pool.splits[0].shards) > 2
    assert pool.classes == ("a", "b", "c")
    for i, key in enumerate(pool.keys):
        number = int(key.removeprefix("bird-"))
        assert pool.read(i) == encoded(number, "JPEG" if number % 2 else "PNG")
        assert pool.labels[i] == pool.label(i) == number % 3
        assert pool.splits[0].key(i) == key
    assert sorted(pool.keys) == sorted(f"bird-{number}" for number in range(COUNT))


def test_batches_are_channels_last_bytes_and_views_differ(pool):
    with Stream(pool, **SETTINGS) as stream:
        batch = next(stream)
    first, second = batch.images
    for images in batch.images:
        assert images.dtype == torch.uint8
        assert images.shape == (8, 3, SIZE, SIZE)
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first, second)
    assert batch.labels.tolist() == pool.labels[batch.indices].tolist()


def test_every_sample_comes_once_an_epoch(pool):
    with Stream(pool, **SETTINGS) as stream:
        batches = take(stream, 14)
    indices = np.concatenate([batch.indices for batch in batches])
    epochs = np.concatenate([batch.epochs for batch in batches])
    for epoch in range(3):
        assert sorted(indices[epochs == epoch]) == list(range(COUNT))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_workers_and_prefetch_change_nothing(pool, workers, prefetch):
    with (
        Stream(pool, **SETTINGS) as expected,
        Stream(pool, **SETTINGS, workers=workers, prefetch=prefetch) as actual,
    ):
        assert all(map(same, take(expected, 6), take(actual, 6)))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_same_global_batches(pool, world):
    with Stream(pool, **SETTINGS) as stream:
        expected = take(stream, 6)
    ranks = []
    for rank in range(world):
        with Stream(pool, **SETTINGS, rank=rank, world=world) as stream:
            ranks.append(take(stream, 6))
    for whole, *parts in zip(expected, *ranks, strict=True):
        assert np.array_equal(whole.indices, np.concatenate([p.indices for p in parts]))
        assert torch.equal(whole.labels, torch.cat([p.labels for p in parts]))
        for view in range(2):
            assert torch.equal(whole.images[view], torch.cat([p.images[view] for p in parts]))


@pytest.mark.parametrize("steps", [0, 1, 5, 9])
def test_a_resumed_stream_goes_on_as_if_undisturbed(pool, steps):
    with Stream(pool, **SETTINGS) as stream:
        take(stream, steps)
        state = stream.state_dict()
        expected = take(stream, 3)
    assert state == {"step": steps}
    with Stream(pool, **SETTINGS) as stream:
        next(stream)
        stream.load_state_dict(state)
        assert all(map(same, expected, take(stream, 3)))


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_ranks_and_workers_may_change_in_the_middle_of_an_epoch(store, streams):
    """4 ranks with 2 workers, then 1 without, then 2 with 3: nothing is lost or repeated."""
    settings = SETTINGS | {"streams": streams, "window": 5}
    with Stream(Pool([open_split(store, "birds", "train")]), **settings) as stream:
        undisturbed = take(stream, 6)
    parts, state = [], {"step": 0}
    for world, workers, steps in ((4, 2, 2), (1, 0, 1), (2, 3, 3)):
        ranks = []
        for rank in range(world):
            pool = Pool([open_split(store, "birds", "train")])
            with Stream(pool, **settings, rank=rank, world=world, workers=workers) as stream:
                stream.load_state_dict(state)
                ranks.append(take(stream, steps))
                after = stream.state_dict()
        parts += list(zip(*ranks, strict=True))
        state = after
    for whole, shares in zip(undisturbed, parts, strict=True):
        assert np.array_equal(whole.indices, np.concatenate([share.indices for share in shares]))
        for view in range(2):
            joined = torch.cat([share.images[view] for share in shares])
            assert torch.equal(whole.images[view], joined)
    indices = np.concatenate([share.indices for shares in parts for share in shares])
    epochs = np.concatenate([share.epochs for shares in parts for share in shares])
    assert sorted(indices[epochs == 0]) == list(range(COUNT))


def test_a_late_position_is_reached_without_reading_what_is_before(store, monkeypatch):
    reads, read = [], ReadableSplit.read
    fresh = Pool([open_split(store, "birds", "train")])
    monkeypatch.setattr(ReadableSplit, "read", lambda split, i: reads.append(i) or read(split, i))
    with Stream(fresh, **SETTINGS, prefetch=0) as stream:
        stream.load_state_dict({"step": 10**9})
        batch = next(stream)
    assert batch.step == 10**9
    assert Counter(reads) == Counter(batch.indices.tolist())


def test_closing_stops_the_threads(pool):
    before = threading.active_count()
    with Stream(pool, **SETTINGS, workers=3) as stream:
        next(stream)
        assert threading.active_count() > before
    batches = center_batches(pool, batch=4, size=SIZE)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_decoded_images_are_kept_up_to_a_number_of_bytes(store):
    everything = open_split(store, "birds", "train")
    nothing = open_split(store, "birds", "train", cache_bytes=0)
    some = open_split(store, "birds", "train", cache_bytes=40_000)
    for split in (everything, nothing, some):
        for i in range(len(split)):
            split.image(i)
    kept = [image for i in range(COUNT) if (image := some.cached_image(i)) is not None]
    assert 0 < len(kept) < COUNT
    assert sum(image.nbytes for image in kept) <= 40_000
    assert all(everything.image(i) is everything.image(i) for i in range(COUNT))
    assert nothing.image(0) is not nothing.image(0)
    assert torch.equal(everything.image(0), nothing.image(0))


def test_a_batch_that_ranks_cannot_share_is_refused(pool):
    with pytest.raises(RequestError, match="3 ranks"):
        Stream(pool, **SETTINGS, world=3)


def test_subsets_keep_their_samples_and_have_their_own_order(pool):
    indices = np.array([30, 2, 5, 7])
    subset = pool.subset(indices)
    assert subset.keys == [pool.keys[i] for i in indices]
    assert subset.labels.tolist() == pool.labels[indices].tolist()
    assert [subset.read(i) for i in range(4)] == [pool.read(int(i)) for i in indices]
    again = subset.subset([3, 0])
    assert again.keys == [pool.keys[7], pool.keys[30]]
    assert len({p.digest for p in (pool, subset, again, pool.subset(indices[::-1]))}) == 4
    assert subset.digest == pool.subset(indices).digest
    with pytest.raises(RequestError, match="birds/train"):
        pool.subset([])


def test_pools_concatenate_splits_and_labels_only_of_the_same_classes(store, pool):
    for name, classes in (("more", "abc"), ("other", "xyz")):
        write(store, name, [encoded(100 + number, "PNG") for number in range(5)], classes)
    train = pool.splits[0]
    more, other = (open_split(store, name, "train") for name in ("more", "other"))
    both = Pool([more, train])
    assert both.keys == more.keys + train.keys
    assert both.labels.tolist() == [*more.labels, *train.labels]
    assert [both.read(4), both.read(5)] == [more.read(4), train.read(0)]
    mixed = Pool([train, other])
    assert mixed.classes == ()
    assert set(mixed.labels.tolist()) == {-1}


def test_unknown_names_are_refused(store):
    with pytest.raises(RequestError, match="did you mean train"):
        open_split(store, "birds", "trian")
    with pytest.raises(RequestError, match="did you mean birds"):
        open_split(store, "bird", "train")


SHARD = "datasets/birds/train/birds-train-000000.tar"


def damaged(tmp_path, change) -> Pool:
    """A pool of one shard that `change`, of (tar, an image's start), altered after its writing."""
    store = open_store(str(tmp_path))
    images = [encoded(number, "PNG") for number in range(12)]
    write(store, "birds", images)
    tar = store.get(SHARD)
    store.put(SHARD, change(tar, tar.index(images[2])))
    return Pool([open_split(store, "birds", "train")])


def with_zeros(tar: bytes, start: int) -> bytes:
    return tar[:start] + bytes(100) + tar[start + 100 :]


def with_another_pixel(tar: bytes, start: int) -> bytes:
    return tar[: start + 1000] + b"x" * 50 + tar[start + 1050 :]


@pytest.mark.parametrize("change", [with_zeros, with_another_pixel])
def test_a_damaged_image_is_replaced_named_and_counted(tmp_path, change, caplog):
    pool = damaged(tmp_path, change)
    bad = pool.keys.index("bird-2")
    replacements = Replacements(10)
    with Stream(pool, **SETTINGS, replacements=replacements) as stream:
        batches = take(stream, 3)
    with Stream(pool, **SETTINGS, workers=0, replacements=Replacements(10)) as stream:
        assert all(map(same, batches, take(stream, 3)))  # deterministic
    indices = np.concatenate([batch.indices for batch in batches])
    assert bad not in indices
    assert (indices == (bad + 1) % 12).sum() == 4  # its own turns and those of the bad one
    for batch in batches:
        assert batch.labels.tolist() == pool.labels[batch.indices].tolist()
    reported = [record.getMessage() for record in caplog.records if "bird-2" in record.getMessage()]
    assert len(reported) == 2  # once for each stream
    assert "1 of at most 10" in reported[0]
    assert replacements.until(3) == ["birds/train/bird-2"]
    order = {name: SETTINGS[name] for name in ("batch", "seed")}
    first = next(n for n in range(3) if "birds/train/bird-2" in batch_keys(pool, n, **order))
    assert replacements.until(first) == []


def test_once_replaced_an_image_stays_replaced(tmp_path):
    """A process that resumes computes the same, if the shard is whole by then or not."""
    pool = damaged(tmp_path, with_zeros)
    replacements = Replacements(1)
    with Stream(pool, **SETTINGS, replacements=replacements) as stream:
        expected = take(stream, 6)
    sound = tmp_path / "sound"
    write(open_store(str(sound)), "birds", [encoded(number, "PNG") for number in range(12)])
    whole = Pool([open_split(open_store(str(sound)), "birds", "train")])
    resumed = Replacements(1)
    resumed.restore(replacements.until(3))
    with Stream(whole, **SETTINGS, replacements=resumed) as stream:
        stream.load_state_dict({"step": 3})
        assert all(map(same, expected[3:], take(stream, 3)))
    assert resumed.until(6) == ["birds/train/bird-2"]


def test_all_damaged_images_of_a_batch_are_named_and_how_to_make_them_anew(tmp_path):
    def several(tar: bytes, _start: int) -> bytes:
        images = [encoded(number, "PNG") for number in (1, 5, 9)]
        for start in (tar.index(image) for image in images):
            tar = with_zeros(tar, start)
        return tar

    pool = damaged(tmp_path, several)
    with pytest.raises(DataError) as error:
        list(center_batches(pool, batch=12, size=SIZE))
    text = str(error.value)
    assert text.startswith("3 images are damaged\n")
    for fact in ("bird-1 ", "bird-5 ", "bird-9 ", "train/birds-train-000000.tar", "data verify"):
        assert fact in text
    assert f"run `hpt-dist shard SOURCE {tmp_path}/datasets/birds` (SOURCE was called" in text


def test_a_pool_without_a_sound_image_ends(tmp_path):
    pool = damaged(tmp_path, lambda tar, start: tar[:512] + bytes(len(tar) - 512))
    with (
        Stream(pool, **SETTINGS, replacements=Replacements(99)) as stream,
        pytest.raises(DataError, match="no image is left"),
    ):
        take(stream, 3)


@pytest.mark.parametrize("change", [with_zeros, with_another_pixel])
def test_a_damaged_image_is_an_error_where_none_may_be_replaced(tmp_path, change):
    pool = damaged(tmp_path, change)
    with Stream(pool, **SETTINGS) as stream:
        position = None
        for _ in range(2):  # the position stays, and so does the error
            with pytest.raises(DataError) as error:
                take(stream, 3)
            assert position in (None, stream.position)
            position = stream.position
    with pytest.raises(DataError, match="bird-2"):
        list(center_batches(pool, batch=8, size=SIZE))
    for fact in ("birds", "train", "bird-2", "train/birds-train-000000.tar", str(tmp_path)):
        assert fact in str(error.value)


def test_more_damaged_images_than_the_limit_stop_the_stream(tmp_path):
    pool = damaged(tmp_path, lambda tar, start: tar[:512] + bytes(len(tar) - 512))
    with (
        Stream(pool, **SETTINGS, replacements=Replacements(3)) as stream,
        pytest.raises(DataError, match="more than 3 images are damaged") as error,
    ):
        next(stream)
    assert "birds-train-000000.tar" in str(error.value)


@pytest.mark.parametrize("change", [lambda tar, start: tar[:start], lambda tar, _: tar + b"x"])
def test_a_shard_of_another_length_is_an_error_that_names_it(tmp_path, change):
    pool = damaged(tmp_path, change)
    with (
        Stream(pool, **SETTINGS) as stream,
        pytest.raises(
            DataError, match=r"the shard ends after \d+ bytes; its manifest says \d+"
        ) as e,
    ):
        next(stream)
    assert "birds-train-000000.tar" in str(e.value)


def test_a_missing_shard_is_named(tmp_path):
    pool = damaged(tmp_path, lambda tar, start: tar)
    open_store(str(tmp_path)).delete(SHARD)
    with Stream(pool, **SETTINGS) as stream, pytest.raises(HptError, match=r"train-000000\.tar"):
        next(stream)


def test_a_damaged_index_is_named(tmp_path):
    store = open_store(str(tmp_path))
    write(store, "birds", [encoded(0, "PNG")])
    store.put("datasets/birds/train/birds-train-000000.index.json", b"{}")
    pool = Pool([open_split(store, "birds", "train")])
    for read in (lambda: pool.labels, lambda: pool.keys, lambda: pool.read(0)):
        with pytest.raises(DataError, match=r"train-000000\.index\.json"):
            read()


def test_images_stand_upright_on_white(tmp_path):
    wide = Image.new("RGB", (40, 20), "red")
    exif = wide.getexif()
    exif[0x0112] = 6  # shown after a quarter turn
    rotated, clear = io.BytesIO(), io.BytesIO()
    wide.save(rotated, "JPEG", exif=exif)
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(clear, "PNG")
    store = open_store(str(tmp_path))
    write(store, "birds", [rotated.getvalue(), clear.getvalue()])
    pool = Pool([open_split(store, "birds", "train")])
    images = {key: pool.image(i) for i, key in enumerate(pool.keys)}
    assert images["bird-0"].shape == (40, 20, 3)
    assert images["bird-1"][3, 3].tolist() == [255, 255, 255]


def test_evaluation_sees_every_image_once_and_in_order(pool):
    batches = list(center_batches(pool, batch=8, size=SIZE))
    assert [batch.step for batch in batches] == [0, 1, 2, 3, 4]
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 8, 5]
    assert np.concatenate([b.indices for b in batches]).tolist() == list(range(COUNT))
    assert torch.cat([b.labels for b in batches]).tolist() == pool.labels.tolist()


def test_evaluation_cuts_images_as_torchvision_does(tmp_path):
    """Where torchvision has nothing to round: sides in 2:1 and 3:2, crop corners on pixels."""
    store = open_store(str(tmp_path))
    sizes = [(64, 64), (96, 64), (64, 128)]
    write(store, "birds", [encoded(number, "PNG", size) for number, size in enumerate(sizes)])
    pool = Pool([open_split(store, "birds", "train")])
    (batch,) = center_batches(pool, batch=8, size=28)
    official = v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.PILToTensor()])
    expected = torch.stack([official(Image.fromarray(pool.image(i).numpy())) for i in range(3)])
    torch.testing.assert_close(batch.images[0], expected, atol=1, rtol=0)


def test_batches_may_be_asked_for_in_inference_mode(pool):
    expected = next(center_batches(pool, batch=8, size=SIZE))
    with torch.inference_mode():
        assert same(expected, next(center_batches(pool, batch=8, size=SIZE)))


def test_views_differ_in_number_size_and_area(pool):
    # So large that no image is decoded at half its size, which is one decision for all its views.
    large = [View(48, (0.2, 1.0))] * 2
    small = [View(8, (0.05, 0.2)), View(8, (0.05, 0.2)), View(12, (0.1, 0.4))]
    with (
        Stream(pool, **SETTINGS | {"views": large}) as two,
        Stream(pool, **SETTINGS | {"views": large + small}) as five,
    ):
        expected, batch = next(two), next(five)
    assert [images.shape[-1] for images in batch.images] == [48, 48, 8, 8, 12]
    assert all(map(torch.equal, batch.images, expected.images))
    assert not torch.equal(batch.images[2], batch.images[3])
    policy = Photometric(Augment(), (0.5,) * 3, (0.5,) * 3)
    shown = network_views(batch, [policy] * 5, seed=0)
    assert [view.shape for view in shown] == [(8, 3, n, n) for n in (48, 48, 8, 8, 12)]


def test_crop_batches_are_augmented_copies_in_order(pool):
    options = {"view": View(SIZE, (0.2, 0.5)), "seed": 1}
    copies = [
        torch.cat([b.images[0] for b in crop_batches(pool, batch=batch, epoch=epoch, **options)])
        for batch, epoch in [(8, 0), (37, 0), (8, 1)]
    ]
    assert torch.equal(copies[0], copies[1])
    assert not torch.equal(copies[0], copies[2])


def test_network_views_depend_on_the_sample_and_not_on_the_batch(pool):
    photometric = [Photometric(Augment(), (0.5,) * 3, (0.2,) * 3)] * 2
    with Stream(pool, **SETTINGS) as stream:
        whole = network_views(next(stream), photometric, seed=5)
    for rank in range(2):
        with Stream(pool, **SETTINGS, rank=rank, world=2) as stream:
            part = network_views(next(stream), photometric, seed=5)
        for view in range(2):
            expected = whole[view][4 * rank : 4 * rank + 4]
            torch.testing.assert_close(part[view], expected, atol=1e-5, rtol=1e-5)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=CROP_DRAWS, max_size=CROP_DRAWS),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
)
def test_crops_lie_inside_the_image(width, height, draws, area):
    left, top, right, bottom = random_box(width, height, np.array(draws), tuple(area))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize("image_size", [(64, 64), (200, 100), (37, 90), (300, 20)])
@pytest.mark.parametrize("area", [(0.2, 1.0), (0.7, 1.0)])
def test_crops_have_torchvisions_distribution(image_size, area):
    n, (width, height) = 3000, image_size
    u = uniforms(0, np.zeros(n, np.int64), np.arange(n), 0, CROP_DRAWS)
    ours = np.array([random_box(width, height, row, area) for row in u])
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    parameters = [RandomResizedCrop.get_params(blank, list(area), [3 / 4, 4 / 3]) for _ in range(n)]
    theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in parameters])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3


def test_the_keys_of_a_batch_are_those_that_a_stream_yields(pool):
    with Stream(pool, **SETTINGS) as stream:
        for step in range(3):
            places = map(pool.locate, next(stream).indices.tolist())
            expected = [f"{split.name}/{split.key(i)}" for split, i in places]
            reported = batch_keys(pool, step, batch=SETTINGS["batch"], seed=SETTINGS["seed"])
            assert reported == expected
