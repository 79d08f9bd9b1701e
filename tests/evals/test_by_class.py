"""Changes by class: by hand, against the accuracy of all images, and their interval's coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.evals.by_class import changes

CLASSES = ("axe", "bee", "cow", "dog")


def test_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 3])
    first = np.array([0, 0, 1, 1, 1, 1], bool), np.array([1, 1, 1, 1, 0, 1], bool)
    second = np.array([0, 1, 1, 1, 1, 0], bool), np.array([1, 1, 0, 0, 0, 0], bool)
    axe, dog, bee = changes(CLASSES, labels, [first, second])
    assert (axe.name, axe.images, axe.up, axe.down) == ("axe", 3, 1, 0)
    assert (axe.base, axe.ours, axe.change) == pytest.approx((3 / 6, 5 / 6, 2 / 6))
    assert (dog.name, dog.change, dog.up, dog.down) == ("dog", 0, 0, 0)
    assert (bee.name, bee.base, bee.ours, bee.change) == ("bee", 1, 0.25, -0.75)
    assert (bee.up, bee.down) == (0, 2)
    # Agresti and Min: its images change by 1, 1/2 and -1/2 in mean, and two more are added.
    middle, squares = 1 / 5, 1 + 1 / 4 + 1 / 4 + 1
    reach = 2.776445 * np.sqrt((squares / 5 - middle**2) / 5)  # Student's t of 4 degrees
    assert axe.low == pytest.approx(middle - reach)
    assert axe.high == 1 < middle + reach


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_classes_add_up_to_the_change_of_all_images(seed, images, pairs):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), images)
    answers = [tuple(generator.random((2, images)) < 0.6) for _ in range(pairs)]
    found = changes(CLASSES, labels, answers)
    assert sum(one.images for one in found) == images
    assert {one.name for one in found} == {CLASSES[c] for c in labels}
    total = sum(one.change * one.images for one in found) / images
    assert total == pytest.approx(
        np.mean([after.mean() - before.mean() for before, after in answers])
    )
    for one in found:
        assert one.change == pytest.approx(one.ours - one.base)
        assert -1 <= one.low < one.high <= 1
        assert one.up + one.down <= pairs
    assert [one.change for one in found] == sorted((one.change for one in found), reverse=True)


@pytest.mark.parametrize("images", [5, 20, 61])
@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (0.4, 0.6), (0.1, 0.9), (0.97, 0.99)])
def test_the_interval_covers_the_true_change(images, before, after):
    generator = np.random.default_rng(images)
    covered, truth = 0, true_change(before, after)
    for _ in range(400):
        ease = generator.random(images)  # of an image: models of a pair are right on the same ones
        base = 0.7 * ease + 0.3 * generator.random(images) < before
        ours = 0.7 * ease + 0.3 * generator.random(images) < after
        (one,) = changes(("axe",), np.zeros(images, int), [(base, ours)])
        covered += one.low <= truth <= one.high
    assert covered >= 0.92 * 400


def true_change(before, after):
    """Return the change over all images of which `ease` is uniform."""
    x = (np.arange(500) + 0.5) / 500
    sums = np.sort((0.7 * x[:, None] + 0.3 * x[None]).ravel())
    return (np.searchsorted(sums, after) - np.searchsorted(sums, before)) / sums.size
