"""Which split an image of a tar belongs to: by names of tars, of folders in them, or its .json."""

from __future__ import annotations

from collections.abc import Sequence

from hpt_dist.errors import RequestError
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import HASH_SPLIT_RULE, SPLITS, printable
from hpt_dist.sources.split_names import split_of, split_of_cell, split_within
from hpt_dist.sources.tars.places import Places
from hpt_dist.sources.tars.samples import TarSample

HASH = "hash"
UNLABELLED = "train"
UNLABELLED_RULE = f"all images in {UNLABELLED}, without labels"
_OPTIONS = (
    "--split train, val, test or unlabeled; --split hash, where the key of each image decides"
)
_SHOWN = 4


def splits_of(samples: Sequence[TarSample], places: Places, chosen: str) -> tuple[list[str], str]:
    """Return the split of each sample, and the rule in words. A text that is empty is not decided.

    Args:
        samples: all of them.
        places: the tars.
        chosen: `--split`: the split of all of them, `hash`, or empty.

    Raises:
        RequestError: names contradict each other, or only some of them name a split.
    """
    if chosen == HASH:
        return [""] * len(samples), HASH_SPLIT_RULE
    if chosen:
        if not (split := split_of_cell(chosen)):
            raise RequestError(
                f"unknown split {chosen!r}", where="--split", allowed=f"{', '.join(SPLITS)}, {HASH}"
            )
        return [split] * len(samples), f"all of {split}, by --split"
    problems = Problems()
    of_tar = {tar.path: _split_of_tar(tar.path, places, problems) for tar in places.tars}
    for link, tar in places.links.items():
        if _split_of_tar(link, places, problems) != of_tar[tar]:
            what = f"is a link to {printable(tar)}, which is in another split"
            problems.add(places.where(link), what)
    problems.refuse(f"the tars of {places.name}", f"rename or remove them, or say {_OPTIONS}")
    _refuse_some(of_tar, places)
    if all(of_tar.values()):
        return [of_tar[one.tar.path] for one in samples], "splits by the names of the tars"
    of_key = {key: _split_of_key(key) for key in {one.key for one in samples}}
    _refuse_some(of_key, places)
    if all(of_key.values()):
        return [of_key[one.key] for one in samples], "splits by the folders in the tars"
    of_json = {one.origin(one.images[0]): split_of_cell(one.split) for one in samples}
    _refuse_some(of_json, places)
    if all(of_json.values()):
        return list(of_json.values()), "splits by json:split"
    if split := split_of(places.store.uri.rpartition("/")[2]):
        raise RequestError(
            f"no tar names a split, but their folder may do so: {split}",
            where=printable(places.store.uri),
            fix=f"say {_OPTIONS}; or name the folder above, with all its splits",
        )
    return [""] * len(samples), HASH_SPLIT_RULE


def _split_of_tar(path: str, places: Places, problems: Problems) -> str:
    """Return the split that a tar's folders and name mean, or an empty text."""
    *folders, file = path.split("/")
    named = [split_of(one) or split_within(one) for one in (*folders, file.partition(".")[0])]
    found = sorted({one for one in named if one})
    if len(found) > 1:
        problems.add(places.where(path), f"its name means several splits: {', '.join(found)}")
    return found[0] if found else ""


def _split_of_key(key: str) -> str:
    """Return the split that the first folder of a key with such a name means."""
    return next(filter(None, map(split_of, key.split("/")[:-1])), "")


def _refuse_some(splits: dict[str, str], places: Places) -> None:
    named = [name for name, split in splits.items() if split]
    others = [name for name, split in splits.items() if not split]
    if named and others:
        shown = ", ".join(printable(name) for name in sorted(others)[:_SHOWN])
        raise RequestError(
            f"{printable(min(named))} names a split, but {len(others):,} do not, such as {shown}",
            where=printable(places.store.uri),
            allowed=f"names of splits in all of them, or in none: {', '.join(SPLITS)}",
            fix=f"name the tars of one split only, or say {_OPTIONS}",
        )
