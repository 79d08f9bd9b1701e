"""Evaluate frozen features by a linear classifier."""

from __future__ import annotations

from torch import nn

from hpt_dist.evals import linear, logistic
from hpt_dist.networks.inner_features import POOL
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Linear
from hpt_dist.stages.frozen import features_of, judged, metric_for
from hpt_dist.stages.inputs import manifest_of, mean_std
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights.head import Head


def run(context: Context, spec: Linear) -> Result:
    """Evaluate frozen features by a linear classifier."""
    replacements = Replacements(spec.max_bad)
    features = features_of(
        *(context, spec.data),
        views=0 if spec.solver == "lbfgs" else spec.views,
        seed=spec.seed if spec.crop_seed is None else spec.crop_seed,
        replacements=replacements,
        where=spec.features,
    )
    num_classes = len(manifest_of(context, spec.data).classes)
    metric = metric_for(context, spec.data, spec.metric)
    train, val, test = features
    if spec.solver == "lbfgs":
        found, classifier = logistic.choose(
            *features, num_classes=num_classes, l2=spec.l2, metric=metric
        )
    else:
        found, classifier = linear.choose(
            *(train if spec.views else train._replace(features=train.features[None]), val, test),
            num_classes=num_classes,
            learning_rates=spec.learning_rates,
            milestones=spec.milestones,
            steps=spec.steps,
            batch=spec.batch,
            weight_decay=spec.weight_decay,
            seed=spec.seed,
            metric=metric,
        )
    head = _head(context, spec, classifier)
    return judged(context, spec.data, found, replacements, head)


def _head(context: Context, spec: Linear, classifier: nn.Linear) -> Head | None:
    """Return what `load_classifier` puts on the backbone: it gives pooled features, and one class.

    None where the classifier is of other features, or of several labels an image.
    """
    manifest = manifest_of(context, spec.data)
    if spec.features != POOL or manifest.label == "multi":
        return None
    state = {name: value.cpu() for name, value in classifier.state_dict().items()}
    return Head(state, manifest.classes, context.order.image_size, *mean_std(context))
