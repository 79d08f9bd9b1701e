"""Weights to start from as a command names them, and the network that each is of. No torch."""

from __future__ import annotations

import re

from hpt_dist.errors import RequestError
from hpt_dist.recipe import catalogue, plugins
from hpt_dist.store import Store
from hpt_dist.weights import public
from hpt_dist.weights import source as weights_source
from hpt_dist.weights.source import PACKAGES

DEFAULT = "package/efficientnet-lite0"
_NETWORK = re.compile(r"(?P<network>[A-Za-z][\w./-]*)=(?P<weights>.+)")
_WHERE = "--base"


def parsed(text: str, store: Store) -> tuple[str, str]:
    """Return weights as a recipe names them, and their backbone.

    Args:
        text: such as torchvision/resnet50/IMAGENET1K_V2, or NETWORK=WEIGHTS where the weights do
            not tell: a file, an artifact of MLflow, random.
        store: in which a relative path of a file is looked up.

    Raises:
        RequestError: there are no such weights, they are not installed, or nothing tells their
            network.
    """
    match = _NETWORK.fullmatch(text)
    network = _network(match["network"]) if match else ""
    weights = match["weights"] if match and network else text
    try:
        source = weights_source.parse(weights)
        public.check(source)
        if source.kind in ("package", "file"):
            weights_source.locate(source, store)
    except RequestError as error:
        problem = error.problem
        fix = (
            f"{problem.fix}; or name others, such as --base timm/resnet50"
            if (text == DEFAULT and problem.fix)
            else problem.fix
        )
        what = f"{weights}: {problem.what}"
        raise RequestError(what, where=_WHERE, allowed=problem.allowed, fix=fix) from error
    if network:
        return weights, network
    if source.kind == "package":
        return weights, PACKAGES[source.name].network
    if source.kind in catalogue.LIBRARIES:
        name = f"{source.kind}/{source.name}"
        return weights, catalogue.resolve(name) or name
    raise RequestError(
        f"nothing tells which network {weights} is of",
        where=_WHERE,
        allowed="NETWORK=WEIGHTS",
        fix=f"--base timm/resnet50={weights}, with the network that it was trained with",
    )


def _network(name: str) -> str:
    """Return the full name of a network; empty where there is none of that name."""
    if plugins.find("backbone", name):
        return name
    try:
        return catalogue.resolve(name) or name
    except RequestError:
        return ""
