"""Fashion-MNIST: 70,000 photographs of products, 28 x 28 pixels in greys (arXiv 1708.07747).

Its four IDX files, as Debian's package `dataset-fashion-mnist` installs them, packed or not.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path

from PIL import Image

from hpt_dist.errors import DataError
from hpt_dist.images.formats import to_png
from hpt_dist.sources.named import holdout, idx, unpacked
from hpt_dist.sources.sample import FileSource, Sample

PACKAGE = "dataset-fashion-mnist"
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
RULE = (
    "the official train and test; val is 10,000 images of train, of each class the same share, by "
    "SHA-256 of the number"
)
_VAL = 10_000

# Of the elements: whoever packs the files anew, as Debian does, changes those of the files.
SHA256 = {
    "train-images-idx3-ubyte": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels-idx1-ubyte": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images-idx3-ubyte": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels-idx1-ubyte": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
_INSIDE = "FashionMNIST/raw"  # where torchvision keeps them
_SPLITS = {"train": "train", "test": "t10k"}
_SHAPE = (28, 28)
# About the size of one as a PNG; only where shards end depends on it.
_PNG_BYTES = 500


def open_fashion_mnist(root: Path) -> FileSource:
    """List the images of the four files in a folder, or where torchvision puts them below it.

    Raises:
        RequestError: a file does not exist.
        DataError: a file is damaged, or of another dataset.
    """
    is_plain = any((root / inside / name).exists() for inside in ("", _INSIDE) for name in SHA256)
    suffix = "" if is_plain else ".gz"
    folder = unpacked.find(root, [f"{name}{suffix}" for name in SHA256], [_INSIDE])
    samples: list[Sample] = []
    for split, prefix in _SPLITS.items():
        images = folder / f"{prefix}-images-idx3-ubyte{suffix}"
        labels = _array(folder / f"{prefix}-labels-idx1-ubyte{suffix}")
        _array(images)
        digest = SHA256[f"{prefix}-images-idx3-ubyte"]
        version = f"{digest[:16]} pillow {metadata.version('pillow')}"
        samples += [
            _sample(images, split, number, label, version)
            for number, label in enumerate(labels.tolist())
        ]
    return FileSource(
        name="fashion-mnist",
        rule=RULE,
        classes=list(CLASSES),
        files=holdout.hold_out(samples, "val", _VAL, by_class=True),
    )


def _sample(images: Path, split: str, number: int, label: int, version: str) -> Sample:
    return Sample(
        key=f"{split}-{number:05}",
        split=split,
        label=label,
        origin=f"{split}/{number:05}",
        version=version,
        size_bytes=_PNG_BYTES,
        read=partial(_png, images, number),
    )


def _png(images: Path, number: int) -> bytes:
    """Return one image of a file as a PNG in greys."""
    return to_png(Image.fromarray(_array(images)[number]))


@lru_cache(maxsize=len(SHA256))
def _array(file: Path) -> idx.Bytes:
    """Read one of the four files; a process that encodes images does so once.

    Raises:
        DataError: it is damaged, or of another dataset.
    """
    name = file.name.removesuffix(".gz")
    array = idx.read(file, 3 if "images" in name else 1)
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    if digest != SHA256[name] or array.shape[1:] not in ((), _SHAPE):
        raise DataError(
            f"damaged, or not of Fashion-MNIST: the SHA-256 of its elements is {digest[:12]}..., "
            f"not {SHA256[name][:12]}...",
            where=str(file),
            fix=f"apt-get install --reinstall {PACKAGE}",
        )
    return array
