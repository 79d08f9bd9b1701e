"""Evaluate frozen features by a linear classifier."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from hpt_dist.errors import DataError
from hpt_dist.evals import answers, knn, linear, logistic
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.logme import logme
from hpt_dist.networks.inner_features import POOL
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Linear
from hpt_dist.stages.choice import Left
from hpt_dist.stages.frozen import Frozen, features_of, judged, metric_for, test_of
from hpt_dist.stages.inputs import manifest_of, mean_std
from hpt_dist.train.interrupt import BY_PEOPLE
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights.head import Head

_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # Wu et al., arXiv 1805.01978


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
            heeding=lambda steps: context.interrupt.heeding(steps, *BY_PEOPLE),
        )
    head, is_candidate = _head(context, spec, classifier), context.order.trial.is_candidate
    if is_candidate:
        found["untrained"] = _untrained(train, val, num_classes, metric)
    result = judged(context, spec.data, found, replacements, head)
    # It reads test, should it be chosen, also where it is no head for others.
    own = dict(classifier.state_dict()) if is_candidate and not head else None
    return replace(result, model=own)


def _head(context: Context, spec: Linear, classifier: nn.Linear) -> Head | None:
    """Return what `load_classifier` puts on the backbone: it gives pooled features, and one class.

    None where the classifier is of other features, or of several labels an image.
    """
    manifest = manifest_of(context, spec.data)
    if spec.features != POOL or manifest.label == "multi":
        return None
    state = {name: value.cpu() for name, value in classifier.state_dict().items()}
    return Head(state, manifest.classes, context.order.image_size, *mean_std(context))


def _untrained(train: Labelled, val: Labelled, num_classes: int, metric: str) -> dict[str, float]:
    """Return what features tell without a training: LogME, and nearest neighbours on val."""
    first = train.features if train.features.ndim == 2 else train.features[0]
    near = knn.evaluate(
        *(train._replace(features=first), val, None),
        num_classes=num_classes,
        k=(_NEIGHBOURS,),
        temperature=_TEMPERATURE,
        metric=metric,
    )
    found = logme(first.numpy(), train.labels.numpy(), num_classes)
    return {"LogME": found, f"{_NEIGHBOURS}-NN val/{metric}": near[f"val/{metric}"]}


def read_test(context: Context, spec: Linear, left: Left) -> Result:
    """Return what the classifier that a candidate left says of test."""
    state = left.head.state if left.head else left.model
    if state is None:
        raise DataError(f"{context.order.trial.name} left no classifier")
    num_classes, dim = state["weight"].shape
    classifier = nn.Linear(dim, num_classes, device="meta").requires_grad_(requires_grad=False)
    classifier.load_state_dict(state, assign=True)
    test = test_of(Frozen(context, spec.features), spec.data)
    scores = {"test": answers.of_head(classifier, test)}
    metric = metric_for(context, spec.data, spec.metric)
    return judged(context, spec.data, answers.results(metric, scores, {"test": test}))
