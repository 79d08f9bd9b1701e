"""What a page shows of a pretraining is what the network saw, and what is nearest."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from birds import COUNT, encoded, write
from PIL import Image

from hpt_dist.images import sheet
from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.reading.stream import Pool, Stream, View, center_batches, network_views, open_split
from hpt_dist.recipe import Pretrain
from hpt_dist.stages import pictures
from hpt_dist.stages.inputs import photometric_of
from hpt_dist.store import open_store

SIZE = 32


@pytest.fixture
def pool(tmp_path):
    store = open_store(str(tmp_path))
    write(store, "birds", [encoded(number, "PNG") for number in range(COUNT)])
    return Pool([open_split(store, "birds", "train")])


@pytest.fixture
def drawn(monkeypatch):
    """The rows of the pictures that are made."""
    rows = []
    monkeypatch.setattr(pictures, "encoded", lambda found, *_, **__: rows.extend(found) or b"made")
    return rows


CONTEXT = SimpleNamespace(order=SimpleNamespace(image_size=SIZE, normalize="imagenet"))


@pytest.mark.parametrize("batch", [4, 12, 30])
def test_views_are_those_of_the_first_batch(pool, drawn, batch):
    data = {"init": "base", "data": ["birds/train"], "batch": batch, "seed": 7}
    spec = Pretrain(kind="pretrain", moco={"queue": batch}, **data)
    assert pictures.views(CONTEXT, spec, pool) == b"made"
    crops = [View(SIZE, spec.augment.crop_area)] * 2
    with Stream(pool, batch=batch, seed=7, views=crops, workers=0) as stream:
        first = next(stream)
    looks = [photometric_of(CONTEXT, spec.augment, torch.device("cpu"))] * 2
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZE["imagenet"])
    for row, view in zip(drawn, network_views(first, looks, 7), strict=True):
        assert len(row) == min(batch, pictures.IMAGES)
        for pixels, seen in zip(row, view, strict=False):
            shown = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
            torch.testing.assert_close(shown, seen, atol=0.6 / 255 / 0.2, rtol=0)


def test_neighbours_are_the_nearest_before_and_after(pool, drawn):
    rng = torch.Generator().manual_seed(0)
    before, after = (torch.randn(COUNT, 8, generator=rng) for _ in range(2))
    assert pictures.neighbours(pool, before, after, SIZE) == b"made"
    batches = center_batches(pool, batch=64, size=SIZE, workers=0)
    images = next(iter(batches)).images[0].permute(0, 2, 3, 1).numpy()
    known = {one.tobytes(): number for number, one in enumerate(images)}
    assert len(drawn) == pictures.QUERIES
    for row in drawn:
        query, *others = (known[one.tobytes()] for one in row)
        for features, found in ((before, others[:5]), (after, others[5:])):
            cosines = torch.cosine_similarity(features, features[query : query + 1]).tolist()
            nearest = sorted((n for n in range(COUNT) if n != query), key=lambda n: -cosines[n])
            assert found == nearest[:5]


def test_a_gallery_is_bounded_and_two_images_are_enough(pool, drawn):
    assert len(pictures.gallery_of(pool)) == COUNT
    two = pool.subset(np.arange(2))
    assert pictures.neighbours(two, torch.eye(2), torch.eye(2), SIZE) == b"made"
    assert [len(row) for row in drawn] == [3, 3]


def test_a_sheet_has_its_images_in_their_places():
    rows = [
        [np.full((9, 9, 3), 40 * (3 * down + across), np.uint8) for across in range(3)]
        for down in range(2)
    ]
    data = sheet.encoded(rows, 20, wide_gap_after=(0,))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (2 * 23 + 3, 3 + 3 * 23 + 3 * 3, 3)
    for down, across, left in ((0, 0, 13), (0, 1, 45), (1, 2, 68)):
        value = pixels[13 + 23 * down, left].mean()
        assert value == pytest.approx(40 * (3 * down + across), abs=8)
    assert data == sheet.encoded(rows, 20, wide_gap_after=(0,))
