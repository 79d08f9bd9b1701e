"""Which images a probe judges, and by which others."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpt_dist.evals import evidence, metrics, ridge
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
def test_a_ridge_probe_judges_train_and_val_by_all_others(several):
    train, val = made(30, 1, several=several), made(12, 2, several=several)
    scores, labels = probes.judge("ridge", train, val, 3, k=1, temperature=1)
    assert labels.tolist() == [*train.labels.tolist(), *val.labels.tolist()]
    everything = Labelled(torch.cat([train.features, val.features]), torch.from_numpy(labels))
    expected = ridge.leave_one_out(everything, 3).scores
    if several:
        rest = ~torch.eye(42, dtype=torch.bool)
        expected -= torch.stack([everything.labels[one].double().mean(dim=0) for one in rest])
    assert np.allclose(scores, expected.numpy(), rtol=0, atol=1e-12)


def test_features_without_a_trace_of_the_labels_rank_no_image_by_its_label():
    labels = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    same = Labelled(torch.ones(40, 5), labels)
    scores, judged = probes.judge("ridge", same, same, 3, k=1, temperature=1)
    assert metrics.compute("auroc", scores.round(9), judged) == 0.5


@pytest.mark.parametrize("several", [False, True])
def test_nearest_neighbours_in_train_judge_val(several):
    train, val = made(30, 1, several=several), made(12, 2, several=several)
    scores, labels = probes.judge("knn", train, val, 3, k=5, temperature=0.07)
    assert labels.tolist() == val.labels.tolist()
    (votes,) = vote(train, val.features, 3, [5], 0.07)
    assert np.array_equal(scores, scores_of(votes, several=several))
    if not several:
        assert scores.argmax(axis=1).tolist() == votes.argmax(dim=1).tolist()


def test_the_verdict_names_the_probe_and_its_images():
    right = np.random.default_rng(0).random((2, 664)) < 0.5
    words = probes.WORDS["ridge"]
    found = evidence.gate(
        {0: right[0], 60: right[1]}, kept=60, last=60, probe=words.probe, of=words.images
    )
    assert "(ridge probe, leave-one-out, 664 labelled images, 1 look); kept step 60" in found.says
