"""Groups: what stages share as one axis, such as the datasets of a study.

`groups: {dataset: [birds, cars]}` names members, and `<dataset>` in a stage stands for each of them
in turn. A member with settings of its own, `{chain: {xray: {source: chexpert, steps: 500}}}`, gives
them as `<chain.source>`; `<chain>` is its name.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hpt_dist.recipe.yaml_document import Document, KeyPath
from hpt_dist.recipe.yaml_values import listed, shown

KEY = "groups"
_MOST = 1000  # groups, and members of each
_MOST_READINGS = 10_000  # of a text, as many as a recipe may have trials
_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.%+-]{0,99}")
_REFERENCE = re.compile(r"<([A-Za-z_][A-Za-z0-9_]*)(?:\.([A-Za-z_][A-Za-z0-9_]*))?>")
_ALLOWED = "NAME: [member, ...], or NAME: {member: {setting: value}, ...}"
_WORDS = ("seed", "init", "zip")  # axes with a meaning of their own

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "what stages share as one axis: <NAME> in a stage stands for each member of it, "
    "and <NAME.SETTING> for a setting of each",
    "additionalProperties": {
        "oneOf": [
            {"type": "array", "minItems": 1},
            {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
            {"type": "null"},
        ]
    },
}

Value = Any
Fields = Mapping[str, Value]  # of a member; "" is its name or value


@dataclass(frozen=True)
class Groups:
    """The groups of a recipe: members by name, and the settings of each.

    Args:
        members: by group and member; of a list, each member has itself under "".
    """

    members: Mapping[str, Mapping[str, Fields]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.members

    def used(self, tree: Any) -> dict[str, KeyPath]:
        """Return the groups that plain data names, each with the first place."""
        found: dict[str, KeyPath] = {}
        for path, text in _texts(tree, ()):
            for name, _ in _REFERENCE.findall(text):
                if name in self.members:
                    found.setdefault(name, path)
        return found

    def filled(self, tree: Any, axes: Mapping[str, Any]) -> Any:
        """Return plain data with the settings of members in place of what names them.

        Args:
            tree: plain data.
            axes: a member by the name of its group; other axes mean nothing here.
        """
        if isinstance(tree, dict):
            return {key: self.filled(value, axes) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.filled(value, axes) for value in tree]
        if not isinstance(tree, str):
            return tree
        if (whole := _REFERENCE.fullmatch(tree)) and whole[1] in axes and whole[1] in self.members:
            return self._value(whole, axes)

        def text(match: re.Match[str]) -> str:
            known = match[1] in self.members and match[1] in axes
            return str(self._value(match, axes)) if known else match[0]

        return _REFERENCE.sub(text, tree)

    def readings(self, text: str) -> list[str]:
        """Return all texts that one stands for, over the members of what it names."""
        names = self.used(text)
        every = itertools.product(*(self.members[name] for name in names))
        members = itertools.islice(every, _MOST_READINGS)
        points = (dict(zip(names, one, strict=True)) for one in members)
        return [str(self.filled(text, point)) for point in points]

    def _value(self, match: re.Match[str], axes: Mapping[str, Any]) -> Value:
        member = self.members[match[1]][str(axes[match[1]])]
        return member.get(match[2] or "", match[0])  # a setting that is not there is noted


def labelled(axes: Mapping[str, Any]) -> dict[str, Any]:
    """Return axes as trials show them: a value that names a member is without its brackets."""
    return {
        axis: _REFERENCE.sub(lambda found: found[0][1:-1], value)
        if isinstance(value, str)
        else value
        for axis, value in axes.items()
    }


def expanded(document: Document) -> tuple[Document, Groups]:
    """Return a recipe in which each stage sweeps over the groups that it names, and the groups.

    Args:
        document: notes the problems; its own tree stays as it is.
    """
    if not isinstance(document.tree, dict) or KEY not in document.tree:
        return document, Groups()
    found = replace(document, tree=copy.deepcopy(document.tree))
    written = found.tree.pop(KEY)
    groups = _checked(found, written)
    faulty = set(written) - set(groups.members) if isinstance(written, dict) else set()
    stages = found.tree.get("stages")
    for stage, raw in stages.items() if isinstance(stages, dict) else ():
        if isinstance(raw, dict):
            _check_references(found, groups, ("stages", stage), raw, faulty)
            _sweep(found, groups, ("stages", stage), raw)
    return found, groups


def _sweep(document: Document, groups: Groups, path: KeyPath, raw: dict[str, Any]) -> None:
    """Make the groups that a stage names axes of its sweep, the first ones."""
    used, own = groups.used(raw), raw.get("sweep", {})
    for word in ("sweep", "choose"):
        axes = raw.get(word)
        for name in axes if isinstance(axes, dict) else ():
            if name in groups:
                what = f"{name} is a group of this recipe, and a setting here"
                document.problem((*path, word, name), what, fix="give the group another name")
    if not used or not isinstance(own, dict):
        return
    for name, place in used.items():
        document.places.setdefault((*path, "sweep", name), document.place((*path, *place)))
    raw["sweep"] = {name: list(groups.members[name]) for name in used} | own


def _check_references(
    document: Document, groups: Groups, path: KeyPath, raw: Any, faulty: Collection[str]
) -> None:
    for inner, text in _texts(raw, path):
        for name, setting in _REFERENCE.findall(text):
            if name in faulty:
                document.unread.add(inner)  # what is wrong with the group is noted
            elif name not in groups:
                hint = document.nearest(name, groups.members)
                what = f"there is no group {shown(name)}"
                document.problem(inner, what, listed(groups.members), hint)
            elif inner[2] in ("kind", "init") or inner[2:4] == ("sweep", "init"):
                what = f"<{name}> cannot say which {inner[2] if inner[2] != 'sweep' else 'init'}"
                document.problem(inner, what, fix="a stage is one kind, and starts from stages")
            else:
                known = next(iter(groups.members[name].values()))
                if setting and setting not in known:
                    hint = document.nearest(setting, known)
                    what = f"members of {name} have no {shown(setting)}"
                    document.problem(inner, what, listed(filter(None, known)), hint)


def _checked(document: Document, raw: Any) -> Groups:
    """Return the groups without fault; every fault is noted."""
    path: KeyPath = (KEY,)
    if not isinstance(raw, dict) or len(raw) > _MOST:
        document.problem(path, f"groups are a mapping of up to {_MOST}", _ALLOWED)
        return Groups()
    found = {}
    for name, members in raw.items():
        if not _GROUP.fullmatch(name) or name in _WORDS:
            allowed = f"letters, digits and '_', no digit first, and not {', '.join(_WORDS)}"
            document.problem((*path, name), f"{shown(name)} cannot name a group", allowed)
        elif is_whole := _members(document, (*path, name), members):
            found[name] = is_whole
    return Groups(found)


def _members(document: Document, path: KeyPath, raw: Any) -> dict[str, Fields]:
    """Return the members of a group; empty where they have a fault, which is noted."""
    if not isinstance(raw, list | dict) or not 0 < len(raw) <= _MOST:
        document.problem(path, f"a group has 1 to {_MOST} members", _ALLOWED)
        return {}
    members: dict[str, Fields]
    if isinstance(raw, list):
        members = {_name(value): {"": value} for value in raw}
        if any(isinstance(one, list | dict | None) for one in raw):
            document.problem(path, "each member of a list is one value", _ALLOWED)
            return {}
        if len(members) < len(raw):
            document.problem(path, "a member stands twice", fix="keep one of them")
            return {}
    else:
        members = {name: {"": name, **one} for name, one in raw.items() if isinstance(one, dict)}
    faults = list(_member_faults(raw, members))
    for inner, what, allowed in faults:
        document.problem((*path, *inner), what, allowed)
    return {} if faults else members


def _member_faults(raw: Any, members: Mapping[str, Fields]) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield what is wrong with members: where, what, and what is allowed."""
    first = next(iter(members.values()), {})
    for number, name in enumerate(raw if isinstance(raw, dict) else members):
        place: KeyPath = (name,) if isinstance(raw, dict) else (number,)
        if not _MEMBER.fullmatch(name):
            yield place, f"{shown(name)!r} cannot name a member", "letters, digits and ._%+-"
        elif name not in members:
            yield place, f"{name} has no settings", "{setting: value}"
        elif members[name].keys() != first.keys():
            yield place, f"{name} has other settings than the first", listed(filter(None, first))
        else:
            for key, value in members[name].items():
                items = value if isinstance(value, list) else [value]
                if any(isinstance(one, list | dict) for one in items) or "<" in str(value):
                    yield (*place, key), f"{key} is one value, or a list of values", ""
                elif key and not _GROUP.fullmatch(key):
                    yield (*place, key), f"{shown(key)} cannot be a setting here", "letters, _"


def _name(value: Any) -> str:
    """Return the name of a member that stands in a list: how the value is written."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(tree: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text of plain data with its place."""
    if isinstance(tree, str):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _texts(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _texts(value, (*path, number))
