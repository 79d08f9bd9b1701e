"""hpt-dist errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import completion, console
from hpt_dist.cli.options import JsonOption, RecipeStoreOption
from hpt_dist.cli.requested import split_run, store_of
from hpt_dist.errors import RequestError
from hpt_dist.launch import runs
from hpt_dist.launch.runs import Named
from hpt_dist.page import Grid, as_html
from hpt_dist.store import Store, files

_CLASSES_SHOWN, _PAIRS_SHOWN = 15, 10
_NAME_LETTERS = 100


def errors(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN/TRIAL",
            help="An evaluation, such as my_recipe/linear/init=hpt, or my_recipe.yaml/probe.",
            autocompletion=completion.runs,
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT",
            help="val or test. What is changed after a look at test makes its numbers too good.",
        ),
    ] = "val",
    top: Annotated[
        int, typer.Option(help="Number of mistakes in the sheet.", min=1, max=2500)
    ] = 48,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An .html file; by default errors-TRIAL-SPLIT.html here."
        ),
    ] = None,
    store: RecipeStoreOption = "",
    json_: JsonOption = False,
) -> None:
    """Show the most confident mistakes of an evaluation, and what it confuses.

    The sheet is one HTML file with the images. With several labels an image it has false positives,
    false negatives and the average precision of each class.

    \b
    Examples:
      hpt-dist errors quickstart/linear/init=hpt,seed=0
      hpt-dist errors my_recipe.yaml/probe --top 100 --to mistakes.html
      hpt-dist errors my_recipe.yaml/probe --split test --json
    """
    if to and to.suffix != ".html":
        raise RequestError(f"{to} has the wrong ending", where="--to", allowed=".html")
    run, stage = split_run(name)
    if not stage:
        raise RequestError(f"{name} names no trial", allowed="RUN/TRIAL, such as my_recipe/probe")
    opened, run = store_of(run, store)
    found = runs.finished_trials(opened, run, stage)
    trial = _only(found, stage)
    if found.note:
        console.print_note(found.note)
    _print(opened, found, trial, split, top, to, json_=json_)


def _only(found: Named, stage: str) -> str:
    """Return the trial that a name stands for.

    Raises:
        RequestError: it stands for several.
    """
    if len(found.names) > 1:
        raise RequestError(
            f"{stage} has {len(found.names)} trials",
            allowed=", ".join(found.names[:20]),
            fix=f"name one: hpt-dist errors {found.launch.id}/{found.names[0]}",
        )
    return found.names[0]


def _print(
    store: Store, found: Named, trial: str, split: str, top: int, to: Path | None, *, json_: bool
) -> None:
    # They import pyarrow, NumPy and Pillow, for which no other command is to wait.
    from hpt_dist.launch import answered
    from hpt_dist.report import mistakes, mistakes_page

    key = found.launch.trials[trial]
    facts, answers = answered.predictions(store, trial, key, split)
    wrong = mistakes.of(facts, answers)
    shown = [one for kind in wrong.kinds for one in wrong.of_kind(kind, top)]
    pictures, lack = answered.thumbnails(store, key, facts, {one.key for one in shown})
    title = f"{found.launch.id}/{trial}"
    blocks = mistakes_page.blocks(wrong, title, pictures, lack, top)
    path = to or Path(f"errors-{trial.replace('/', '-')[:_NAME_LETTERS]}-{split}.html")
    files.replace(path, as_html(title, blocks).encode())
    if lack:
        console.print_note(f"the sheet has no pictures: {lack}")
    if json_:
        where = {"launch": found.launch.id, "trial": trial, "key": key, "store": store.uri}
        console.print_json(where | wrong.as_json(top) | {"file": str(path)})
        return
    console.print_line(f"{trial}: {wrong.summary()}")
    _print_grid(mistakes_page.by_class(wrong, _CLASSES_SHOWN), len(wrong.classes), "classes")
    if (pairs := mistakes_page.confused(wrong, _PAIRS_SHOWN)) is not None:
        _print_grid(pairs, len(wrong.pairs), "pairs of classes")
    console.print_line(f"the most confident mistakes: {path}")


def _print_grid(grid: Grid, total: int, what: str) -> None:
    console.print_table(grid.header, grid.rows)
    if total > len(grid.rows):
        console.print_line(f"the first {len(grid.rows)} of {total:,} {what}; more are in the sheet")
