"""Whether features have collapsed: how spread they are, and over how many dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from hpt_dist.evals.features import require_finite

_TINY = 1e-7


def rankme(features: Tensor) -> float:
    """Return the effective rank of features: the smooth number of dimensions that they use.

    The exponential of the entropy of the singular values (Garrido et al., arXiv 2210.02885,
    eq. 1); from 1, where all features are multiples of one, to min(n, d).

    Args:
        features: [n, d].

    Raises:
        TrainingError: they are not finite.
    """
    require_finite(features)
    wide = features.double()
    gram = wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide
    values = torch.linalg.eigvalsh(gram).clamp_(min=0).sqrt_()
    shares = values / values.sum().clamp(min=_TINY) + _TINY
    return float(torch.exp(-(shares * shares.log()).sum()))
