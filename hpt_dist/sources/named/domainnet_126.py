"""DomainNet's 126 classes by the lists that Minimax Entropy published (arXiv 1904.06487).

The lists lie beside the folders of the domains; a line is `real/axe/real_011_000001.jpg 11`.
`labeled_source_images_real.txt` is all of a source domain. A target domain has three lists for 1
and for 3 shots: `labeled_target_images_sketch_3.txt`; `unlabeled_target_images_sketch_3.txt`, of
images that are learned from without labels and tested on; and
`validation_target_images_sketch_3.txt` (of 3 for both), of images that choose. Most of the last are
also among the unlabelled ones.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.named import unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, key_of

DOMAINS = ("clipart", "painting", "real", "sketch")
SHOTS = (1, 3)
PUBLISHED = "published"  # a split, and what names of datasets that have it end with
_PARTS = 3


def open_source_domain(domain: str, root: Path) -> FileSource:
    """List the labelled images of a source domain, all of them train.

    Raises:
        RequestError: the list does not exist, or all mistakes in it.
    """
    lists = {"train": f"labeled_source_images_{domain}.txt"}
    read, classes = _read(domain, root, lists)
    rule = f"MME's list {lists['train']}"
    return FileSource(f"domainnet-126/{domain}", rule, classes, read["train"])


def open_target_domain(domain: str, shots: int, root: Path) -> FileSource:
    """List a target domain with splits that share no image.

    Train are the labelled images, val those that choose, test all other unlabelled ones. An image
    of two lists counts for the first of these.

    Raises:
        RequestError: a list does not exist, or all mistakes in the lists.
    """
    lists = _lists(domain, shots)
    read, classes = _read(domain, root, lists)
    files, notes, taken = list[Sample](), list[str](), dict[str, str]()
    for split, samples in read.items():
        files += [one for one in samples if one.key not in taken]
        others = Counter(taken[one.key] for one in samples if one.key in taken)
        notes += [
            f"{count} image{'s' * (count > 1)} of {lists[split]}: in {other}, and not in {split}"
            for other, count in others.items()
        ]
        taken |= {one.key: split for one in samples if one.key not in taken}
    rule = "; ".join([f"MME's lists {', '.join(lists.values())}", *notes])
    name = f"domainnet-126/{domain}-{shots}"
    return FileSource(name, rule, classes, files, notes=tuple(notes))


def open_published(domain: str, shots: int, root: Path) -> FileSource:
    """List a target domain as it was published: the split `published` shares images with val.

    Raises:
        RequestError: a list does not exist, or all mistakes in the lists.
    """
    lists = _lists(domain, shots)
    read, classes = _read(domain, root, lists)
    train, val, test = read.values()
    shared = len({one.key for one in val} & {one.key for one in test})
    note = f"{shared} of {len(val)} images of val are in {PUBLISHED}, too"
    files = [*train, *_again(val, "val"), *_again(test, PUBLISHED)]
    rule = f"MME's lists {', '.join(lists.values())} as they are; {note}"
    name = f"domainnet-126/{domain}-{shots}-{PUBLISHED}"
    return FileSource(name, rule, classes, files, notes=(note,))


def _lists(domain: str, shots: int) -> dict[str, str]:
    return {
        "train": f"labeled_target_images_{domain}_{shots}.txt",
        "val": f"validation_target_images_{domain}_3.txt",
        "test": f"unlabeled_target_images_{domain}_{shots}.txt",
    }


def _again(samples: Iterable[Sample], split: str) -> list[Sample]:
    """Return images for a split that shares some with others: under keys of its own."""
    key: Callable[[Sample], str] = lambda one: key_of(f"{split}/{one.key}")  # noqa: E731
    return [dataclasses.replace(one, split=split, key=key(one)) for one in samples]


def _read(
    domain: str, root: Path, lists: dict[str, str]
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Return the images of lists by split, and the names of the classes in the order of their ids.

    Raises:
        RequestError: a list does not exist, or all mistakes in the lists.
    """
    folder = unpacked.find(root, [domain, *lists.values()])
    problems = Problems()
    names: dict[int, str] = {}
    read: dict[str, list[Sample]] = {}
    for split, name in lists.items():
        read[split] = []
        seen: dict[str, str] = {}
        for where, line in unpacked.lines(folder / name):
            relative, _, number = line.rpartition(" ")
            if fault := _fault(domain, relative, number, names):
                problems.add(where, fault)
            elif relative in seen:
                problems.add(where, f"{relative} stands in {seen[relative]} already")
            else:
                seen[relative] = where
                unpacked.add_image(
                    read[split], problems, folder, relative, split, int(number), where
                )
    problems.refuse(f"the lists of {domain}", unpacked.MORE_TO_UNPACK)
    if lacking := sorted(set(range(max(names, default=0) + 1)) - names.keys()):
        what = f"no image of the classes {', '.join(map(str, lacking))} in the lists of {domain}"
        raise RequestError(what, where=str(folder), fix="take the lists as they were published")
    return read, [names[number] for number in sorted(names)]


def _fault(domain: str, relative: str, number: str, names: dict[int, str]) -> str:
    """Return what is wrong with a line, or an empty text; learn the name of its class."""
    parts = relative.split("/")
    if len(parts) != _PARTS or parts[0] != domain or not number.isdecimal():
        return f"a line is `{domain}/CLASS/IMAGE NUMBER`"
    name = names.setdefault(int(number), parts[1])
    return "" if name == parts[1] else f"class {number} is {name}, not {parts[1]}"
