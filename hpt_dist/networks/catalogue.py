"""Ask torchvision and timm which networks and weights they have, and which images these read.

`python -m hpt_dist.networks.catalogue` writes the answers where plans read them without importing
either library: `recipe.catalogue`. It builds each network once, half an hour on one core.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterator

import timm
import torch
from timm.models import _registry
from torchvision import models

from hpt_dist.errors import HptError
from hpt_dist.networks import backbones, refresh
from hpt_dist.networks.backbones import Backbone
from hpt_dist.recipe import catalogue
from hpt_dist.recipe.catalogue import Network
from hpt_dist.recipe.settings import LEAST_SIZE

log = logging.getLogger(__name__)

# What sides of images are multiples of: patches, strides, windows.
_STEPS = (1, 2, 4, 7, 8, 14, 16, 28, 32, 64, 128)
_USUAL_SIZE = 224
_FINE, _COARSE = 33, 4  # below so many pixels every size is tried, from there every fourth


def names() -> Iterator[str]:
    """Yield the full name of every network that `backbones.create` builds, former names apart."""
    for model in sorted(set(models.list_models(module=models)) - backbones.WITH_AUXILIARY_HEADS):
        yield f"torchvision/{model}"
    for model in sorted(_registry._model_entrypoints.keys() - _registry._deprecated_models.keys()):
        yield f"timm/{model}"


def renamed() -> dict[str, str]:
    """Return timm's former names that it still takes, and what each is called now."""
    known = sorted(_registry._deprecated_models.items())
    kept = (pair for pair in known if "." not in pair[1] or timm.is_model_pretrained(pair[1]))
    return {f"timm/{old}": f"timm/{new}" for old, new in kept if new}


def described(name: str) -> Network:
    """Build a network without memory, and return what plans need to know of it.

    Raises:
        HptError: it cannot be built.
    """
    backbone = backbones.blank(name).eval()
    usual = _usual_size(name)
    if not _reads(backbone, usual):  # it cannot compute without numbers: any size is taken
        step, least = 1, LEAST_SIZE
    else:
        steps = (one for one in (*_STEPS, usual) if _reads(backbone, _odd_multiple(one, usual)))
        step = next(steps, 0)
        least = _least(backbone, step, usual) if step else usual
    statistics = bool(refresh.layers_of(backbone))
    return Network(weights_of(name), shapes_digest(backbone), step, least, statistics)


def weights_of(name: str) -> tuple[str, ...]:
    """Return the names of a network's public weights; of timm's the tags, the default one first."""
    library, model = name.split("/")
    if library == "torchvision":
        return tuple(entry.name for entry in models.get_model_weights(model))
    known = timm.list_pretrained(f"{model}.*")
    tags = [one.partition(".")[2] for one in known if one.partition(".")[0] == model]
    config = timm.get_pretrained_cfg(model) if timm.is_model_pretrained(model) else None
    return tuple(sorted(tags, key=lambda tag: (not config or tag != config.tag, tag)))


def shapes_digest(backbone: Backbone) -> str:
    """Return a digest of the names and shapes of what a backbone learns."""
    state = backbone.state_dict()
    text = json.dumps([(name, list(state[name].shape)) for name in sorted(state)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _usual_size(name: str) -> int:
    library, model = name.split("/")
    config = timm.get_pretrained_cfg(model) if library == "timm" else None
    return int(config.input_size[-1]) if config else _USUAL_SIZE


def _odd_multiple(step: int, usual: int) -> int:
    """Return a multiple of a step, beyond the usual size, that is none of twice the step."""
    times = usual // step + 1
    return step * (times + 1 - times % 2)


def _least(backbone: Backbone, step: int, usual: int) -> int:
    """Return the least multiple of a step that a backbone reads: of the small ones, and usual."""
    first, coarse = (-(-size // step) * step for size in (LEAST_SIZE, _FINE))
    sizes = (*range(first, coarse, step), *range(coarse, usual, _COARSE * step))
    return next((size for size in sizes if _reads(backbone, size)), usual)


def _reads(backbone: Backbone, size: int) -> bool:
    """Return whether a backbone without memory reads images of a size."""
    try:
        with torch.no_grad(), torch.device("meta"):
            features = backbone(torch.zeros(1, 3, size, size))
    # What a library raises for a wrong size is an assertion, a shape's RuntimeError, ...
    except (AssertionError, RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return False
    return tuple(features.shape) == (1, backbone.feature_dim)


def main() -> None:
    """Write the catalogue."""
    networks = {}
    for name in names():
        try:
            found = described(name)
        except HptError as error:
            log.warning("%s is left out: %s", name, error)
            continue
        facts = (found.shapes, found.step, found.least, found.batch_norm)
        networks[name] = [*facts, *found.weights]
        backbones.blank.cache_clear()
    installed = {library: importlib.metadata.version(library) for library in catalogue.LIBRARIES}
    versions = {library: version.partition("+")[0] for library, version in installed.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in networks.items())
    head = f'"versions": {json.dumps(versions)},\n"renamed": {json.dumps(renamed())}'
    catalogue.FILE.write_text(f'{{{head},\n"networks": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    logging.basicConfig()
    main()
