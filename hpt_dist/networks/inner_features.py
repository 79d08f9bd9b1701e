"""Features from inside a backbone: the output of one of its parts, or a ViT's last tokens.

They are one vector of an image, or one of each position: see `features_at` and `maps_at`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from hpt_dist.errors import RequestError, nearest
from hpt_dist.networks.backbones import Backbone

POOL = "pool"
LAST = "last"
_TOKENS = {"cls": ("cls",), "mean": ("mean",), "cls+mean": ("cls", "mean")}


def features_at(backbone: Backbone, where: str, size: int) -> nn.Module:
    """Return a module that maps images to the features at a place of a backbone.

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        where: pool, the backbone's own; cls, mean or cls+mean of a ViT's last tokens, which is the
            class token, and the mean of the others without registers; or the name of a module,
            whose output is averaged over positions.
        size: of the images that it must read, pixels.

    Raises:
        RequestError: the backbone has no such tokens or no such part, or its output is no tensor of
            positions.
    """
    if where == POOL:
        return backbone
    inner = _Tokens(backbone, where) if where in _TOKENS else _Part(backbone, where)
    return _tried(inner, backbone, where, size)


def flattened_at(backbone: Backbone, name: str, size: int) -> nn.Module:
    """Return a module that maps images to all that a part of a backbone gives: [b, values].

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        name: of the part; its output is flattened over channels and positions.
        size: of the images that it must read, pixels.

    Raises:
        RequestError: as `features_at`.
    """
    return _tried(_Part(backbone, name, flat=True), backbone, name, size)


def maps_at(backbone: Backbone, where: str, size: int) -> nn.Module:
    """Return a module that maps images to the features of each position: [b, d, rows, columns].

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        where: last, the last features that have positions: a ViT's tokens of patches, and of other
            networks the output before it is pooled; or the name of a module.
        size: of the images that it must read, pixels.

    Raises:
        RequestError: as `features_at`; or its tokens fill no square.
    """
    return _tried(_Maps(backbone, where), backbone, where, size)


def _tried(inner: nn.Module, backbone: Backbone, where: str, size: int) -> nn.Module:
    """Return a module that reads images of a size, and leaves the backbone in its modes."""
    modes = [(module, module.training) for module in backbone.modules()]
    try:
        with torch.no_grad():
            inner.eval()(torch.zeros(1, 3, size, size))
    # What a library raises for a wrong size is an assertion, a shape's RuntimeError, ...
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        raise RequestError(
            f"this backbone gives no {where} for images of {size} x {size}: {error}",
            where="features",
            fix="use pool, or another image.size",
        ) from error
    for module, training in modes:
        module.training = training
    return inner


class _Part(nn.Module):
    """The output of a part of a backbone, averaged over positions or flattened."""

    def __init__(self, backbone: Backbone, name: str, *, flat: bool = False) -> None:
        super().__init__()
        parts = dict(backbone.named_modules())
        if name not in parts or not name:
            near = [part for part in parts if part.count(".") <= name.count(".")]
            raise RequestError(
                f"this backbone has no part {name}",
                where="features",
                allowed=", ".join(child for child, _ in backbone.named_children()),
                fix=nearest(name, near),
            )
        self.backbone, self._name, self._flat = backbone, name, flat
        self._prefix = _prefix_tokens(backbone)
        self._channels_last = _gives_channels_last(backbone)
        self._seen: list[Any] = []
        parts[name].register_forward_hook(lambda _module, _given, output: self._see(output))

    def _see(self, output: Any) -> None:
        self._seen.append(output)

    def output(self, images: Tensor) -> Tensor:
        """Return what the part gives: of one that is used several times, its last output."""
        self._seen.clear()
        self.backbone(images)
        output = self._seen[-1] if self._seen else None
        self._seen.clear()
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
            raise RequestError(
                f"the part {self._name} of this backbone gives no features of positions",
                where="features",
                fix="name a part that gives a tensor of channels, such as a whole stage",
            )
        return output

    def forward(self, images: Tensor) -> Tensor:
        """Return float [b, d], or all values where it is flattened."""
        output = self.output(images)
        if self._flat:
            tokens = output[:, self._prefix :] if output.ndim == 3 else output
            return tokens.flatten(1)
        if output.ndim == 4:
            return output.mean(dim=(1, 2) if self._channels_last else (2, 3))
        return output[:, self._prefix :].mean(dim=1) if output.ndim == 3 else output


class _Maps(nn.Module):
    """The features of each position: of a part, or the last ones of a backbone."""

    def __init__(self, backbone: Backbone, where: str) -> None:
        super().__init__()
        self.backbone, self._where = backbone, where
        self._prefix = _prefix_tokens(backbone)
        self._channels_last = _gives_channels_last(backbone)
        name = where if where != LAST else _last_part(backbone)
        self._part = _Part(backbone, name) if name else None

    def forward(self, images: Tensor) -> Tensor:
        """Return float [b, d, rows, columns]."""
        whole = self.backbone.forward_features if self._part is None else self._part.output
        output = whole(images)  # type: ignore[operator]
        if isinstance(output, Tensor) and output.ndim == 4:
            return output.permute(0, 3, 1, 2) if self._channels_last else output
        if isinstance(output, Tensor) and output.ndim == 3:
            tokens = output[:, self._prefix :].transpose(1, 2)
            side = math.isqrt(tokens.shape[2])
            if side and side * side == tokens.shape[2]:
                return tokens.reshape(*tokens.shape[:2], side, side)
        raise RequestError(
            f"the features {self._where} of this backbone have no rows and columns",
            where="features",
            fix="name a part that gives a tensor of channels, such as a whole stage",
        )


def _last_part(backbone: nn.Module) -> str:
    """Return the part of a backbone before it pools; empty where it has a method for it."""
    if hasattr(backbone, "forward_features"):
        return ""
    names = [name for name, _ in backbone.named_children()]
    for name in ("encoder", "layer4", "norm", "features"):
        if name in names:
            return name
    raise RequestError(
        "this backbone does not say which of its features are the last ones with positions",
        where="features",
        allowed=", ".join(names),
    )


class _Tokens(nn.Module):
    """The last tokens of a ViT."""

    def __init__(self, backbone: Backbone, which: str) -> None:
        super().__init__()
        self.backbone, self._which = backbone, _TOKENS[which]
        self._prefix = _prefix_tokens(backbone)
        if isinstance(backbone, models.VisionTransformer):
            self._part: str | None = "encoder"
            self._seen: list[Tensor] = []
            backbone.encoder.register_forward_hook(
                lambda _module, _given, output: self._seen.append(output)
            )
        elif hasattr(backbone, "forward_features"):
            self._part = None
        else:
            raise _no_tokens(which)
        if "cls" in self._which and not _has_class_token(backbone):
            raise _no_tokens(which)

    def forward(self, images: Tensor) -> Tensor:
        """Return float [b, d], or [b, 2 d] of both."""
        tokens = self._tokens(images)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            raise _no_tokens("+".join(self._which))
        parts = {"cls": tokens[:, 0], "mean": tokens[:, self._prefix :].mean(dim=1)}
        return torch.cat([parts[one] for one in self._which], dim=1)

    def _tokens(self, images: Tensor) -> Any:
        if self._part is None:
            return self.backbone.forward_features(images)  # type: ignore[operator]
        self.backbone(images)
        return self._seen.pop()


def _gives_channels_last(backbone: nn.Module) -> bool:
    """Return whether the parts of a backbone give [b, rows, columns, d]."""
    swin = isinstance(backbone, models.SwinTransformer)
    return getattr(backbone, "output_fmt", "") == "NHWC" or swin


def _has_class_token(backbone: nn.Module) -> bool:
    return any(getattr(backbone, name, None) is not None for name in ("cls_token", "class_token"))


def _prefix_tokens(backbone: nn.Module) -> int:
    """Return how many tokens stand before those of the positions."""
    return int(getattr(backbone, "num_prefix_tokens", _has_class_token(backbone)))


def _no_tokens(which: str) -> RequestError:
    return RequestError(
        f"this backbone has no tokens {which}",
        where="features",
        allowed="pool, or the name of a part such as blocks.11",
    )
