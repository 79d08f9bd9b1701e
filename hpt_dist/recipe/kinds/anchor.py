"""The settings of an anchor, which holds features near those that a pretraining starts from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hpt_dist.recipe.settings import LATER, Spec


class Anchor(Spec):
    """What is added to the loss: weight (1 - cosine), after GFM (arXiv 2302.04476)."""

    weight: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="of 1 - cosine between the features of both networks, beside the method's "
        "loss; 0 only measures it",
    )

    def in_words(self, start: str) -> str:
        """Return what it adds to the loss and to the work.

        Args:
            start: the stage whose weights are held on to.
        """
        held = f"loss + {self.weight:g} x (1 - cosine to the features of {start})"
        if not self.weight:
            held = f"1 - cosine to the features of {start} is measured, and nothing held"
        return f"anchor: {held}, one more forward pass"


ANCHOR: Any = Field(
    None,
    description="holds the backbone's features near those of the weights that the stage starts "
    "from; null is no anchor",
    json_schema_extra=LATER,
)
