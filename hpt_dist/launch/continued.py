"""The recipe that `hpt-dist continue` writes: what it was asked for, and whether it was edited.

Its first line says both. So the file alone decides whether it may be written anew, on any machine
and from any copy. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hpt_dist.errors import RequestError

_STAMP = re.compile(r"\A# Written by `hpt-dist continue`: (\{.*\})\n")
_DIGITS = 12


@dataclass(frozen=True)
class Asked:
    """What a recipe is recommended for.

    Args:
        dataset: its name in the store.
        digest: of its manifest.
        hours: that the recipe may take; None without a limit.
        bases: the weights to choose from; empty for the usual ones.
        sources: the datasets to pretrain on before; empty for none.
    """

    dataset: str
    digest: str
    hours: float | None = None
    bases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, str]:
        """The options that ask for it, each in words."""
        hours = () if self.hours is None else (f"{self.hours:g}",)
        given = {"--hours": hours, "--base": self.bases, "--source": self.sources}
        return {
            name: " ".join(f"{name} {value}" for value in values) or f"no {name}"
            for name, values in given.items()
        }


@dataclass(frozen=True)
class Written:
    """A recipe's file.

    Args:
        asked: what it was written for; None for a recipe that `continue` did not write.
        takes_hours: the estimate of when it was written; None if it is unknown.
        is_edited: whether somebody changed it since.
    """

    asked: Asked | None
    takes_hours: float | None
    is_edited: bool


@dataclass(frozen=True)
class Choice:
    """Which recipe is used.

    Args:
        kind: as it was written ("kept"), as its user wants it ("own"), that of an earlier launch
            ("restored"), or one that is recommended now ("new").
        text: of a restored one.
        takes_hours: the estimate of one that is not new; None if it is unknown.
        says: what its user is to know, a line each.
    """

    kind: Literal["kept", "own", "restored", "new"]
    text: str = ""
    takes_hours: float | None = None
    says: tuple[str, ...] = ()


def stamped(text: str, asked: Asked, takes_hours: float | None) -> str:
    """Return a recipe below the line that says what it was written for."""
    facts = {
        **asdict(asked),
        "digest": asked.digest[:_DIGITS],
        "takes_hours": takes_hours,
        "text": _digest(text),
    }
    return f"# Written by `hpt-dist continue`: {json.dumps(facts, ensure_ascii=False)}\n{text}"


def read(text: str) -> Written:
    """Return what the first line of a recipe says."""
    stamp = _STAMP.match(text)
    try:
        facts: dict[str, Any] = json.loads(stamp[1]) if stamp else {}
        asked = Asked(
            dataset=str(facts["dataset"]),
            digest=str(facts["digest"]),
            hours=None if facts["hours"] is None else float(facts["hours"]),
            bases=tuple(map(str, facts["bases"])),
            sources=tuple(map(str, facts["sources"])),
        )
        takes = facts["takes_hours"]
        takes_hours = None if takes is None else float(takes)
        is_edited = facts["text"] != _digest(text[stamp.end() :] if stamp else text)
    except (ValueError, KeyError, TypeError):
        return Written(None, None, is_edited=True)
    return Written(asked, takes_hours, is_edited)


def choose(
    file: str, there: str | None, asked: Asked, launched: Sequence[str], *, can_ask: bool
) -> Choice:
    """Decide between the recipe that is there and a new one.

    A recipe that somebody edited is never written over. One that was launched is not replaced for
    other options unless its user can be asked: `--hours` may only have been forgotten.

    Args:
        file: the path of the recipe, for messages.
        there: its text; None if there is no such file.
        asked: what is asked for now.
        launched: the texts of this name that were launched, the newest first.
        can_ask: whether the user is asked before anything runs.

    Raises:
        RequestError: the recipe that is there cannot follow what is asked for.
    """
    if there is None:
        return _restored(file, asked, launched)
    found = read(there)
    changes = list(_changes(found.asked, asked))
    if found.asked is None or found.is_edited:
        if changes:
            raise _refusal(file, found, asked, changes)
        return Choice("own", says=tuple(_on_edited(file, found, asked)))
    if not changes and _is_of(found.asked, asked):
        return Choice("kept", takes_hours=found.takes_hours)
    if changes and launched and not can_ask:
        raise _refusal(file, found, asked, changes)
    before = [old for old, _ in changes] or ["other images"]
    says = [f"{file} is written anew: it was for {', '.join(before)}"]
    if launched:
        says.append("trials that are done or saved stay; other settings are other trials")
    return Choice("new", says=tuple(says))


def _restored(file: str, asked: Asked, launched: Sequence[str]) -> Choice:
    for text in launched:
        found = read(text)
        is_asked = _is_of(found.asked, asked) and not list(_changes(found.asked, asked))
        if is_asked and not found.is_edited:
            says = f"{file} is that of an earlier launch, written here again"
            return Choice("restored", text, found.takes_hours, (says,))
    return Choice("new")


def _is_of(before: Asked | None, now: Asked) -> bool:
    """Return whether two are of the same images."""
    if before is None:
        return False
    same = before.digest[:_DIGITS] == now.digest[:_DIGITS]
    return same and before.dataset == now.dataset


def _changes(before: Asked | None, now: Asked) -> Iterator[tuple[str, str]]:
    """Yield the options that differ, before and now."""
    options = before.options if before else Asked("", "").options
    for name, text in now.options.items():
        if text != options[name]:
            yield options[name], text


def _on_edited(file: str, found: Written, asked: Asked) -> Iterator[str]:
    yield f"{file} is used as you wrote it" if found.asked is None else f"{file} is used as edited"
    if found.asked and not _is_of(found.asked, asked):
        yield f"note: {file} was written for other images; what it says of their number may be old"


def _refusal(
    file: str, found: Written, asked: Asked, changes: Sequence[tuple[str, str]]
) -> RequestError:
    now = ", ".join(text for _, text in changes)
    if found.asked is None:
        return RequestError(
            f"it is no recipe that `continue` wrote, and {now} cannot change it",
            where=file,
            fix=f"leave {now} out; for a recommended recipe take another --name, or move this one",
        )
    before = ", ".join(text for text, _ in changes)
    why = "was edited" if found.is_edited else "was launched"
    return RequestError(
        f"it {why}, and was written for {before}; this command has {now}",
        where=file,
        fix=f"to go on with it, ask for {before}; for a new recipe delete it, or take another "
        f"--name than {asked.dataset}",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
