"""What a model answered wrongly, the most confident first, and which classes it confuses. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hpt_dist.trial.predictions_file import Answer, Facts

# Of several labels an image, a class is answered where its probability is above this.
_ANSWERED = 0.5
Kind = Literal["confusion", "false positive", "false negative"]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer about one image.

    Args:
        key: of the image.
        file: of the source; empty where it was not noted.
        kind: of one label an image "confusion"; of several a class that was answered and is not
            there, or is there and was not answered.
        true: the names of the image's classes.
        answered: the class that the mistake is about: the answer, or what was missed.
        probability: that the model gave to it.
        true_probability: that it gave to the image's class; None of several labels.
    """

    key: str
    file: str
    kind: Kind
    true: tuple[str, ...]
    answered: str
    probability: float
    true_probability: float | None = None

    @property
    def confidence(self) -> float:
        """How sure the model was of its mistake, 0 to 1."""
        missed = self.kind == "false negative"
        return 1 - self.probability if missed else self.probability


@dataclass(frozen=True)
class OfClass:
    """How a class fared.

    Args:
        name: of the class.
        images: that have it.
        right: of those, where it was answered.
        wrong: others, where it was answered.
        average_precision: of several labels; None of one, and where all images have it or none.
    """

    name: str
    images: int
    right: int
    wrong: int
    average_precision: float | None = None

    @property
    def share_right(self) -> float | None:
        """The share of its images where it was answered; None without an image."""
        return self.right / self.images if self.images else None


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused, of one label an image.

    Args:
        true: the class of some images.
        answered: another class, which was answered.
        images: how many images of the true class.
        share: of all of its images.
    """

    true: str
    answered: str
    images: int
    share: float


@dataclass(frozen=True)
class Mistakes:
    """All that a model answered wrongly on a split.

    Args:
        facts: of the split.
        images: how many it has.
        mistakes: the most confident first.
        classes: the worst first.
        pairs: the most frequent first; none of several labels.
    """

    facts: Facts
    images: int
    mistakes: tuple[Mistake, ...]
    classes: tuple[OfClass, ...]
    pairs: tuple[Pair, ...]

    def of_kind(self, kind: Kind, count: int) -> list[Mistake]:
        """Return the most confident mistakes of a kind."""
        return [one for one in self.mistakes if one.kind == kind][:count]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that there can be."""
        return ("false positive", "false negative") if self.facts.several else ("confusion",)

    def summary(self) -> str:
        """Return how many answers are wrong, in words."""
        where = f"{self.facts.dataset}/{self.facts.split}"
        if not self.facts.several:
            share = in_per_cent(len(self.mistakes) / self.images)
            return (
                f"{len(self.mistakes):,} of {self.images:,} images of {where} are answered "
                f"wrongly ({share})"
            )
        wrong, missed = (sum(one.kind == kind for one in self.mistakes) for kind in self.kinds)
        return (
            f"{self.images:,} images of {where}, of several labels: {wrong:,} false positives and "
            f"{missed:,} false negatives, where a class is answered above a probability of one half"
        )

    def as_json(self, count: int) -> dict[str, Any]:
        """Return it for `--json`, with so many mistakes of each kind."""
        return {
            "dataset": self.facts.dataset,
            "split": self.facts.split,
            "images": self.images,
            "wrong": len(self.mistakes),
            "mistakes": [asdict(one) for kind in self.kinds for one in self.of_kind(kind, count)],
            "classes": [asdict(one) for one in self.classes],
            "confused": [asdict(one) for one in self.pairs],
        }


def in_per_cent(share: float | None, decimals: int = 1) -> str:
    """Return a share of 1 in per cent: never 100 % of what is not all, or 0 % of what is some."""
    if share is None:
        return "-"
    step = 10.0 ** -(decimals + 2)
    sign = ""
    if 0 < share < step:
        sign, share = "<", step
    elif 1 - step < share < 1:
        sign, share = ">", 1 - step
    return f"{sign}{share:.{decimals}%}".replace("%", " %")


def of(facts: Facts, answers: Sequence[Answer]) -> Mistakes:
    """Return what was answered wrongly.

    Args:
        facts: of the split.
        answers: to all of its images.
    """
    found = [one for answer in answers for one in _mistakes(facts, answer)]
    # Where probabilities are both 1, that of the true class still tells which is the surer.
    found.sort(key=lambda one: (-one.confidence, one.true_probability or 0.0))
    pairs = () if facts.several else tuple(_pairs(facts, answers))
    return Mistakes(facts, len(answers), tuple(found), tuple(_classes(facts, answers)), pairs)


def _answered(facts: Facts, answer: Answer) -> tuple[int, ...]:
    """Return the classes that a model gave to an image."""
    if not facts.several:
        return answer.top[:1]
    pairs = zip(answer.top, answer.top_scores, strict=True)
    return tuple(one for one, score in pairs if score > _ANSWERED)


def _mistakes(facts: Facts, answer: Answer) -> Iterator[Mistake]:
    true = tuple(facts.classes[one] for one in answer.labels)
    given = _answered(facts, answer)
    of_true = None if facts.several else answer.label_scores[0]

    def mistake(kind: Kind, one: int, probability: float) -> Mistake:
        name = facts.classes[one]
        return Mistake(answer.key, answer.file, kind, true, name, probability, of_true)

    for one, score in zip(answer.top, answer.top_scores, strict=True):
        if one in given and one not in answer.labels:
            yield mistake("false positive" if facts.several else "confusion", one, score)
    for one, score in zip(answer.labels, answer.label_scores, strict=True):
        if facts.several and one not in given:
            yield mistake("false negative", one, score)


def _classes(facts: Facts, answers: Sequence[Answer]) -> list[OfClass]:
    images, right, wrong = Counter[int](), Counter[int](), Counter[int]()
    for answer in answers:
        images.update(answer.labels)
        for one in _answered(facts, answer):
            (right if one in answer.labels else wrong)[one] += 1
    precisions = facts.average_precisions or (None,) * len(facts.classes)
    found = [
        OfClass(name, images[c], right[c], wrong[c], precision)
        for c, (name, precision) in enumerate(zip(facts.classes, precisions, strict=True))
    ]

    def goodness(one: OfClass) -> float:
        value = one.average_precision if facts.several else one.share_right
        return 2.0 if value is None else value

    return sorted(found, key=goodness)


def _pairs(facts: Facts, answers: Sequence[Answer]) -> Iterator[Pair]:
    images = Counter(answer.labels[0] for answer in answers)
    confused = Counter(
        (answer.labels[0], answer.top[0]) for answer in answers if answer.labels[0] != answer.top[0]
    )
    for (true, other), count in sorted(confused.items(), key=lambda one: (-one[1], one[0])):
        names = facts.classes[true], facts.classes[other]
        yield Pair(*names, count, count / images[true])
