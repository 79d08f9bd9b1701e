"""Names of classes: one form for each, and which cannot be one or look like another."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from hpt_dist.errors import RequestError
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, printable

MAX_CHARACTERS = 200

# What programs write for a cell without a value; nobody can see whether a class is meant.
_MISSING = frozenset(
    {"nan", "-nan", "<na>", "#n/a", "#na", "n/a", "null", "(null)", "nat", "\\n", "?", "-", "--"}
    | {"#value!", "#ref!", "#name?", "#div/0!", "#num!", "#null!", "#n/a n/a"}
)
_MISSING_AS_IT_IS = frozenset({"None", "NA"})
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
_WHOLE_NUMBER = re.compile(r"[+-]?\d+(?:\.0*)?")
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
_SHOWN = 40


@lru_cache(maxsize=100_000)
def plain(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), without spaces around it."""
    return unicodedata.normalize("NFC", name).strip()


def is_missing(name: str) -> bool:
    """Return whether a name is what programs write for a missing value."""
    return name.casefold() in _MISSING or name in _MISSING_AS_IT_IS


def fault(name: str) -> str:
    """Return why a name cannot be one of a class, or an empty text."""
    if not name:
        return "an empty class name"
    if len(name) > MAX_CHARACTERS:
        start = ascii(name[:_SHOWN])
        return (
            f"a class name of {len(name):,} characters, {start}...; allowed: up to {MAX_CHARACTERS}"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return f"a class name that is not UTF-8: {name!a}"
    if any(unicodedata.category(letter) in _UNPRINTABLE for letter in name):
        return f"a class name with a control character: {name!a}"
    return ""


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that look like one class, each in the order of the names.

    Such names differ only by case, spaces, signs that nobody sees, or how a number is written.
    Single letters may differ by case: they are classes of letters.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_likeness(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _likeness(name: str) -> str:
    name = unicodedata.normalize("NFKC", name)
    if _WHOLE_NUMBER.fullmatch(name):
        return str(int(name.partition(".")[0]))
    if len(name) == 1:
        return name
    folded = unicodedata.normalize("NFKC", name.casefold())
    return "".join(folded.translate(_UNSEEN).split()) or name


def checked(source: FileSource) -> FileSource:
    """Return a source with its own name in UTF-8, and those of its classes in the composed form.

    Raises:
        RequestError: a name cannot be one of a class, or is there twice.
    """
    classes = [unicodedata.normalize("NFC", name) for name in source.classes]
    wrong = [what for what in map(fault, classes) if what]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        raise RequestError(
            wrong[0] + more,
            where=printable(source.name),
            allowed=f"1 to {MAX_CHARACTERS} characters in UTF-8, no control characters",
            fix="rename the class",
        )
    if len(set(classes)) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise RequestError(
            f"two classes have the name {twice!r}, in two forms of Unicode",
            where=printable(source.name),
            fix="write the name in one form (NFC), or rename one of the classes",
        )
    name = printable(source.name)
    if (name, classes) == (source.name, source.classes):
        return source
    return dataclasses.replace(source, name=name, classes=classes)


def note_alike(classes: Iterable[str], where: str, problems: Problems) -> None:
    """Note names of classes of an annotation that look like one class.

    Args:
        classes: their names.
        where: the annotations.
        problems: receives all such names.
    """
    for group in alike(classes):
        names = " and ".join(map(repr, group))
        way = "give each class one name in all annotations"
        problems.add(where, f"classes that look like one: {names}; {way}")


def refuse_single(classes: list[str], where: str, fix: str) -> None:
    """Raise where all images would be of one class, so that every accuracy is 1.0.

    Args:
        classes: names of the classes.
        where: the folder or the list.
        fix: the next thing to do.
    """
    if len(classes) == 1:
        what = f"every image with a label is of one class, {classes[0]!r}"
        raise RequestError(what, where=where, allowed="two classes or more, or no labels", fix=fix)
