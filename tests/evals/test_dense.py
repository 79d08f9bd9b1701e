"""Patches judged: the mean IoU is scikit-learn's, val chooses, test is read once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import jaccard_score

from hpt_dist.errors import DataError, TrainingError
from hpt_dist.evals import bootstrap, dense
from hpt_dist.evals.dense import Patches
from hpt_dist.evals.features import Labelled

CLASSES = ("background", "cat", "owl")
SETTINGS = {"classes": CLASSES, "l2": (1.0, 1e-2), "k": (1, 3), "temperature": 0.07}


def patches_of(seed, images=6, noise=0.1, *, labels=None):
    """Patches whose features are their class's direction, and noise."""
    generator = torch.Generator().manual_seed(seed)
    if labels is None:
        labels = torch.randint(0, 3, (images, 9), generator=generator)
    features = torch.eye(3, 5)[labels.clamp_min(0)]
    features += noise * torch.randn(*labels.shape, 5, generator=generator)
    return Patches(features, labels)


def learned(patches):
    return Labelled(patches.features.flatten(0, 1), patches.labels.flatten())


labels_of_images = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(-1, 2), min_size=4, max_size=4), min_size=n, max_size=n)
)


@given(labels_of_images, st.randoms(use_true_random=False))
def test_the_ious_are_scikit_learns(rows, random):
    labels = torch.tensor(rows)
    given_classes = torch.tensor([[random.randrange(3) for _ in row] for row in rows])
    answer = lambda _: {0: given_classes.flatten()}  # noqa: E731
    ((counts,),) = [
        found.values()
        for found in dense.count([Patches(labels[:, :, None].float(), labels)], [answer], 3)
    ]
    known = (labels >= 0).flatten()
    there = sorted(set(labels.flatten()[known].tolist()))
    ious = counts.ious()
    assert [c for c in range(3) if ious[c] is not None] == there
    if not there:
        with pytest.raises(DataError, match="no patch"):
            counts.mean()
        return
    expected = jaccard_score(
        labels.flatten()[known], given_classes.flatten()[known], labels=there, average=None
    )
    assert [ious[c] for c in there] == pytest.approx(expected.tolist())
    assert counts.mean() == pytest.approx(expected.mean())
    drawn = counts.replicates()
    weights = next(iter(bootstrap.counts(len(rows), bootstrap.DRAWS)))[:, 0].astype(int)
    again = dense.Counts(*(np.repeat(one, weights, axis=0) for one in vars(counts).values()))
    if np.isnan(drawn[0]):
        assert not again.there.any()
    else:
        assert drawn[0] == pytest.approx(again.mean(), abs=1e-9)


def test_what_is_separate_is_told_apart_and_test_is_read_once():
    reads = []

    def split(seed):
        def read():
            reads.append(seed)
            return [patches_of(seed), patches_of(seed + 100)]

        return read

    found = dense.evaluate(learned(patches_of(0)), split(1), split(2), **SETTINGS)
    assert reads == [1, 2]
    for name in ("val/miou", "test/miou", "val/knn_miou", "test/knn_miou"):
        assert found[name] == 1
    assert found["metric"] == "miou"
    assert found["selected"] == {"l2": 1.0, "k": 1}  # of equals the strongest, and the fewest
    assert (found["n_train"], found["n_val"], found["n_test"]) == (54, 12, 12)
    assert found["iou"]["test/miou"] == dict.fromkeys(CLASSES, 1.0)
    assert found["excluded"] == {}
    assert found["not_converged"] == []


def test_noise_tells_less_and_val_chooses():
    noisy = [patches_of(seed, images=20, noise=0.8) for seed in range(3)]
    found = dense.evaluate(learned(noisy[0]), lambda: noisy[1:2], lambda: noisy[2:], **SETTINGS)
    assert 0.3 < found["test/miou"] < 0.98
    by_l2, by_k = found["val/miou_by_l2"], found["val/knn_miou_by_k"]
    assert found["val/miou"] == max(by_l2.values()) == by_l2[f"{found['selected']['l2']:g}"]
    assert found["val/knn_miou"] == max(by_k.values()) == by_k[str(found["selected"]["k"])]
    low, high = found["intervals"]["test/miou"]
    assert low < found["test/miou"] < high
    assert len(found["replicates"]["test/knn_miou"]) == bootstrap.DRAWS


def test_a_class_without_a_patch_is_named_and_in_no_mean():
    labels = torch.tensor([[0, 1, 0, 1], [1, 1, 0, -1]])
    two = patches_of(1, labels=labels)
    found = dense.evaluate(learned(patches_of(0)), lambda: [two], None, **SETTINGS)
    assert found["iou"]["val/miou"] == {"background": 1.0, "cat": 1.0, "owl": None}
    assert found["excluded"] == {"val": {"miou": ["owl"], "knn_miou": ["owl"]}}
    assert found["val/miou"] == 1
    assert "test/miou" not in found


def test_features_that_are_not_finite_are_refused():
    broken = patches_of(1)
    broken.features[0, 0, 0] = torch.nan
    with pytest.raises(TrainingError, match="not finite"):
        dense.evaluate(learned(patches_of(0)), lambda: [broken], None, **SETTINGS)
    with pytest.raises(DataError, match="no images"):
        dense.evaluate(learned(patches_of(0)), list, None, **SETTINGS)


def test_colours_are_the_principal_components():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 8, generator=generator) * torch.tensor([9, 5, 3] + [0.1] * 5)
    colours = dense.principal(features)
    assert colours.shape == (200, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    expected = PCA(3).fit_transform(features.double().numpy())
    for c in range(3):
        inside = (colours[:, c] > 0) & (colours[:, c] < 1)
        likeness = np.corrcoef(colours[inside, c], expected[inside.numpy(), c])[0, 1]
        assert abs(likeness) == pytest.approx(1, abs=1e-5)
    # Equal features have equal colours, whichever network they are of; and no sign is by chance.
    both = dense.principal(torch.cat([features, features]))
    assert torch.equal(both[:200], both[200:])
    torch.testing.assert_close(both[:200], colours, atol=1e-2, rtol=0)
    torch.testing.assert_close(
        dense.principal(features[torch.randperm(200)]).sort(dim=0).values,
        colours.sort(dim=0).values,
    )
    assert dense.principal(torch.randn(5, 2)).shape == (5, 3)
