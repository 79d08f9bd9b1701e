"""Evaluate frozen features by a linear classifier."""

from __future__ import annotations

import torch

from hpt_dist.errors import DataError
from hpt_dist.evals import knn, linear
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.logme import logme
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Linear
from hpt_dist.stages.choice import Left
from hpt_dist.stages.frozen import Frozen, features_of, judged
from hpt_dist.stages.inputs import manifest_of, mean_std
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights.head import Head

_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # Wu et al., arXiv 1805.01978


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
    if context.order.trial.is_candidate:
        found["untrained"] = _untrained(*features[:2], len(classes))
    state = {name: value.cpu() for name, value in classifier.state_dict().items()}
    head = Head(state, classes, context.order.image_size, *mean_std(context))
    return judged(found, replacements, head)


def _untrained(train: Labelled, val: Labelled, num_classes: int) -> dict[str, float]:
    """Return what features tell without a training: LogME, and nearest neighbours on val."""
    first = Labelled(train.features[0], train.labels)
    near = knn.evaluate(
        first, val, None, num_classes=num_classes, k=(_NEIGHBOURS,), temperature=_TEMPERATURE
    )
    found = logme(first.features.numpy(), first.labels.numpy(), num_classes)
    return {"LogME": found, f"{_NEIGHBOURS}-NN val/top1": near["val/top1"]}


def read_test(context: Context, spec: Linear, left: Left) -> Result:
    """Return what the classifier that a candidate left says of test."""
    if left.head is None:
        raise DataError(f"{context.order.trial.name} left no classifier")
    classes, dim = left.head.state["weight"].shape
    classifier = torch.nn.Linear(dim, classes)
    classifier.load_state_dict(left.head.state)
    test = Frozen(context, spec.data).split("test")
    return judged(linear.judge(classifier.requires_grad_(requires_grad=False), test))
