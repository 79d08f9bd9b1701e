"""hpt-dist schema."""

from __future__ import annotations

from hpt_dist.cli import console
from hpt_dist.recipe import file


def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    Editors complete and check recipes with it.

    \b
    Example:
      hpt-dist schema > recipe.schema.json
    """
    console.print_json(file.schema())
