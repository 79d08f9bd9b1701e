"""Evaluate frozen features by a linear classifier."""

from __future__ import annotations

from hpt_dist.evals import linear
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Linear
from hpt_dist.stages.frozen import features_of, judged
from hpt_dist.stages.inputs import manifest_of
from hpt_dist.trial.run import Context, Result


def run(context: Context, spec: Linear) -> Result:
    """Evaluate frozen features by a linear classifier."""
    replacements = Replacements(spec.max_bad)
    features = features_of(
        context, spec.data, views=spec.views, seed=spec.seed, replacements=replacements
    )
    found = linear.evaluate(
        *features,
        num_classes=len(manifest_of(context, spec.data).classes),
        learning_rates=spec.learning_rates,
        milestones=spec.milestones,
        steps=spec.steps,
        batch=spec.batch,
        weight_decay=spec.weight_decay,
        seed=spec.seed,
    )
    return judged(found, replacements)
