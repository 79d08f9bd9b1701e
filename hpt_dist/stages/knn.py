"""Evaluate frozen features by their nearest neighbours."""

from __future__ import annotations

from hpt_dist.evals import answers, knn
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Knn
from hpt_dist.recipe.kinds.frozen import trained_on
from hpt_dist.stages.choice import Left
from hpt_dist.stages.frozen import Frozen, features_of, judged, metric_for, test_of
from hpt_dist.stages.inputs import manifest_of
from hpt_dist.trial.context import Context
from hpt_dist.trial.result import Result


def run(context: Context, spec: Knn) -> Result:
    """Evaluate frozen features by their nearest neighbours."""
    replacements = Replacements(spec.max_bad)
    features = features_of(
        *(context, spec.data),
        views=0,
        seed=spec.seed,
        replacements=replacements,
        where=spec.features,
    )
    found = knn.evaluate(
        *features,
        num_classes=len(manifest_of(context, spec.data).classes),
        k=spec.k,
        temperature=spec.temperature,
        metric=metric_for(context, spec.data, spec.metric),
    )
    return judged(context, spec.data, found, replacements)


def read_test(context: Context, spec: Knn, left: Left) -> Result:
    """Return what train's neighbours say of test, with the k that a candidate chose."""
    frozen = Frozen(context, spec.features)
    train = frozen.features(trained_on(spec.data), replacements=Replacements(spec.max_bad))
    test = test_of(frozen, spec.data)
    scores = knn.answer(
        *(train, test, len(manifest_of(context, spec.data).classes)),
        k=left.details["selected"]["k"],
        temperature=spec.temperature,
    )
    metric = metric_for(context, spec.data, spec.metric)
    return judged(context, spec.data, answers.results(metric, {"test": scores}, {"test": test}))
