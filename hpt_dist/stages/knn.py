"""Evaluate frozen features by their nearest neighbours."""

from __future__ import annotations

from hpt_dist.evals import knn
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Knn
from hpt_dist.stages.frozen import features_of, judged, metric_for
from hpt_dist.stages.inputs import manifest_of
from hpt_dist.trial.run import Context, Result


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
