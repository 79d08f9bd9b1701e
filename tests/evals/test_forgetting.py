"""What training forgot, in words."""

import numpy as np
import pytest

from hpt_dist.evals import evidence, forgetting

N = 400


def judged(gained, lost):
    """Return the verdict on weights that have some more, and some fewer, of the images right."""
    before = np.arange(N) < N // 2
    after = before.copy()
    after[:lost] = False
    after[N // 2 : N // 2 + gained] = True
    found = evidence.gate({0: before, 1: after}, kept=1, last=1)
    values = before.mean(), after.mean()
    return forgetting.judge("photos", "knn/top1", *values, found)


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "opening"),
    [
        (10, 60, "harmed", "forgot 12.5 ± "),
        (12, 10, "no evidence", "no evidence of forgetting: +0.5 ± "),
        (60, 10, "helped", "forgot nothing of photos, which is better: +12.5 ± "),
    ],
)
def test_a_difference_says_how_much_is_forgotten(gained, lost, verdict, opening):
    found = judged(gained, lost)
    assert found.verdict == verdict
    assert found.says.startswith(opening)
    assert found.says.endswith("(top-1 accuracy, 400 validation images)")
    assert "photos" in found.says
    assert found.mean == pytest.approx(100 * (found.after - found.before))


def test_where_the_base_is_kept_nothing_can_be_forgotten():
    found = forgetting.of_kept_base("photos")
    assert found.says == "kept the base: nothing of photos is forgotten"
    assert (found.verdict, found.mean) == ("none", None)
