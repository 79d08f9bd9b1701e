"""Evaluate frozen features by a linear classifier."""

from __future__ import annotations

from hpt_dist.evals import linear
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Linear
from hpt_dist.stages.frozen import features_of, judged
from hpt_dist.stages.inputs import manifest_of, mean_std
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights.head import Head


def run(context: Context, spec: Linear) -> Result:
    """Evaluate frozen features by a linear classifier."""
    replacements = Replacements(spec.max_bad)
    features = features_of(
        context, spec.data, views=spec.views, seed=spec.seed, replacements=replacements
    )
    classes = manifest_of(context, spec.data).classes
    found, classifier = linear.choose(
        *features,
        num_classes=len(classes),
        learning_rates=spec.learning_rates,
        milestones=spec.milestones,
        steps=spec.steps,
        batch=spec.batch,
        weight_decay=spec.weight_decay,
        seed=spec.seed,
    )
    state = {name: value.cpu() for name, value in classifier.state_dict().items()}
    head = Head(state, classes, context.order.image_size, *mean_std(context))
    return judged(found, replacements, head)
