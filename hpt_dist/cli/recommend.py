"""hpt-dist recommend."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.advice import Advice
from hpt_dist.advice import recommend as advice_on
from hpt_dist.cli import console
from hpt_dist.cli.options import (
    DEFAULT_STORE,
    BaseOption,
    FirstOption,
    HoursOption,
    JsonOption,
    LookSecondsOption,
    StoreOption,
)
from hpt_dist.cli.requested import command, note_if_new
from hpt_dist.errors import RequestError
from hpt_dist.store import Store, files, open_store

_Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A dataset: its name in the store, or STORE/datasets/NAME."
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The recipe to write; by default it is printed. Nothing is overwritten.",
    ),
]
_Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The recipe's name; by default the dataset's."),
]


def recommend(
    dataset: _Dataset,
    out: _Out = None,
    base: BaseOption = None,
    source: FirstOption = None,
    hours: HoursOption = None,
    name: _Name = None,
    look_seconds: LookSecondsOption = 120.0,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Write a recipe for a dataset after a look at it, with its reasons.

    It looks at some images and labels, compares the bases by nearest neighbours on val, and
    measures how far sources are and how fast this machine trains. The recipe is printed; what was
    seen goes to standard error. Nothing is trained, and nothing is written to the store.

    \b
    Examples:
      hpt-dist recommend photos > photos.yaml
      hpt-dist recommend photos -o photos.yaml --hours 8
      hpt-dist recommend photos --source birds --source drawings
      hpt-dist recommend photos --base timm/resnet50 --base timm/resnet50=moco.pth
    """
    _refuse_existing(out)
    opened = open_store(store)
    note_if_new(opened)
    advice = advice_on(
        opened,
        dataset,
        bases=base or (),
        sources=source or (),
        hours=hours,
        name=name,
        progress=console.print_note,
        look_seconds=look_seconds,
    )
    for line in advice.says:
        console.print_note(line)
    if out is not None:
        _refuse_existing(out)
        files.replace(out, advice.text.encode())
    if json_:
        console.print_json(_as_json(advice, out))
    else:
        _print(advice, out, opened)


def _refuse_existing(out: Path | None) -> None:
    if out is not None and out.exists():
        raise RequestError(f"{out} is there already", where="--out", fix="name another file")


def _as_json(advice: Advice, out: Path | None) -> dict[str, object]:
    return {
        "recipe": str(out) if out else advice.text,
        "says": advice.says,
        "hours": advice.hours,
        "labelled": advice.labelled,
        "facts": asdict(advice.facts),
    }


def _print(advice: Advice, out: Path | None, store: Store) -> None:
    if out is None:
        for line in advice.text.splitlines():
            console.print_line(line)
        return
    console.print_line(f"wrote {out}")
    console.print_line("next:")
    for verb in ("plan", "launch"):
        console.print_line(f"  {command(verb, str(out), store=store)}")
