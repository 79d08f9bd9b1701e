"""Shares of a split by name: `real/train@10%` is a tenth of the images of `real/train`.

Which images these are follows from the seed of the stage and from their keys, and smaller shares
are parts of larger ones; see `datasets.fewshot.percent`.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

SIGN = "%"
ALLOWED = "more than 0%, up to 100%, such as 10% or 0.5%"


def is_fraction(text: str) -> bool:
    """Return whether the part of a name after its @ is a share, and not the name of a subset."""
    return text.endswith(SIGN)


def percent(text: str) -> float:
    """Return the percentage that a share such as 10% names.

    Raises:
        ValueError: it is none, or could be written shorter: equal shares have equal names.
    """
    try:
        number = Decimal(text.removesuffix(SIGN))
    except InvalidOperation:
        number = Decimal(0)
    if not is_fraction(text) or not number.is_finite() or not 0 < number <= 100:
        raise ValueError(f"{text} is no share of the images: it must be {ALLOWED}")
    if text != (short := f"{number.normalize():f}{SIGN}"):
        raise ValueError(f"{text} is to be written as {short}")
    return float(number)


def count(images: int, share_percent: float) -> int:
    """Return how many of some images a share holds: rounded, and at least one."""
    return max(1, round(images * share_percent / 100))
