"""How a source was understood, in words for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hpt_dist.sources.sample import FileSource, Sample, Source

_CLASSES_SHOWN = 6
_MISSING_SHOWN = 3
_EVALUATED = ("train", "val", "test")
_DOUBTFUL = {
    "none",
    "unknown",
    "na",
    "nan",
    "nil",
    "null",
    "undefined",
    "missing",
    "unlabeled",
    "-1",
}


def in_words(source: Source) -> list[str]:
    """Return lines about the layout, the classes, the splits, and what was set aside."""
    counts: dict[str, Counter[int | None]] = {}
    for sample in source.samples():
        counts.setdefault(sample.split, Counter()).update(_labels(sample))
        counts[sample.split][_IMAGE] += 1
    notes = source.notes if isinstance(source, FileSource) else ()
    return [*notes, _classes(source.classes), *_splits(source, counts), *_gaps(source, counts)]


_IMAGE, _UNLABELLED = None, -1


def _labels(sample: Sample) -> tuple[int, ...]:
    if sample.label is None:
        return (_UNLABELLED,)
    return (sample.label,) if isinstance(sample.label, int) else sample.label


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return "no labels"
    words = f"{len(classes):,} class{'es' if len(classes) > 1 else ''}: {_listed(classes)}"
    doubtful = [name for name in classes if name.casefold() in _DOUBTFUL]
    return f"{words}; classes, as others: {', '.join(doubtful)}" if doubtful else words


def _listed(names: Sequence[str], shown: int = _CLASSES_SHOWN) -> str:
    if len(names) <= shown:
        return ", ".join(names)
    return f"{', '.join(names[: shown - 1])}, ... {names[-1]}"


def _splits(source: Source, counts: dict[str, Counter[int | None]]) -> list[str]:
    """Return a line for each split, and how the splits came about."""
    lines = []
    for split, count in sorted(counts.items(), key=lambda item: _rank(item[0])):
        parts = [
            f"{name} {count[label]:,}"
            for label, name in enumerate(source.classes)
            if count[label] and len(source.classes) <= _CLASSES_SHOWN
        ]
        if count[_UNLABELLED] and source.classes:
            parts.append(f"without a label {count[_UNLABELLED]:,}")
        images = f"{split}: {count[_IMAGE]:,} image{'s' if count[_IMAGE] != 1 else ''}"
        lines.append(f"{images} ({', '.join(parts)})" if parts else images)
    return [*lines, f"rule: {source.rule}"]


def _rank(split: str) -> tuple[int, str]:
    return (_EVALUATED.index(split) if split in _EVALUATED else len(_EVALUATED), split)


def _gaps(source: Source, counts: dict[str, Counter[int | None]]) -> list[str]:
    """Return lines about splits without images, and classes that a split lacks."""
    expected = _EVALUATED if source.classes else ()  # nothing is evaluated without labels
    lines = [f"{split} has no image" for split in expected if split not in counts]
    for split in _EVALUATED:
        missing = [
            name
            for label, name in enumerate(source.classes)
            if split in counts and not counts[split][label]
        ]
        if len(missing) > 1 and len(missing) == len(source.classes):
            lines.append(f"{split} has no image of any class")
        elif missing:
            listed = _listed(missing, _MISSING_SHOWN)
            lines.append(f"{split} has no image of some classes: {listed} ({len(missing):,})")
    return lines
