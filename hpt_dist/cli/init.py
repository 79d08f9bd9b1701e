"""hpt-dist init."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist import sources
from hpt_dist.cli import console
from hpt_dist.cli.options import (
    DEFAULT_STORE,
    ColumnsOption,
    GroupOption,
    JsonOption,
    LayoutOption,
    StoreOption,
)
from hpt_dist.cli.requested import explained
from hpt_dist.datasets.manifest import dataset_names, read_manifest
from hpt_dist.errors import RequestError
from hpt_dist.launch import first_recipe, here
from hpt_dist.launch.first_recipe import Domain
from hpt_dist.launch.lookup import dataset_store
from hpt_dist.sources import other_files, understood
from hpt_dist.store import Store, files, open_store

_VERBS = ("plan", "launch")


def init(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Images that `shard` takes (a folder, a list), or a dataset: its name in the "
            "store or STORE/datasets/NAME. Of several, pretraining goes through them in this "
            "order, and the last one is the target.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The recipe to write; by default NAME.yaml beside the images, or here.",
        ),
    ] = None,
    layout: LayoutOption = "",
    columns: ColumnsOption = "",
    group_by: GroupOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Write a first recipe for your own data.

    Its names, splits and sizes are filled in.

    With labels and the splits train, val and test: pretraining, then a linear evaluation. Without:
    pretraining alone. It reads no image, shards nothing and overwrites nothing. --layout, --columns
    and --group-by say how images are read, as for `shard`, and are in the command that it prints.

    \b
    Examples:
      hpt-dist init ~/photos
      hpt-dist init photos --out my_recipe.yaml
      hpt-dist init ./hpt-store/datasets/drawings ~/scans
      hpt-dist init birds.csv --columns path=photo,label=species
    """
    opened = open_store(store)
    reading = _Reading(layout, columns, group_by)
    domains, shards = [], []
    for text in data:
        domain, shard = _domain(text, opened, store, reading)
        domains.append(domain)
        shards += [shard] if shard else []
    if reading.words and not shards:
        raise RequestError(
            "a dataset is read as it was sharded",
            where=reading.words[0],
            fix="leave it out",
        )
    file = out or _beside(data[-1], domains[-1])
    commands = [*shards, *(f"hpt-dist {verb} {shlex.quote(str(file))}" for verb in _VERBS)]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem).lstrip("_.-") or "first"
    text = first_recipe.text(name, domains, store, here.device().kind, commands)
    if file.exists():
        raise RequestError(f"{file} is there already", where="--out", fix="name another file")
    files.replace(file, text.encode())
    if json_:
        console.print_json({"recipe": str(file), "next": commands})
        return
    target = domains[-1]
    lacks = target.lacks()
    judged = f"no evaluation, {lacks}" if lacks else target.judged_by()
    console.print_line(f"wrote {file}: {judged}")
    console.print_line("next:")
    for command in commands:
        console.print_line(f"  {command}")


@dataclass(frozen=True)
class _Reading:
    """How images are read, as the options of `shard` say it."""

    layout: str
    columns: str
    group_by: str | None

    @property
    def words(self) -> list[str]:
        """The options for `shard`."""
        given = {"--layout": self.layout or None, "--columns": self.columns or None}
        given |= {"--group-by": self.group_by}
        pairs = [(name, value) for name, value in given.items() if value is not None]
        return [word for pair in pairs for word in pair]


def _domain(text: str, store: Store, uri: str, reading: _Reading) -> tuple[Domain, str]:
    """Return what an argument names, and the command that shards it first; empty for a dataset.

    Raises:
        RequestError: it names nothing, or both a dataset and images.
    """
    path = Path(text)
    if "/datasets/" in text and not (path.exists() and not (path / "manifest.json").exists()):
        where, name = dataset_store(text if "://" in text else str(path.absolute()))
        manifest = read_manifest(open_store(where), name)
        reference = name if open_store(where).uri == store.uri else f"{where}/datasets/{name}"
        return first_recipe.of_manifest(manifest, reference), ""
    if text in dataset_names(store):
        if path.exists():
            raise RequestError(
                f"{text} is a dataset of {store.uri}, and here there are images of this name too",
                fix=f"write ./{text} for the images, or {uri}/datasets/{text}",
            )
        return first_recipe.of_manifest(read_manifest(store, text), text), ""
    with explained(lambda fix: other_files.for_verb(fix, "init")):
        source = sources.open_source(
            text, layout=reading.layout, columns=reading.columns, group_by=reading.group_by
        )
    for line in understood.in_words(source):
        console.print_note(line)
    name = first_recipe.name_of(path)
    place = shlex.quote(f"{uri}/datasets/{name}")
    options = "".join(f" {shlex.quote(word)}" for word in reading.words)
    command = f"hpt-dist shard {shlex.quote(text)} {place}{options}"
    return first_recipe.of_source(source, name), command


def _beside(text: str, domain: Domain) -> Path:
    """Return where the recipe goes: beside images, or here for a dataset."""
    path = Path(text)
    folder = path.parent if path.exists() and "/datasets/" not in text else Path()
    return folder / f"{domain.alias}.yaml"
