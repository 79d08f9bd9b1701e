"""What the gate said against what test showed, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evidence import calibration
from evidence.calibration import Case
from evidence.records import Gate


def gate(verdict, mean):
    return Gate(verdict, mean, 1.0, 100)


CASES = [
    Case("a", gate("helped", 5.0), "helped", 4.0),
    Case("b", gate("helped", 3.0), "harmed", -2.0),
    Case("c", gate("no evidence", 0.5), "helped", 3.0),
    Case("d", gate("no evidence", -0.5), "no evidence", -1.0),
    Case("e", gate("harmed", -6.0), "harmed", -5.0),
]


def test_the_table_counts_verdicts():
    assert calibration.VERDICTS == ("helped", "no evidence", "harmed")
    assert calibration.table(CASES) == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]


def test_what_policies_earn_and_take():
    found = calibration.gains(CASES)
    assert list(found.values()) == [
        (0.0, 0, 0),
        (pytest.approx(-1 / 5), 5, 2),
        (pytest.approx(2 / 5), 2, 1),
        (pytest.approx(4 / 5), 4, 1),
        (pytest.approx(5 / 5), 3, 1),
        (pytest.approx(7 / 5), 2, 0),
    ]
    assert {earned for earned, _, _ in calibration.gains([]).values()} == {0.0}


def test_agreement_is_of_what_both_decide_with_an_exact_interval():
    one = calibration.agreement(CASES)
    assert (one.decided, one.agree) == (3, 2)
    assert (one.low, one.high) == pytest.approx((0.0943, 0.9916), abs=1e-4)  # tables of n=3, k=2
    assert calibration.agreement([CASES[3]]) == calibration.Agreement(0, 0, 0.0, 1.0)


def test_a_case_is_judged_by_the_images_that_changed():
    before = np.zeros(200, bool)
    after = before.copy()
    after[:40] = True
    one = calibration.case("x", gate("helped", 1.0), after, before)
    assert (one.truth, one.gain) == ("helped", 20.0)
    assert calibration.case("x", gate("helped", 1.0), before, after).truth == "harmed"
    after[2:] = False
    assert calibration.case("x", gate("helped", 1.0), after, before).truth == "no evidence"
