"""Which field of a sample is its image, and which its label; where two may be, it is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from hpt_dist.errors import RequestError
from hpt_dist.sources.class_names import MAX_CHARACTERS
from hpt_dist.sources.sample import printable
from hpt_dist.sources.split_names import split_of, split_within
from hpt_dist.sources.tars.places import Places
from hpt_dist.sources.tars.samples import (
    Image,
    Listing,
    TarSample,
    Unfit,
    Value,
    is_chosen,
    is_label,
)

NONE = "none"
# Parts of a name in a .json under which labels may be meant.
_WORDS = {"label", "class", "category", "species", "breed", "diagnosis", "dx", "finding", "truth"}
_ONE_DOT = (
    "give the files names with one dot and pack them again: webdataset cuts names at the first dot"
)
_SHOWN = 8


def pick_images(listing: Listing, places: Places, chosen: str) -> list[Image]:
    """Return the image of each sample; take samples without the chosen one out of the listing.

    Args:
        listing: all samples.
        places: the tars.
        chosen: `--image`, see `samples.is_chosen`.

    Raises:
        RequestError: samples have several images, or in different fields, and none is chosen.
    """
    fields = {image.field: None for one in listing.samples for image in one.images}
    picked, kept = [], []
    for one in listing.samples:
        fit = [i for i in one.images if not chosen or is_chosen(i.field, chosen)]
        if len(fit) > 1:
            raise _several_images(one, fields, places, chosen)
        if fit:
            picked.append(fit[0])
            kept.append(one)
        else:
            listing.aside.add(f"samples without {chosen}", one.origin(one.images[0]))
    listing.samples = kept
    kinds = {image.field.rpartition(".")[0]: image.field for image in picked}
    if len(kinds) > 1 and not chosen:
        shown = ";".join(list(kinds.values())[:_SHOWN])
        raise RequestError(
            f"samples have one image each, but in different fields: {listed(kinds.values())}",
            where=printable(places.store.uri),
            fix=f"say which are meant: --image {kinds.popitem()[1]}, or --image '{shown}'; or "
            f"{_ONE_DOT}",
        )
    return picked


def _several_images(
    sample: TarSample, fields: Collection[str], places: Places, chosen: str
) -> RequestError:
    held = listed([image.field for image in sample.images])
    fix = f"say which is meant: --image {printable(sample.images[0].field)}"
    if any("." in image.field for image in sample.images):
        fix += f"; or, where each of these files is a sample of its own, {_ONE_DOT}"
    return RequestError(
        f"the sample {printable(sample.key)} has {len(sample.images)} images: {held}",
        where=places.where(sample.tar.path) if not chosen else f"--image {chosen}",
        allowed=f"one of {listed(fields)}; or several, of which a sample has one, as 'jpg;png'",
        fix=fix,
    )


def label_field(listing: Listing, places: Places, wanted: str) -> str:
    """Return the name of the values that are labels; empty for none.

    Args:
        listing: all samples.
        places: the tars.
        wanted: `--label`: a field, `json:NAME`, `none`, or empty.

    Raises:
        RequestError: there is no such field, several may be meant, or labels may lie elsewhere.
    """
    if wanted == NONE:
        return ""
    counts = Counter(
        name for one in listing.samples for name, value in one.values.items() if value != ""
    )
    where = places.store.uri
    if wanted:
        if wanted not in counts:
            names = f"; a .json holds {listing.json_names()}" if listing.names else ""
            what = f"no sample has a label in {wanted!r}; the fields are "
            raise RequestError(
                f"{what}{listed(listing.fields)}{names}",
                where="--label",
                allowed="cls, txt or another field; json:NAME; none",
            )
        return wanted
    plain = [
        name for name in counts if is_label(name) or (":" in name and not _is_unfit(listing, name))
    ]
    if len(plain) > 1 and not _agree(listing, plain):
        raise _undecided(f"{listed(plain)} may hold the label", where, plain)
    if plain:
        return min(plain, key=lambda name: (":" in name, name))
    if doubtful := [name for name in listing.names if _WORDS & set(re.split(r"[\W_]+", name))]:
        asked = [f"json:{name}" for name in doubtful]
        raise _undecided(f"{listed(asked)} may hold the label", where, asked)
    for name in counts:
        if _repeats([one.values.get(name) for one in listing.samples]):
            what = f"the texts in {name} repeat each other: they may be names of classes"
            raise _undecided(what, where, [name])
    _refuse_classes_by_name(listing, places)
    if lists := [name for name in places.beside if name.casefold().endswith((".csv", ".tsv"))]:
        raise RequestError(
            f"there are no labels in the tars, but {listed(lists)} beside them may hold some",
            where=printable(places.store.uri),
            fix="where it does, unpack the tars, and name the list; where it does not: "
            f"--label {NONE}",
        )
    return ""


def _refuse_classes_by_name(listing: Listing, places: Places) -> None:
    """Raise where the names of tars, or of the folders in them, may be classes.

    Tars of one set differ by their numbers only; ImageNet's are one for each class.
    """
    folders = {
        "/".join(part for part in one.key.split("/")[:-1] if not split_of(part))
        for one in listing.samples
    }
    stems = {tar.path: tar.path.rpartition("/")[2].partition(".")[0] for tar in places.tars}
    kinds = {re.sub(r"\d+", "", stem) for stem in stems.values() if not split_within(stem)}
    own = all(one.key.startswith(f"{stems[one.tar.path]}_") for one in listing.samples)
    what, fix = "", "unpack each into a folder of its own name, and name the folder of these"
    if len(folders) > 1:
        what = f"the names in the tars lie in {len(folders):,} folders ({listed(sorted(folders))})"
        fix = "unpack the tars into a folder, and name that"
    elif len(kinds) > 1 or (own and len(stems) > 1):
        what = f"the {len(stems):,} tars have names of their own ({listed(sorted(stems.values()))})"
    if what:
        raise RequestError(
            f"there are no labels, but {what}: these may be classes",
            where=printable(places.store.uri),
            fix=f"if they are, {fix}; if they are not: --label {NONE}",
        )


def _undecided(what: str, where: str, names: Sequence[str]) -> RequestError:
    options = " or ".join(f"--label {name}" for name in [*names, NONE])
    return RequestError(what, where=printable(where), fix=f"say which is meant: {options}")


def _is_unfit(listing: Listing, name: str) -> bool:
    """Return whether a name in a .json never holds what can be a label."""
    return all(isinstance(one.values.get(name, Unfit("")), Unfit) for one in listing.samples)


def _is_json(name: str) -> bool:
    return name.rpartition(".")[2] == "json"


def _agree(listing: Listing, names: Sequence[str]) -> bool:
    """Return whether all of these values are the same in each sample."""
    return all(len({one.values.get(name) for name in names}) == 1 for one in listing.samples)


def _repeats(values: Sequence[Value | None]) -> bool:
    """Return whether texts are so few and short that they may be names of classes."""
    found = Counter(one for one in values if isinstance(one, str) and one)
    return 1 < len(found) <= found.total() // 2 and max(map(len, found)) <= MAX_CHARACTERS


def without_labels(listing: Listing, wanted: str) -> str:
    """Say why there are no labels, and what might be one."""
    if wanted == NONE:
        return "labels: none, by --label none"
    images = {image.field for one in listing.samples for image in one.images}
    others = [name for name in listing.fields if name not in images and not _is_json(name)]
    held = [f"{name} is not read (--label {name} takes it as the label)" for name in others]
    if listing.names:
        names = listing.json_names()
        held.append(f"json holds {names}, which are not read (--label json:NAME takes one)")
    return "; ".join(["labels: none", *held])


def listed(names: Collection[str]) -> str:
    """Return some of the names in one text."""
    shown = [printable(name) or "no folder" for name in list(names)[:_SHOWN]]
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
