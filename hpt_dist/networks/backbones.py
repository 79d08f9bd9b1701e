"""Backbones by name: the modules of torchvision and timm, without their classifiers.

A name is `torchvision/NAME`, `timm/NAME`, `plugin/NAME`, or plain `NAME`, which means what another
installed distribution offers (an entry point of the group `hpt_dist.backbones`), else torchvision's
model where torchvision has one, else timm's. The parameters keep the names that the library gave
them, so weights go in and out without translation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, cast

import timm
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision import models
from torchvision.ops import StochasticDepth

from hpt_dist.errors import HptError, RequestError, nearest
from hpt_dist.recipe import plugins

LIBRARIES = ("torchvision", "timm")

# Their auxiliary heads change what forward returns, and their weights how it normalises.
WITH_AUXILIARY_HEADS = {"googlenet", "inception_v3"}


class Backbone(nn.Module):
    """The type of what `create` returns: a library's own module, mapping images to features.

    `forward(images)` takes float images [b, 3, height, width] and returns [b, feature_dim].

    Another distribution offers one as an entry point of the group `hpt_dist.backbones`: a function
    without arguments that returns such a module, any `nn.Module` with the attribute `feature_dim`.
    It draws its initial weights from torch's generator, keeps in its state dict all that it learns,
    and draws nothing in `forward`; dropout and stochastic depth are switched off.

    Attributes:
        feature_dim: length of the pooled features.
        classifier_names: the removed classifier's module names, such as `("fc",)`, which files of
            weights may have; another distribution's backbone may do without it.
    """

    feature_dim: int
    classifier_names: tuple[str, ...]


def resolve(name: str) -> str:
    """Return the full name: `torchvision/NAME`, `timm/NAME` or `plugin/NAME`.

    Raises:
        RequestError: nobody, or not the library that was named, has such a model; or several
            distributions offer it.
    """
    if plugin := plugins.find("backbone", name):
        return f"{plugins.LIBRARY}/{plugin.name}"
    library, _, model = name.rpartition("/")
    if library not in ("", *LIBRARIES):
        raise RequestError(
            f"no library {library!r} of backbones", where=name, allowed=", ".join(LIBRARIES)
        )
    candidates = (library,) if library else LIBRARIES
    for candidate in candidates:
        if _has(candidate, model):
            return f"{candidate}/{model}"
    known = [known for candidate in candidates for known in _model_names(candidate)]
    raise RequestError(
        f"no backbone {model!r} in {' or '.join(candidates)}",
        where=name,
        fix=nearest(model, known) or "see timm.list_models() and torchvision.models.list_models()",
    )


def create(name: str) -> Backbone:
    """Build a backbone with fresh weights from torch's random generator.

    Dropout and stochastic depth are switched off: they draw from the process's generator, and
    what a trial learns must not depend on how many processes share the work.

    Args:
        name: a full or plain name, see `resolve`.

    Raises:
        RequestError: there is no such model.
        HptError: another distribution's cannot be imported, fails, or is no backbone.
    """
    library, model = resolve(name).split("/")
    build = {"torchvision": _from_torchvision, "timm": _from_timm, plugins.LIBRARY: _from_plugin}
    backbone = build[library](model)
    for module in backbone.modules():
        if isinstance(module, _DropoutNd | StochasticDepth):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return backbone


@cache
def blank(full_name: str) -> Backbone:
    """Return a backbone for its names, shapes and types; draws nothing from a generator."""
    return cast("Backbone", without_memory(partial(create, full_name)))


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network without memory or initial values; draws nothing from a generator."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError, HptError):  # some compute while they are built
        with torch.random.fork_rng(devices=[]):
            return build().to("meta")


def check_size(backbone: Backbone, size: int) -> None:
    """Make sure that a backbone reads images of a size, before anything is spent on it.

    Raises:
        RequestError: it does not.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, size, size))
    # What a library raises for a wrong size is an assertion, a shape's RuntimeError, ...
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        raise RequestError(
            f"this backbone cannot read images of {size} x {size}: {error}",
            where="image.size",
            fix="use the size that it was made for, such as 224",
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if features.shape != (1, backbone.feature_dim):
        raise RequestError(
            f"this backbone gives {list(features.shape[1:])} for an image, not one vector of "
            f"{backbone.feature_dim}",
            where="backbone",
            fix="use another one",
        )


def trainable_parameters(
    module: nn.Module, which: Literal["all", "batchnorm", "head"]
) -> tuple[str, ...]:
    """Set which parameters of a backbone learn; to be called before it is wrapped for training.

    Args:
        module: the backbone.
        which: `all`; `batchnorm`, exactly the weights and biases of its batch-norm layers
            (HPT-BN, arXiv 2103.12718, section 3); or `head`, none of them.

    Returns:
        The names of the parameters that learn, in the module's order.

    Raises:
        RequestError: `batchnorm` was asked of a module that has no such parameters.
    """
    norms = {
        parameter
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        for parameter in layer.parameters(recurse=False)
    }
    if which == "batchnorm" and not norms:
        raise RequestError(
            "this backbone has no batch norm to train",
            where="train: batchnorm",
            allowed="all, head",
        )
    for parameter in module.parameters():
        parameter.requires_grad_(which == "all" or (which == "batchnorm" and parameter in norms))
    return tuple(name for name, value in module.named_parameters() if value.requires_grad)


def _from_torchvision(model: str) -> Backbone:
    """Take away the classifier: the last linear layer (a 1x1 convolution in SqueezeNet)."""
    module = models.get_model(model, weights=None)
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    name, classifier = layers[-1]
    module.set_submodule(name, nn.Identity())
    module.feature_dim = (
        classifier.in_features if isinstance(classifier, nn.Linear) else classifier.in_channels
    )
    module.classifier_names = (name,)
    return cast("Backbone", module)


def _from_timm(model: str) -> Backbone:
    module = _timm_module(model)
    classifier = module.pretrained_cfg.get("classifier") or ()
    module.feature_dim = module.head_hidden_size
    module.classifier_names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return cast("Backbone", module)


def _from_plugin(model: str) -> Backbone:
    module = plugins.make("backbone", model)
    if not isinstance(module, nn.Module) or not isinstance(
        getattr(module, "feature_dim", None), int
    ):
        raise HptError(
            f"it is a {type(module).__name__}, not a module with a feature_dim",
            where=f"{plugins.LIBRARY}/{model}",
            fix="see hpt_dist.networks.backbones.Backbone",
        )
    backbone = cast("Backbone", module)
    backbone.classifier_names = getattr(module, "classifier_names", ())
    return backbone


def _timm_module(model: str) -> Any:
    """Build a timm model without its classifier, for images of any size where it knows how.

    Transformers then resample their position embeddings; at their own size nothing changes.
    """
    build = partial(timm.create_model, model, pretrained=False, num_classes=0)
    config = timm.get_pretrained_cfg(model)
    if config is not None and config.fixed_input_size:
        try:
            return build(dynamic_img_size=True)
        except TypeError:  # this family has no such setting
            pass
    return build()


def _has(library: str, model: str) -> bool:
    if library == "torchvision":
        return model in _model_names(library)
    return timm.is_model(model) and ("." not in model or timm.is_model_pretrained(model))


@cache
def _model_names(library: str) -> frozenset[str]:
    if library == "torchvision":
        return frozenset(models.list_models(module=models)) - WITH_AUXILIARY_HEADS
    return frozenset(timm.list_models())
