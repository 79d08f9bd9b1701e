"""How many examples a property is tried with; tests/conftest.py has the two profiles."""

from __future__ import annotations

from hypothesis import settings

USUAL = 50


def few(count: int) -> settings:
    """Return the settings of a property whose examples are dear.

    Args:
        count: of examples in `make test`; `make test-deep` multiplies it as all others.
    """
    return settings(max_examples=count * settings().max_examples // USUAL)
