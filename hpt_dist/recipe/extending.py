"""`extends: other.yaml`: a recipe says what differs from another one, and takes the rest from it.

Mappings merge key by key, and anything else that a recipe writes takes the place of what it
extends. Each key keeps the file and line where it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpt_dist.errors import RequestError
from hpt_dist.recipe import shipped, yaml_document
from hpt_dist.recipe.figures import FIGURES
from hpt_dist.recipe.yaml_document import Document, KeyPath
from hpt_dist.recipe.yaml_values import listed, shown

KEY = "extends"
MOST_FILES = 5  # of a recipe: whoever reads it has to read all of them
ALLOWED = "the path of a YAML file, from this file's folder, or the name of a shipped recipe"
_SWEEPS = ("sweep", "choose")
_OWN = "name"  # a recipe's launches go by it


def read(path: Path, environment: Mapping[str, str]) -> Document:
    """Read a recipe with all that it extends; problems are noted, each at its file and line.

    Args:
        path: the file.
        environment: what `${NAME}` and `${NAME:-default}` refer to.

    Raises:
        RequestError: the file itself cannot be read.
    """
    return extended(yaml_document.read(path, environment), environment)


def extended(document: Document, environment: Mapping[str, str]) -> Document:
    """Return a recipe over what it extends; see `read`."""
    files = _generations(document, environment)
    below = files.pop()
    while files:
        below = _over(below, files.pop())
    return below


def _generations(document: Document, environment: Mapping[str, str]) -> list[Document]:
    """Return a recipe and the files that it extends, nearest first."""
    files = [document]
    seen = [_place(Path(document.file))]
    while (base := _base(files[-1])) is not None:
        last = files[-1]
        if _place(base) in seen:
            _refuse(last, f"{base} extends, in the end, itself")
            break
        if len(files) == MOST_FILES:
            _refuse(last, f"more than {MOST_FILES} files extend each other")
            break
        try:
            found = yaml_document.read(base, environment, values=last.values)
        except RequestError as error:
            what = f"{error.problem.what} ({error.problem.where})"
            _refuse(last, what, ALLOWED, error.problem.fix)
            break
        if not isinstance(found.tree, dict) and not found.problems:
            _refuse(last, f"{base} is no recipe: it holds no settings by name")
            break
        files.append(found)
        seen.append(_place(base))
    return files


def _refuse(document: Document, what: str, allowed: str = "", fix: str = "") -> None:
    """Note why what a recipe extends cannot be had: then nobody knows what else it lacks."""
    document.problem((KEY,), what, allowed, fix)
    document.unread.add(())


def _place(path: Path) -> str:
    try:
        return str(path.resolve())
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return str(path)


def _base(document: Document) -> Path | None:
    """Return the file that a document extends, taken out of its tree; None without one."""
    if not isinstance(document.tree, dict) or KEY not in document.tree:
        return None
    path, value = (KEY,), document.tree.pop(KEY)
    if path in document.unread:
        document.unread.add(())
    elif document.used.pop(path, None):
        _refuse(document, "no variable says what a recipe extends", ALLOWED, "write it out")
    elif not isinstance(value, str) or not value:
        _refuse(document, f"{KEY} names one other recipe", ALLOWED)
    elif value.endswith((".yaml", ".yml")):
        return Path(document.file).parent / value
    elif value in (known := shipped.names()):
        return shipped.file_of(value)
    else:
        hint = document.nearest(value, known)
        _refuse(document, f"there is no recipe {shown(value)}", ALLOWED, hint)
    return None


def _over(base: Document, over: Document) -> Document:
    """Return a document over the one that it extends; what `base` holds is used up."""
    merge = _Merge(base, over)
    tree = None
    if isinstance(base.tree, dict) and isinstance(over.tree, dict):
        base.tree.pop(_OWN, None)
        merge.put((), base.tree, over.tree)
        tree = base.tree
    # Otherwise one of them is no YAML, which is noted.

    def kept(path: KeyPath) -> bool:
        return not any(path[:length] in merge.replaced for length in range(1, len(path) + 1))

    merged = Document(
        over.file,
        tree,
        places={path: one for path, one in base.places.items() if kept(path)} | over.places,
        used={path: one for path, one in base.used.items() if kept(path)} | over.used,
        unread={path for path in base.unread if kept(path)} | over.unread,
        left_out=base.left_out + over.left_out,
        text=over.text,
        options=over.options,
        bases=(base.file, *base.bases),
        values=base.values,
    )
    for problem in (*over.problems, *base.problems):
        merged.note(problem)
    return merged


class _Merge:
    """Puts the plain data of one document over another's; notes problems, and what is replaced."""

    def __init__(self, base: Document, over: Document) -> None:
        self._base, self._over = base, over
        self.replaced: set[KeyPath] = {(_OWN,)}

    def put(self, path: KeyPath, under: dict[str, Any], over: dict[str, Any]) -> None:
        """Put a mapping over another one, which is changed."""
        for key, value in over.items():
            here, before = (*path, key), under.get(key)
            if value is None and _is_entry(here) and here not in self._over.unread:
                self._leave_out(here, under)
            elif isinstance(value, dict) and isinstance(before, dict) and not _is_own(here, value):
                if path == ("stages",):
                    self._check_kind(here, before, value)
                    self._settle(here, before, value)
                self.put(here, before, value)
            else:
                self.replaced.add(here)
                under[key] = value

    def _leave_out(self, path: KeyPath, under: dict[str, Any]) -> None:
        """Take out of a mapping what is null over it."""
        if path[-1] not in under:
            what = f"null leaves out what is extended, and there is no {shown(str(path[-1]))}"
            hint = self._over.nearest(str(path[-1]), under)
            self._over.problem(path, what, listed(under), hint)
        under.pop(str(path[-1]), None)
        self.replaced.add(path)

    def _check_kind(self, stage: KeyPath, under: dict[str, Any], over: dict[str, Any]) -> None:
        """Note a stage that becomes one of another kind: its settings would mean other things."""
        path = (*stage, "kind")
        before, now = under.get("kind"), over.get("kind")
        if now not in (None, before) and before is not None:
            what = f"{shown(str(stage[-1]))} is of kind {shown(str(before))} in "
            what += f"{self._base.place(path)}, and of kind {shown(str(now))} here"
            self._over.problem(path, what, fix="give the new stage another name")

    def _settle(self, stage: KeyPath, under: dict[str, Any], over: dict[str, Any]) -> None:
        """Take out of a stage what is written in another way over it: plainly, or in a sweep."""
        ours = {setting: place for place, setting in _written(over)}
        for place, setting in list(_written(under)):
            if ours.get(setting, place) != place:
                _take_out(under, place)
                self.replaced.add((*stage, *place))


def _written(stage: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield where a stage writes each of its settings, and the setting as sweeps call it."""
    for key, value in stage.items():
        if key not in _SWEEPS:
            yield from _leaves((key,), value)
        elif isinstance(value, dict):
            yield from (((key, axis), axis) for axis, one in value.items() if one is not None)


def _leaves(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    if not isinstance(value, dict):
        yield path, ".".join(map(str, path))
    else:
        for key, inner in value.items():
            yield from _leaves((*path, key), inner)


def _take_out(tree: dict[str, Any], path: KeyPath) -> None:
    """Take a value out of plain data, and what is then empty around it."""
    key = str(path[0])
    if len(path) > 1:
        _take_out(tree[key], path[1:])
    if len(path) == 1 or not tree[key]:
        del tree[key]


def _is_own(path: KeyPath, over: Mapping[str, Any]) -> bool:
    """Return whether a mapping is a figure of its own, which is no change of the one below."""
    return path == ("report",) and any(kind in over for kind in FIGURES)


def _is_entry(path: KeyPath) -> bool:
    """Return whether a key is one that a recipe makes up, which null leaves out."""
    is_named = len(path) == 2 and path[0] in ("stages", "datasets", "groups")
    is_axis = len(path) in (3, 4) and path[0] == "stages" and path[2] in _SWEEPS
    is_member = len(path) == 3 and path[0] == "groups"
    return is_named or is_axis or is_member
