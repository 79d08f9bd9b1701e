"""Evaluate frozen features by a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from hpt_dist.errors import DataError
from hpt_dist.evals import answers, knn, linear, logistic
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.logme import logme
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.stream import Pool
from hpt_dist.recipe import Linear
from hpt_dist.stages.choice import Left
from hpt_dist.stages.frozen import Frozen, features_of, head_of, judged, metric_for, test_of
from hpt_dist.stages.inputs import few_of, manifest_of
from hpt_dist.train.interrupt import BY_PEOPLE
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result

_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # Wu et al., arXiv 1805.01978


def run(context: Context, spec: Linear) -> Result:
    """Evaluate frozen features by a linear classifier."""
    replacements = Replacements(spec.max_bad)
    manifest = manifest_of(context, spec.data)
    num_classes = len(manifest.classes)
    features = features_of(
        *(context, spec.data),
        views=0 if spec.solver == "lbfgs" else spec.views,
        seed=spec.seed if spec.crop_seed is None else spec.crop_seed,
        replacements=replacements,
        where=spec.features,
        learned=_few(spec, num_classes, several=manifest.label == "multi") if spec.shots else None,
    )
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
    if context.order.trial.is_candidate:
        found["untrained"] = _untrained(train, val, num_classes, metric)
    head = head_of(context, spec.data, classifier, spec.features)
    return judged(context, spec.data, found, replacements, head)


def _few(spec: Linear, num_classes: int, *, several: bool) -> Callable[[Pool], Pool]:
    """Return what chooses the labelled images."""
    shots = spec.shots or 0
    return partial(few_of, num_classes=num_classes, shots=shots, seed=spec.seed, several=several)


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
    if left.head is None:
        raise DataError(f"{context.order.trial.name} left no classifier")
    num_classes, dim = left.head.state["weight"].shape
    classifier = nn.Linear(dim, num_classes, device="meta").requires_grad_(requires_grad=False)
    classifier.load_state_dict(left.head.state, assign=True)
    test = test_of(Frozen(context, spec.features), spec.data)
    scores = {"test": answers.of_head(classifier, test)}
    metric = metric_for(context, spec.data, spec.metric)
    return judged(context, spec.data, answers.results(metric, scores, {"test": test}))
