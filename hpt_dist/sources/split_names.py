"""Which names of folders, files and cells mean a split."""

from __future__ import annotations

import re
import unicodedata

from hpt_dist.sources.sample import SPLITS

# As people and programs also write them; `trainval` is the train of who has no other.
WORDS = SPLITS | {"training": "train", "trainval": "train", "testing": "test", "dev": "val"}
_WORD = "|".join(sorted(WORDS, key=len, reverse=True))
# What follows such a word in a folder's name: train2017, train_images, test-std, valset.
_SUFFIX = (
    r"[ _.-]*(?:\d{1,4}|sets?|splits?|images?|imgs?|pictures?|photos?|data|datasets?|std|dev"
    r"|challenge|full|final|all|raw|clean|cleaned|jpe?gs?|pngs?|rgb)"
)
_NAME = re.compile(rf"({_WORD})(?:{_SUFFIX})*[ _.-]*")
_PIECE = re.compile(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*|[^\W\d_]+\d*")


def split_of_cell(text: str) -> str:
    """Return the split that a cell of a list names, or an empty text for no such name."""
    return WORDS.get(text.strip().casefold(), "")


def split_of(name: str) -> str:
    """Return the split that a folder's name means, such as `Train2017`, or an empty text."""
    match = _NAME.fullmatch(unicodedata.normalize("NFKC", name).strip().casefold())
    return WORDS[match[1]] if match else ""


def split_within(name: str) -> str:
    """Return the one split that a part of a name means, such as of `seg_train`, or an empty text.

    A class may be called so too: `bullet train`.
    """
    found = {split_of(piece) for piece in _PIECE.findall(name)} - {""}
    return found.pop() if len(found) == 1 else ""
