"""Read somebody else's weights, and say how they fit."""

from __future__ import annotations

import torch

from hpt_dist.recipe import Import
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result
from hpt_dist.weights import match as weights
from hpt_dist.weights import source as weights_source


def run(context: Context, spec: Import) -> Result:
    """Read somebody else's weights and say how they fit."""
    trial = context.order.trial
    torch.manual_seed(spec.seed)
    state, report = weights.load(
        spec.weights,
        trial.backbone,
        context.store,
        force=spec.force,
        fingerprint=trial.document["weights"],
    )
    context.note(report.lines)
    details = {
        "matched": len(report.matched),
        "missing": list(report.missing),
        "misshapen": list(report.misshapen),
        "layers": list(report.layers),
        "adapted": list(report.adapted),
        "unexpected": list(report.unexpected),
        "aside": list(report.aside),
        "recognised": report.recognised,
        "licence": weights_source.licence(spec.weights),
    }
    return Result({"import/matched_share": report.share}, details, weights=state)
