"""What may differ between a file's network and a backbone without a change of what it computes.

The position embeddings of a vision transformer are resampled to another grid of patches, as timm
does; the first convolution is adapted to another number of channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from timm.layers import resample_abs_pos_embed
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]

_POSITIONS = ("pos_embed", "pos_embedding")
CLASS_TOKENS = ("cls_token", "class_token")
_LARGEST_GRID = 256  # patches along a side


@dataclass(frozen=True)
class Grid:
    """The layout of position embeddings [1, tokens + side * side, channels].

    Args:
        tokens: embeddings before those of the patches: of the class token, and of a second one.
        side: patches along each side of the image.
    """

    tokens: int
    side: int


@dataclass(frozen=True)
class Positions:
    """Position embeddings of one grid, to be brought to another.

    Where only one side has an embedding for the class token, which is added to that token, it moves
    into or stays in the token itself: their sum is what the network reads.

    Args:
        file: the grid in the file.
        own: the backbone's.
    """

    file: Grid
    own: Grid

    def __str__(self) -> str:
        before, after = self.file.side, self.own.side
        text = f"{before} x {before} positions resampled to {after} x {after}"
        text = text if before != after else f"{after} x {after} positions"
        if self.moves_class:
            return f"{text}; that of the class token is added to the token"
        if self.file.tokens < self.own.tokens:
            return f"{text}; that of the class token is 0"
        return text

    @property
    def moves_class(self) -> bool:
        """Whether the class token takes up its position embedding."""
        return self.file.tokens > self.own.tokens

    def suits(self, has_class: bool) -> bool:
        """Return whether a backbone has the class token that these embeddings need."""
        return has_class or self.file.tokens == self.own.tokens

    def of_class(self, values: Tensor) -> Tensor:
        """Return the position embedding of the class token [1, 1, channels]."""
        return values[:, :1]

    def __call__(self, values: Tensor) -> Tensor:
        """Return the backbone's embeddings of the file's."""
        if self.moves_class:
            values = values[:, 1:]
        elif self.file.tokens < self.own.tokens:
            values = functional.pad(values, (0, 0, 1, 0))
        side = self.own.side
        resampled: Tensor = resample_abs_pos_embed(
            values, [side, side], num_prefix_tokens=self.own.tokens
        )
        return resampled


@dataclass(frozen=True)
class Channels:
    """The weights [out, channels, height, width] of a first convolution, for other channels.

    A gray image gives the same features as in the file's network.

    Args:
        file: channels in the file.
        own: the backbone's.
    """

    file: int
    own: int

    def __str__(self) -> str:
        if self.own == 1:
            return f"{self.file} channels summed to 1"
        return f"1 channel repeated to {self.own}, each divided by {self.own}"

    def __call__(self, values: Tensor) -> Tensor:
        """Return the backbone's weights of the file's."""
        if self.own == 1:
            return values.sum(dim=1, keepdim=True)
        return values.repeat(1, self.own, 1, 1) / self.own


Change = Positions | Channels


def change_of(name: str, file: Shape, own: Shape, first: str) -> Change | None:
    """Return what brings an entry of the file to the backbone's shape; None if nothing does.

    Args:
        name: the backbone's.
        file: shape in the file.
        own: the backbone's shape.
        first: the name of the backbone's first convolution.
    """
    if name == first and len(file) == 4 and 1 in (file[1], own[1]) and {file[1], own[1]} <= {1, 3}:
        return Channels(file[1], own[1]) if file[:1] + file[2:] == own[:1] + own[2:] else None
    if name.rpartition(".")[2] not in _POSITIONS or len(file) != 3 or len(own) != 3:
        return None
    grids = _grid(file[1]), _grid(own[1])
    if not all(grids) or (file[0], file[2]) != (own[0], own[2]):
        return None
    positions = Positions(*grids)  # type: ignore[arg-type]
    same = positions.file.tokens == positions.own.tokens
    return positions if same or max(positions.file.tokens, positions.own.tokens) == 1 else None


def _grid(embeddings: int) -> Grid | None:
    """Return the one layout of so many embeddings that has a square of patches."""
    for tokens in (0, 1, 2):
        side = math.isqrt(max(0, embeddings - tokens))
        if 0 < side <= _LARGEST_GRID and side * side == embeddings - tokens:
            return Grid(tokens, side)
    return None
