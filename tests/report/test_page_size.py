"""The page of five hundred trials, with the pictures of twelve trainings, is small."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded, sample, write
from PIL import Image
from reports import finished, launched
from sklearn.datasets import load_sample_images
from test_appendix import EXHIBITS

from hpt_dist.reading.pool import Pool
from hpt_dist.reading.stream import open_split
from hpt_dist.recipe import Pretrain
from hpt_dist.report.exhibits import MOST_TRIALS, PICTURES, Exhibits
from hpt_dist.report.report import build
from hpt_dist.stages import pictures
from hpt_dist.store import open_store

_MOST_BYTES = 5_000_000
_PHOTOS, _SIDE = 40, 224
_VIEW = 96  # pixels of a view on the page: a larger network's views are shrunk to it


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of parts of real photographs, which are larger as files than drawings are."""
    rng = np.random.default_rng(0)
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    samples = []
    for number in range(_PHOTOS):
        one = whole[number % len(whole)]
        x, y = (int(rng.integers(0, most - _SIDE)) for most in one.size)
        part = one.crop((x, y, x + _SIDE, y + _SIDE))
        samples.append(sample(f"{number:03}", encoded(part, quality=95), "train", None))
    store = open_store(str(tmp_path_factory.mktemp("photos")))
    write(store, "photos", samples, classes="")
    return Pool([open_split(store, "photos", "train")])


def seen(pool: Pool, seed: int) -> Mapping[str, bytes]:
    """The pictures of a training, as it leaves them."""
    order = SimpleNamespace(image_size=_VIEW, normalize="imagenet")
    context: Any = SimpleNamespace(order=order)
    settings: dict[str, Any] = {"init": "base", "data": ["photos/train"], "moco": {"queue": 8}}
    spec = Pretrain(kind="pretrain", batch=8, seed=seed, **settings)
    numbers = torch.Generator().manual_seed(seed)
    before, after = (torch.randn(len(pool), 8, generator=numbers) for _ in range(2))
    return {
        pictures.VIEWS: pictures.views(context, spec, pool),
        pictures.NEIGHBOURS: pictures.neighbours(pool, before, after, _VIEW),
    }


@pytest.fixture(scope="module")
def twelve(photos: Pool) -> Exhibits:
    """What a page shows of twelve trainings, each with pictures of its own."""
    [card] = EXHIBITS.trials
    cards = [
        dataclasses.replace(card, name=f"{card.name} {n}", pictures=seen(photos, n))
        for n in range(MOST_TRIALS)
    ]
    return dataclasses.replace(EXHIBITS, trials=tuple(cards))


def test_five_hundred_trials_fit_into_five_megabytes(twelve: Exhibits) -> None:
    names = [
        f"probe/init={init},data=set{data},seed={seed}"
        for init in ("base", "a", "b", "c", "d")
        for data in range(20)
        for seed in range(5)
    ]
    assert len(names) == 500
    rng = np.random.default_rng(0)
    done = [
        finished(name, {"test/top1": rng.uniform(0.4, 0.6)}, details={"n_test": 1000})
        for name in names
    ]
    shape = {"rows": "init", "columns": "data"}
    figures = [{kind: "probe", **shape} for kind in ("table", "bars", "delta", "matrix")]
    figures += [{"bars": "probe", "rows": "init", "panels": "data"}]
    launch = dataclasses.replace(launched(names), report={"figures": figures})
    began = time.process_time()
    page = build(launch, done).html(twelve)
    assert time.process_time() - began < 20
    every = {data for card in twelve.trials for data in card.pictures.values()}
    assert len(every) == MOST_TRIALS * len(PICTURES)
    assert page.count("data:image/webp;base64,") == len(every)
    in_pictures = sum(len(data) for data in every) * 4 // 3
    assert in_pictures < len(page.encode()) < _MOST_BYTES
