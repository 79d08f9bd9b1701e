"""Two views of each photograph on one core: hpt-dist against the transform of MoCo v2.

`two_views` is what a GPU waits for, uint8 crops whose colours change on the device, read from
shards in training's order; `cpu_policy` does all of it on the core. The official transform is that
of MoCo v2's `--aug-plus`, on Pillow.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from benchmarks.measure import Row, in_words, print_rows, rates
from benchmarks.photos import photos
from benchmarks.reading import write_photos
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.images import pixels
from hpt_dist.images.photometric import Photometric
from hpt_dist.reading.stream import Pool, Stream, View, network_views, open_split
from hpt_dist.recipe import Augment
from hpt_dist.store import open_store
from hpt_dist.trial.memory import keep_freed_memory

IMAGES = 1024  # different ones, of a round of decoding
_POLICY_IMAGES = 512
_OFFICIAL_IMAGES = 128
_BATCH = 64
SIZE = 224
POLICY = Augment()
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PillowBlur:
    """MoCo v2's GaussianBlur: Pillow's, its radius uniform in [0.1, 2]."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def official() -> Callable[[Image.Image], Tensor]:
    """Return MoCo v2's transform of one view, as in its main_moco.py with --aug-plus."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PillowBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


@contextmanager
def streaming() -> Iterator[Stream]:
    """Yield training's own stream of the photographs, which keeps none of them decoded."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/store")
        write_dataset(write_photos(Path(folder) / "photos", IMAGES), store, "photos")
        pool = Pool([open_split(store, "photos", "train", cache_bytes=0)])
        with Stream(
            pool,
            batch=_BATCH,
            seed=0,
            views=[View(SIZE, POLICY.crop_area)] * 2,
            workers=0,
        ) as stream:
            yield stream


def two_views(stream: Stream, count: int) -> Iterator[list[Tensor]]:
    """Yield batches of two random crops of each photograph, from its shard."""
    return (batch.images for batch in islice(stream, count // _BATCH))


def whole_policy(stream: Stream, count: int) -> Iterator[list[Tensor]]:
    """Yield batches of two float32 views, ready for the network."""
    photometric = Photometric(POLICY, MEAN, STD)
    return (network_views(batch, [photometric] * 2, 0) for batch in islice(stream, count // _BATCH))


def official_views(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two views of each photograph by MoCo v2's own transform."""
    transform = official()
    for data in photos(IMAGES)[:count]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        yield transform(image), transform(image)


def pillow_decode(count: int) -> Iterator[Image.Image]:
    return (Image.open(io.BytesIO(data)).convert("RGB") for data in photos(IMAGES)[:count])


def own_decode(count: int) -> Iterator[Tensor]:
    return (pixels.EncodedImage(data).decode() for data in photos(IMAGES)[:count])


def work(make: Callable[[int], Iterator[object]], count: int) -> Callable[[], int]:
    """Return what makes everything of that many photographs, and returns their number."""

    def run() -> int:
        for _ in make(count):
            pass
        return count

    return run


def contestants(stream: Stream) -> dict[str, Callable[[], int]]:
    """Return who is measured."""
    return {
        "two views": work(partial(two_views, stream), IMAGES),
        "Pillow decode": work(pillow_decode, IMAGES),
        "own decode": work(own_decode, IMAGES),
        "whole policy": work(partial(whole_policy, stream), _POLICY_IMAGES),
        "MoCo v2 with Pillow": work(official_views, _OFFICIAL_IMAGES),
    }


def rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in the process of a trial
    random.seed(0)
    torch.manual_seed(0)
    try:
        with streaming() as stream:
            speeds = rates(contestants(stream))
    finally:
        torch.set_num_threads(threads)
    views, theirs = speeds["two views"], speeds["MoCo v2 with Pillow"]
    share = f"{views / speeds['own decode']:.0%} of our own full decode"
    decode = 'bare decode is Image.open(...).convert("RGB")'
    yield Row("two_views_vs_pil_transform", views / theirs, 8, f"one core: {in_words(speeds)}")
    yield Row("two_views_vs_decode", views / speeds["Pillow decode"], 0.7, f"{decode}; {share}")
    yield Row("cpu_policy_vs_pil_transform", speeds["whole policy"] / theirs, 3, "float32 on a CPU")


if __name__ == "__main__":
    print_rows(rows())
