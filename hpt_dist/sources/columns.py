"""Which column of a list holds the path, the label, the split and the group of an image.

Columns are found by the names that people and other tools give them, in any order and case; others
are not read. Where two columns may be meant, or one that is not read may hold the labels, nothing
is guessed: `--columns label=NAME` decides, and `--columns label=` says that there is none.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from hpt_dist.errors import RequestError, nearest
from hpt_dist.sources.sample import printable
from hpt_dist.sources.split_names import split_of_cell

OPTION = "--columns"
ROLES = ("path", "label", "labels", "split", "group")
LABELS = ("label", "labels")

_NAMES = {
    "path": """
        path paths file files filename filenames filepath filepaths file_name file_names file_path
        image images img imgs image_path image_file image_name image_filename image_filepath
        img_path img_file img_name img_filename imagepath imagename image_index relative_path
        picture photo
    """,
    "label": """
        label class category target label_name class_name classname category_name target_name
        class_label
    """,
    "labels": "labels classes categories targets tags",
    "split": "split splits data_split dataset_split split_name",
    "group": "group groups group_id group_name",
}
_ROLE_OF = {name: role for role, names in _NAMES.items() for name in names.split()}
# Such a column is the split if its cells name splits; it may as well number folds.
_PERHAPS_SPLIT = {"subset", "partition", "fold", "set", "dataset", "phase", "usage"}
# Parts of a name under which splits may be meant.
_SPLIT_WORDS = {"split", "train", "training", "test", "testing", "val", "validation"}
# Of a column that is not read: its images resemble each other.
_PERHAPS_GROUP = re.compile(
    r"(?:patient|subject|person|scene|video|case|animal|specimen|plot|site|location)(?:_?id)?"
)
# Parts of a name under which labels may be meant.
_PERHAPS_LABEL = {"label", "labels", "class", "classes", "category", "target", "y", "gt", "truth"}
_PERHAPS_LABEL |= {"species", "breed", "diagnosis", "dx", "finding", "findings", "tag", "tags"}
# Facts about an image that repeat, and yet are no labels.
_FACTS = """
    width height w h size bytes depth channels format mode mime url source license licence author
    date time datetime timestamp year month day lat latitude lon longitude index id
    unnamed text caption description prompt title comment notes camera device model md5 sha256 hash
"""
_NO_LABEL = {*_FACTS.split(), *_PERHAPS_SPLIT}
_MISSPELT = 0.75
_SHOWN = 200


@dataclass(frozen=True)
class Columns:
    """The columns of a list.

    Args:
        names: of the column of each role, as the list writes them.
        others: those that are not read.
    """

    names: Mapping[str, str]
    others: tuple[str, ...]

    @property
    def label(self) -> str:
        """The role of the labels: `label`, `labels`, or empty without any."""
        return next((role for role in LABELS if role in self.names), "")

    @property
    def split_is_certain(self) -> bool:
        """Whether the name of the column of splits means nothing else."""
        return _plain(self.names.get("split", "")) not in _PERHAPS_SPLIT


def parse(text: str) -> dict[str, str]:
    """Return the column of each role that `--columns` names; an empty one is not to be read.

    Args:
        text: such as `path=file,label=species,group=`; quotes around a part with a comma in it.

    Raises:
        RequestError: a part is no role and a column.
    """
    chosen: dict[str, str] = {}
    for part in next(csv.reader([text], skipinitialspace=True), []):
        role, equals, name = part.partition("=")
        role = role.strip()
        if role not in ROLES or not equals or role in chosen:
            what = "is there twice" if role in chosen else "names no column"
            raise RequestError(
                f"{part!r} {what}",
                where=OPTION,
                allowed=f"{', '.join(f'{one}=COLUMN' for one in ROLES)}, joined by commas; "
                "label= reads no labels",
                fix=nearest(role, ROLES),
            )
        chosen[role] = name.strip()
    if chosen.get("label") and chosen.get("labels"):
        raise RequestError("label and labels in one list", where=OPTION, fix="leave out one")
    return chosen


def find(header: Sequence[str], chosen: Mapping[str, str], where: str) -> Columns:
    """Return which column plays which role.

    Args:
        header: the names of all columns.
        chosen: see `parse`.
        where: the list, and its line.

    Raises:
        RequestError: a column is missing or there twice, or two columns may play one role.
    """
    names = {role: _named(name, header, role, where) for role, name in chosen.items() if name}
    _refuse_twice(header, where)
    free = [one for one in header if one not in names.values()]
    for role in ROLES:
        roles = LABELS if role in LABELS else (role,)
        if not any(one in chosen or one in names for one in roles):
            found = [one for one in free if _ROLE_OF.get(_plain(one)) in roles]
            if role == "split" and not found:
                found = [one for one in free if _plain(one) in _PERHAPS_SPLIT]
            if len(found) > 1:
                _ask(found, role, where)
            if found:
                names[_ROLE_OF.get(_plain(found[0]), role)] = found[0]
    return Columns(names, tuple(one for one in header if one not in names.values()))


def known(header: Sequence[str], chosen: Mapping[str, str]) -> tuple[bool, int]:
    """Return whether one of the names is that of a path, and how many of them are known."""
    roles = {_ROLE_OF.get(_plain(one), "") for one in header}
    wanted = {_plain(one): role for role, one in chosen.items()}
    roles |= {wanted.get(_plain(one), "") for one in header}
    return "path" in roles, len(roles - {""})


def refuse_no_path(header: Sequence[str], where: str) -> NoReturn:
    """Raise for a list without a column of paths."""
    looks = [one for one in header if _plain(one) not in _NO_LABEL]
    close = next((one for one in looks if _is_near(_plain(one), _names_of("path"))), "")
    raise RequestError(
        f"no column path or image; its columns are {_listed(header)}",
        where=where,
        allowed="a column path (or image, file_name, filename, ...), and label, labels, split, "
        "group; others are not read",
        fix=f"say {OPTION} path={close or 'NAME'}, such as {OPTION} path=NAME,label=NAME; or write "
        "these names into the first line",
    )


def refuse_overlooked(
    columns: Columns, chosen: Mapping[str, str], where: str, values: Mapping[str, Collection[str]]
) -> None:
    """Raise where a column that is not read probably holds the labels or the splits.

    Args:
        columns: those of the list.
        chosen: see `parse`.
        where: the list.
        values: of columns that are not read, the distinct ones where they repeat.

    Raises:
        RequestError: so it is.
    """
    if "split" not in columns.names and "split" not in chosen:
        for one in columns.others:
            name = _plain(one)
            if _is_near(name, {"split"}) or set(name.split("_")) & _SPLIT_WORDS:
                what = f"no column of splits, but {one!r}; did you mean split?"
                raise _overlooked(one, "split", where, what)
    if columns.label or any(role in chosen for role in LABELS):
        return
    for one in columns.others:
        name = _plain(one)
        if _is_near(name, {"label", "labels"}):
            raise _overlooked(
                one, "label", where, f"no column of labels, but {one!r}; did you mean label?"
            )
        if set(name.split("_")) & _PERHAPS_LABEL:
            raise _overlooked(one, "label", where, f"no column of labels, but {one!r}")
    likely = [one for one in columns.others if values.get(one) and _may_be_label(_plain(one))]
    if likely:
        examples = ", ".join(printable(value) for value in sorted(values[likely[0]])[:3])
        what = f"no column of labels, but {_listed(likely)} may hold them ({likely[0]}: {examples})"
        if len(likely) > 1 and all(set(values[one]) <= {"0", "1"} for one in likely):
            what += "; a column for each class is not read: join the names of an image's classes "
            what += "by | in one column labels"
        raise _overlooked(likely[0], "label", where, what)


def _may_be_label(name: str) -> bool:
    return name not in _NO_LABEL and not _PERHAPS_GROUP.fullmatch(name)


def in_words(columns: Columns) -> list[str]:
    """Return how the columns are read, in lines for the terminal."""
    read = ", ".join(
        role if role == name else f"{role} from {printable(name)}"
        for role, name in columns.names.items()
    )
    lines = [f"columns: {read}"]
    if columns.others:
        lines.append(f"columns that are not read: {_listed(columns.others)}")
    if "group" not in columns.names:
        perhaps = [one for one in columns.others if _PERHAPS_GROUP.fullmatch(_plain(one))]
        if perhaps:
            words = f"images of one {perhaps[0]} may lie in several splits"
            lines.append(f"{words}; {OPTION} group={perhaps[0]} keeps them in one")
    return lines


def name_splits(cells: Iterable[str]) -> bool:
    """Return whether most cells name splits."""
    named = others = 0
    for cell in cells:
        if cell and split_of_cell(cell):
            named += 1
        elif cell:
            others += 1
    return named > others


def _plain(name: str) -> str:
    """Return a name in small letters, its words joined by `_`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\W_]+", "_", spaced.casefold()).strip("_")


def _names_of(role: str) -> set[str]:
    return {name for name, other in _ROLE_OF.items() if other == role}


def written(name: str, header: Sequence[str]) -> str:
    """Return a column as the header writes it, or an empty text for one that is not in it."""
    found = [one for one in header if _plain(one) == _plain(name)]
    return name if name in header else found[0] if len(found) == 1 else ""


def _named(name: str, header: Sequence[str], role: str, where: str) -> str:
    if found := written(name, header):
        return found
    raise RequestError(
        f"no column is called {name!r}, as {OPTION} {role}={name} says",
        where=where,
        allowed=_listed(header),
        fix=nearest(name, header),
    )


def _refuse_twice(header: Sequence[str], where: str) -> None:
    twice = next((one for one in header if header.count(one) > 1 and _plain(one) in _ROLE_OF), None)
    if twice is not None:
        raise RequestError(
            f"two columns have one name; its columns are {_listed(header)}",
            where=where,
            fix="rename or remove one of them",
        )


def _ask(found: Sequence[str], role: str, where: str) -> NoReturn:
    meant = "labels" if role in LABELS else role
    what = f"{' and '.join(map(printable, found))} may each be the {meant}"
    choices = (f"{_ROLE_OF.get(_plain(one), role)}={printable(one)}" for one in found)
    raise RequestError(
        "label and labels in one list" if {*found} == {*LABELS} else what,
        where=where,
        allowed=f"one column of the {meant}",
        fix=f"say {OPTION} {' or '.join(choices)}",
    )


def _overlooked(name: str, role: str, where: str, what: str) -> RequestError:
    name = printable(name)
    none = f"{OPTION} {role}= to read the images without {'labels' if role == 'label' else 'it'}"
    return RequestError(
        what,
        where=where,
        allowed="label, class, category, target or labels" if role == "label" else "split",
        fix=f"say {OPTION} {role}={name}; or {none}",
    )


def _is_near(name: str, known: Collection[str]) -> bool:
    return bool(difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELT))


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(printable(one) or "(no name)" for one in names)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
