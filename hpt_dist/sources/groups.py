"""Groups of images that must share a split: those of a patient, a scene or a video.

Images of one group resemble each other beyond their class. Where some of a group train and others
test, a network that recognises the group is taken for one that recognises the class.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from hpt_dist.errors import RequestError
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import HASH_SPLIT_RULE, FileSource, Sample, hash_split

NO_GROUPS = ""
_RULE = "70 % train, 15 % val and 15 % test by SHA-256 of each image's group"
_TRAINED_ON = {"train", "unlabeled"}
_SHOWN = 3


def kept_together(source: FileSource, pattern: str | None) -> FileSource:
    """Return a source in which no group of images lies in two splits.

    Args:
        source: its `groups` count unless a pattern is given.
        pattern: a regular expression; what its first group matches in an image's path names the
            image's group. `NO_GROUPS` ignores groups; None takes those that the source has.

    Raises:
        RequestError: the pattern cannot be used, or the source's own splits separate a group.
    """
    if pattern == NO_GROUPS or (pattern is None and not source.groups):
        return source
    if pattern and source.groups:
        raise RequestError(
            "the list has a column group, and a pattern is given too",
            where="--group-by",
            fix="leave out one of them",
        )
    groups = _matched(source, pattern) if pattern else source.groups
    how = f"{pattern!r} in its path" if pattern else "the column group"
    if source.rule.startswith(HASH_SPLIT_RULE):
        files = [_placed(one, groups.get(one.key, "")) for one in source.files]
        rule = source.rule.replace(HASH_SPLIT_RULE, f"{_RULE} ({how})", 1)
        source = dataclasses.replace(source, files=files, rule=rule)
    _refuse_separated(source, groups)
    note = f"{len(set(groups.values())):,} groups by {how}; none lies in two splits"
    return dataclasses.replace(source, groups=groups, notes=(*source.notes, note))


def _matched(source: FileSource, pattern: str) -> Mapping[str, str]:
    """Return the group of each image by its key."""
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise RequestError(f"{pattern!r} is no pattern: {error}", where="--group-by") from error
    example = "'^[^/]+/(p[0-9]+)_' takes p12 from cat/p12_3.jpg"
    if not expression.groups:
        raise RequestError(
            f"the pattern {pattern!r} has no group in brackets", where="--group-by", allowed=example
        )
    found = {one.key: expression.search(one.origin) for one in source.files}
    groups = {key: plain(match[1] or "") for key, match in found.items() if match}
    without = [one.origin for one in source.files if not groups.get(one.key)]
    if without:
        raise RequestError(
            f"the pattern {pattern!r} names no group for {len(without):,} of "
            f"{len(source.files):,} images, such as {', '.join(without[:_SHOWN])}",
            where="--group-by",
            allowed=example,
            fix="write a pattern that matches the path of every image",
        )
    return groups


def _placed(sample: Sample, group: str) -> Sample:
    """Return an image in the split of its group; one without a group stays where it is."""
    if not group or sample.split == "unlabeled":
        return sample
    return dataclasses.replace(sample, split=hash_split(group))


def _refuse_separated(source: FileSource, groups: Mapping[str, str]) -> None:
    first: dict[str, dict[str, Sample]] = {}
    for one in source.files:
        if group := groups.get(one.key):
            first.setdefault(group, {}).setdefault(one.split, one)
    problems = Problems()
    for group, splits in first.items():
        if len(splits) > 1 and not splits.keys() <= _TRAINED_ON:
            places = " and in ".join(f"{split} ({one.origin})" for split, one in splits.items())
            problems.add(f"group {group!r}", f"is in {places}")
    problems.refuse(
        f"the groups of {source.name}: its own splits separate them",
        "move each group into one split, or leave the splits out, so that the groups decide them; "
        "where these are no groups of images that resemble each other, say --group-by ''",
    )
