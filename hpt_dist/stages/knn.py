"""Evaluate frozen features by their nearest neighbours."""

from __future__ import annotations

from hpt_dist.evals import knn
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Knn
from hpt_dist.stages.choice import Left
from hpt_dist.stages.frozen import Frozen, features_of, judged
from hpt_dist.stages.inputs import manifest_of
from hpt_dist.trial.run import Context, Result


def run(context: Context, spec: Knn) -> Result:
    """Evaluate frozen features by their nearest neighbours."""
    replacements = Replacements(spec.max_bad)
    features = features_of(context, spec.data, views=0, seed=spec.seed, replacements=replacements)
    found = knn.evaluate(
        *features,
        num_classes=len(manifest_of(context, spec.data).classes),
        k=spec.k,
        temperature=spec.temperature,
    )
    return judged(found, replacements)


def read_test(context: Context, spec: Knn, left: Left) -> Result:
    """Return what train's neighbours say of test, with the k that a candidate chose."""
    frozen = Frozen(context, spec.data)
    found = knn.judge(
        frozen.split("train", Replacements(spec.max_bad)),
        frozen.split("test"),
        num_classes=len(manifest_of(context, spec.data).classes),
        k=left.result["details"]["selected"]["k"],
        temperature=spec.temperature,
    )
    return judged(found)
