"""How a file's entries fit a backbone's, to judge by their names, types and shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hpt_dist.errors import WeightsError
from hpt_dist.networks.backbones import Backbone
from hpt_dist.page import one_line
from hpt_dist.weights import adapt, dialects, encoders, values
from hpt_dist.weights.adapt import CLASS_TOKENS, Change, Positions, Shape
from hpt_dist.weights.encoders import Encoder
from hpt_dist.weights.headers import Entry

_NAMES_SHOWN = 4
_OTHER_LAYER = "is of a layer that the backbone has not"


@dataclass(frozen=True)
class MatchReport:
    """How a file's entries fit a backbone's.

    Not counted are absent counters and tables of indices, which nothing learns: older files lack
    `num_batches_tracked`, and no default batch norm reads it.

    Args:
        matched: names with the same shape on both sides, and the adapted ones.
        missing: the backbone's names that the file lacks.
        unexpected: the file's names that neither the backbone nor any known head has.
        misshapen: `name is file-shape, the backbone's is backbone-shape` where the two differ.
        recognised: the project that wrote the file, the chosen encoder, and its place in the file.
        aside: entries left out on purpose, as `place (number of entries)`: classifiers and
            projection heads, other encoders, queues.
        adapted: `name: what was done` where an entry was resampled, repeated or summed.
        layers: the file's names that belong to layers which the backbone has not.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    recognised: str = ""
    aside: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The matched share of the backbone's entries, 0 to 1."""
        return len(self.matched) / self._expected

    @property
    def _expected(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.misshapen)

    @property
    def misfits(self) -> tuple[str, ...]:
        """What is refused unless it is forced, a phrase for each entry."""
        missing = (f"{name} is missing" for name in self.missing)
        return (*self.misshapen, *missing, *(f"{name} {_OTHER_LAYER}" for name in self.layers))

    @property
    def lines(self) -> list[str]:
        """What an import does with the file: a line for each fact, and for each forced entry."""
        random = "forced, stays random: "
        forced = [f"{random}{phrase}" for phrase in self.misshapen]
        forced += [f"{random}{name} is missing" for name in self.missing]
        forced += [f"forced, left out: {name} {_OTHER_LAYER}" for name in self.layers]
        return [*self._facts(), *forced, *self._rest()]

    def _facts(self) -> Iterator[str]:
        yield f"{len(self.matched)} of {self._expected} entries match ({self.share:.1%})"
        if self.recognised:
            yield f"recognised: {self.recognised}"
        yield from (f"adapted: {line}" for line in self.adapted)

    def _rest(self) -> Iterator[str]:
        for title, names in (("unexpected", self.unexpected), ("left aside", self.aside)):
            if names:
                yield f"{title}: {first_of(names, ', ')}"

    def __str__(self) -> str:
        first, *lines = self._facts()
        kinds = {
            "missing": self.missing,
            "misshapen": self.misshapen,
            "of other layers": self.layers,
        }
        lines += [f"{title}: {first_of(names, ', ')}" for title, names in kinds.items() if names]
        return "\n  ".join([first, *lines, *self._rest()])


@dataclass(frozen=True)
class Taken:
    """What an entry of the backbone is made of.

    Args:
        parts: the file's entries, joined along their first dimension.
        change: what brings them to the backbone's shape; None if they have it.
    """

    parts: tuple[str, ...]
    change: Change | None = None


@dataclass(frozen=True)
class Fit:
    """How a file's entries fit a backbone's.

    Args:
        report: for people.
        taken: by the backbone's name.
        place: of the chosen encoder in the file.
        rivals: what other encoders that fit as well would give, by their place.
        faults: entries whose type no weights have, and why.
    """

    report: MatchReport
    taken: Mapping[str, Taken]
    place: str
    rivals: Mapping[str, Mapping[str, Taken]]
    faults: Mapping[str, str]


def fit(entries: Mapping[str, Entry], backbone: Backbone, full_name: str, encoder: str = "") -> Fit:
    """Find a backbone among a file's entries, translate its names and compare types and shapes.

    Args:
        entries: of the file by full name.
        backbone: gives names, shapes and types.
        full_name: the backbone's, see `backbones.resolve`.
        encoder: which of several to take, see `encoders`; empty for the default.

    Raises:
        RequestError: there is no such encoder among them.
    """
    own = backbone.state_dict()
    known = dialects.dialects_of(full_name)
    at, others = encoders.find(entries, known, dialects.shapes(full_name), encoder)
    places = _placed(at, known)
    taken, missing, misshapen, faults = _compared(entries, own, places)
    rivals = [] if encoder else encoders.rivals(at, others)
    aside, unexpected, layers = encoders.split_rest(
        entries,
        {part for parts in places.values() for part in parts},
        at,
        others,
        set(backbone.classifier_names),
    )
    adapted = [f"{name}: {one.change}" for name, one in taken.items() if one.change]
    report = MatchReport(
        matched=tuple(taken),
        missing=tuple(missing),
        unexpected=tuple(map(one_line, unexpected)),
        misshapen=tuple(misshapen),
        recognised=str(at),
        aside=tuple(map(one_line, aside)),
        adapted=tuple(adapted),
        layers=tuple(map(one_line, layers)),
    )
    of_rivals = {one.place: _compared(entries, own, _placed(one, known))[0] for one in rivals}
    return Fit(report, taken, at.place, of_rivals, faults)


def require(found: Fit, entries: Mapping[str, Entry], full_name: str, where: str) -> None:
    """Refuse a file in which an entry of the backbone is missing, misshapen or of another layer.

    Raises:
        WeightsError: there is such an entry.
    """
    report = found.report
    if not report.misfits:
        return
    if report.matched:
        what = first_of(report.misfits, "; ")
    else:
        names = [one_line(name) for name in entries]
        what = f"none of its entries is in this file, which has {first_of(names, ', ')}"
    raise WeightsError(
        f"these weights do not fit {full_name}: {what}\n  {report}",
        where=where,
        allowed="every entry of the backbone in its shape; position embeddings are resampled, and "
        "the first convolution of a network for gray images is repeated",
        fix="name the backbone that the weights were made for; or set force: true, so that what "
        "does not fit stays random",
    )


def first_of(names: Sequence[str], between: str) -> str:
    """Return some names in one line, with the number of all."""
    more = f"{between}... {len(names)} in all" if len(names) > _NAMES_SHOWN else ""
    return between.join(names[:_NAMES_SHOWN]) + more


def _placed(at: Encoder, known: Mapping[str, dialects.Names]) -> dict[str, tuple[str, ...]]:
    """Return the file's names of each entry of the backbone."""
    return {
        name: tuple(at.prefix + part for part in parts) for name, parts in known[at.dialect].items()
    }


def _compared(
    entries: Mapping[str, Entry],
    own: Mapping[str, Tensor],
    places: Mapping[str, tuple[str, ...]],
) -> tuple[dict[str, Taken], list[str], list[str], dict[str, str]]:
    """Return what is taken, missing and misshapen, and what has a type that no weights have."""
    taken: dict[str, Taken] = {}
    missing, misshapen, faults = [], [], {}
    first = next((name for name, value in own.items() if value.dim() == 4), "")
    has_class = any(name in CLASS_TOKENS for name in own)
    for name, value in own.items():
        parts = [part for part in places.get(name, ()) if part in entries]
        if not parts or len(parts) < len(places[name]):
            # What nothing learns, counters and tables of indices, may be absent.
            if value.is_floating_point():
                missing.append(name)
            continue
        shapes, shape = [entries[part].shape for part in parts], tuple(value.shape)
        joined = _joined(shapes)
        counts = not value.is_floating_point() and math.prod(joined or (0,)) == value.numel() == 1
        change = None
        if joined != shape and not counts:
            change = adapt.change_of(name, joined, shape, first) if joined else None
            if change is None or (isinstance(change, Positions) and not change.suits(has_class)):
                given = " + ".join(str(list(one)) for one in shapes)
                misshapen.append(f"{name} is {given}, the backbone's is {list(shape)}")
                continue
        taken[name] = Taken(tuple(parts), change)
        for part in parts:
            if fault := values.wrong_type(entries[part].dtype, value):
                faults[one_line(part)] = fault
    return taken, missing, misshapen, faults


def _joined(shapes: Sequence[Shape]) -> Shape | None:
    """Return the shape of tensors joined along their first dimension; None if they do not fit."""
    first = shapes[0]
    if len(shapes) == 1:
        return first
    if not first or any(shape[1:] != first[1:] or not shape for shape in shapes):
        return None
    return (sum(shape[0] for shape in shapes), *first[1:])
