"""What learns from train and judges val at a look."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpt_dist.evals import evidence, ridge
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.knn import scores_of, vote
from hpt_dist.stages import probes


def made(n, seed, *, several=False):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    features = torch.randn(n, 16, generator=generator) + 2 * functional.one_hot(labels, 16)
    if several:
        labels = torch.rand(n, 3, generator=generator) < 0.4
    return Labelled(features, labels)


@pytest.mark.parametrize("several", [False, True])
def test_each_probe_judges_val_by_train(several):
    train, val = made(30, 1, several=several), made(12, 2, several=several)

    def found(probe):
        return probes.scores(probe, train, val.features, 3, k=5, temperature=0.07)

    assert np.array_equal(found("ridge"), ridge.predict(train, val.features, 3).scores.numpy())
    (votes,) = vote(train, val.features, 3, [5], 0.07)
    assert np.array_equal(found("knn"), scores_of(votes, several=several))
    if not several:
        assert found("knn").argmax(axis=1).tolist() == votes.argmax(dim=1).tolist()


@pytest.mark.parametrize("probe", ["ridge", "knn"])
def test_the_verdict_names_the_probe(probe):
    right = np.random.default_rng(0).random((2, 155)) < 0.5
    found = evidence.gate({0: right[0], 60: right[1]}, kept=60, last=60, probe=probes.WORDS[probe])
    name = {"ridge": "ridge probe", "knn": "nearest neighbours"}[probe]
    assert f"({name}, 155 validation images, 1 look); kept step 60" in found.says
