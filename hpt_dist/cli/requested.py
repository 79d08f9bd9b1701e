"""What commands ask for: recipes and profiles by path or name, a launch, and a store."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hpt_dist.cli import console
from hpt_dist.errors import RequestError
from hpt_dist.launch import launches, pasted
from hpt_dist.launch.survey import Planned, plan_against_store
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import shipped
from hpt_dist.recipe.numerics import Device
from hpt_dist.slurm.profile import located
from hpt_dist.store import Store, marker, open_store
from hpt_dist.store.paths import usual_store
from hpt_dist.trial.records import Launch

_YAML = (".yaml", ".yml")


def planned(
    recipe: Path,
    set_: list[str] | None,
    device: Device,
    stand_ins: Path | None = None,
    store: str = "",
) -> Planned:
    """Return the plan of a recipe, given its path or its name in the package; print its doubts.

    Raises:
        RequestError: the store is given in two ways.
    """
    file = _announced(recipe, shipped.recipe(recipe))
    is_set = any(one.partition("=")[0] == "store" for one in set_ or [])
    if store and is_set:
        raise RequestError("the store is given twice", where="--store, --set store", fix="give one")
    found = plan_against_store(file, set_ or [], stand_ins, device, store)
    if store:
        _announce_other_store(found.store, file)
    else:
        named = found.recipe.store
        _announce_store(found.store, "--set" if is_set else str(file) if named else "")
    for doubt in found.doubts:
        console.print_note(f"note: {doubt}")
    return found


def launch_of(run: str, store: str) -> tuple[Store, Launch]:
    """Return a launch and the store that it is in.

    Args:
        run: its id, or its recipe's name or file; empty for the last launch.
        store: as the option gives it; empty for the recipe's own, if `run` is a file that names
            one, or else for the usual one.

    Raises:
        RecipeError: the file's name or store is wrong.
        RequestError: there is no such launch.
    """
    opened, name = store_of(run, store)
    return opened, launches.find(opened, name)


def store_of(run: str, store: str) -> tuple[Store, str]:
    """Return the store of a launch, and the name by which it is found there; see `launch_of`."""
    file, own = Path(run), ""
    is_file = file.suffix in _YAML and file.is_file()
    if is_file:
        run, own = recipe_file.home(file, store)
    opened = open_store(store or own or usual_store())
    if not is_file and file.suffix in _YAML:
        console.print_note(f"there is no file {file}; its launches are looked for in {opened.uri}")
    if is_file and not store:
        _announce_store(opened, str(file) if own else "")
    return opened, run


def split_run(text: str) -> tuple[str, str]:
    """Split RUN/STAGE, where RUN may be the path of a recipe and STAGE a trial with a slash."""
    for suffix in _YAML:
        run, found, stage = text.partition(f"{suffix}/")
        if found:
            return run + suffix, stage
    run, _, stage = text.partition("/")
    return run, stage


def command(*words: str, store: Store) -> str:
    """Return a command for people to paste: this program by its own name, and the store."""
    return pasted.command(*words, store=store, program=own_name())


def this_command() -> str:
    """Return the command that runs, for people to paste."""
    return f"{own_name()} {shlex.join(sys.argv[1:])}"


@contextlib.contextmanager
def explained(fixed: Callable[[str], str]) -> Iterator[None]:
    """Let what is refused inside say what to do in the terms of a command.

    Args:
        fixed: what to do, in the words of whoever refused -> in those of the command.
    """
    try:
        yield
    except RequestError as error:
        problem = error.problem
        if (fix := fixed(problem.fix)) == problem.fix:
            raise
        raise RequestError(
            problem.what, where=problem.where, allowed=problem.allowed, fix=fix
        ) from error


def own_name() -> str:
    """Return how this program was called, so that users can copy printed commands."""
    if shutil.which("hpt-dist"):
        return "hpt-dist"
    path = Path(sys.argv[0])
    if path.name == "hpt-dist":
        return shlex.quote(str(path))
    return f"{shlex.quote(sys.executable)} -m hpt_dist"


def begun(store: Store) -> Store:
    """Return a store that a command is about to write to; print if it is a new one."""
    if marker.is_new(store):
        console.print_note(f"new store at {store.uri}")
    return marker.begin(store)


def note_if_new(store: Store) -> None:
    """Print that there is no store, for commands that only look: its name may be misspelt."""
    if marker.is_new(store):
        console.print_note(f"there is no store at {store.uri} yet")


def profile_file(name: str, *others: str) -> str:
    """Return the path of a profile; `others` are the words that the option takes too."""
    return str(_announced(name, located(name, others)))


def _announced(name: Path | str, file: Path) -> Path:
    """Return the path of a recipe or profile; if it was given by its name, print the path."""
    if file != Path(name):
        console.print_note(f"{name} is {file}")
    return file


def _announce_other_store(store: Store, file: Path) -> None:
    """Print which store takes the place of a recipe's own, if it is another one."""
    with contextlib.suppress(RequestError):  # its own cannot be known
        _, own = recipe_file.home(file)
        if own and _uri(own) != store.uri:
            console.print_note(f"store: {store.uri} (--store), not the recipe's own, {own}")


def _announce_store(store: Store, origin: str) -> None:
    """Print which store a recipe leads to, unless it names the usual one itself.

    Args:
        store: that is used.
        origin: what names it: the recipe's file, or an option; empty if nothing does.
    """
    usual, is_set = usual_store(), bool(os.environ.get("HPT_STORE"))
    if not origin:
        source = "from HPT_STORE" if is_set else "neither the recipe nor HPT_STORE names one"
        console.print_note(f"store: {store.uri} ({source})")
    elif store.uri != _uri(usual):
        named = f"HPT_STORE names {usual}" if is_set else f"not {usual}"
        console.print_note(f"store: {store.uri}, of {origin} ({named})")


def _uri(store: str) -> str:
    """Return how a store calls itself, or what was given where it is no store."""
    try:
        return open_store(store).uri
    except RequestError:
        return store
