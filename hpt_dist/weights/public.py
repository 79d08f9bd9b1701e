"""Public weights by their names, before anything is downloaded. No torch: plans ask this."""

from __future__ import annotations

from hpt_dist.errors import RequestError, nearest
from hpt_dist.recipe import catalogue
from hpt_dist.weights.source import PACKAGES, WeightsSource


def check(source: WeightsSource) -> None:
    """Refuse weights that torchvision or timm does not have.

    Another version of the library than the catalogue's may have more: it is not refused here.

    Raises:
        RequestError: there are no such weights.
    """
    if source.kind not in catalogue.LIBRARIES or not catalogue.is_of_installed(source.kind):
        return
    name = f"{source.kind}/{source.name}"
    full = catalogue.resolve(name)
    known = catalogue.load().networks[full].weights
    if not known:
        raise RequestError(
            f"{source.kind} has no public weights of {source.name}",
            fix="name weights of another network, a file, or random",
        )
    if source.kind == "torchvision" and source.weights not in known:
        raise RequestError(
            f"torchvision has no weights {source.weights} of {source.name}",
            allowed=", ".join(f"{name}/{one}" for one in known),
            fix=nearest(source.weights.upper(), known),
        )


def surely_fit(source: WeightsSource, backbone: str) -> bool:
    """Return whether weights are known to have the names and shapes of a backbone.

    Args:
        source: of any kind.
        backbone: as a recipe names it.
    """
    network = PACKAGES[source.name].network if source.kind == "package" else ""
    if source.kind in catalogue.LIBRARIES:
        network = f"{source.kind}/{source.name}"
    return catalogue.are_alike(network, backbone)
