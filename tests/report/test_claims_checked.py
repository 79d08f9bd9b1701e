"""Claims are checked on what is done, and stay open where what is left can change them."""

from __future__ import annotations

import pytest
from reports import finished, launched

from hpt_dist.report.claims import Checked
from hpt_dist.report.report import build

BASE = {"a": (0.50, 0.52), "b": (0.60, 0.62), "c": (0.70, 0.72)}
HPT = {"a": (0.60, 0.62), "b": (0.59, 0.61), "c": (0.75, 0.78)}


def checked(claim: str, without: tuple[str, ...] = (), **figure: object) -> Checked:
    names = {
        f"adapt/init={init},shots={column},seed={seed}": value
        for init, rows in (("base", BASE), ("hpt", HPT))
        for column, values in rows.items()
        for seed, value in enumerate(values)
    }
    done = [
        finished(name, {"test/top1": value})
        for name, value in names.items()
        if not any(part in name for part in without)
    ]
    [[found]] = build(launched(list(names), claims=[claim], **figure), done).claims
    assert found.claim == claim
    return found


@pytest.mark.parametrize(
    ("claim", "state", "held"),
    [
        ("hpt at least base on 2 of 3", "held", 2),
        ("hpt at least base", "not held", 2),
        ("hpt at least base on all", "not held", 2),
        ("hpt at least base - 1 on all", "held", 3),
        ("hpt above base + 6 on 1 of 3", "held", 1),
        ("hpt at most base on 2 of 3", "not held", 1),
        ("base below hpt on 2 of 3", "held", 2),
        ("hpt at least base on 3 of 4", "not decided yet", 0),
        ("hpt2 at least base", "not decided yet", 0),
        ("hpt not harmed on all", "not decided yet", 1),  # without a spread there is no verdict
    ],
)
def test_a_claim_is_held_or_not(claim: str, state: str, held: int) -> None:
    found = checked(claim)
    assert (found.state, found.held) == (state, held)


def test_where_it_does_not_hold_is_said() -> None:
    assert checked("hpt at least base").says == "on 2 of 3; not on: shots b"
    assert "there is no row hpt2; the rows are base, hpt" in checked("hpt2 at least base").says
    assert "it is of 4 places, and the figure has 3" in checked("hpt helped on 1 of 4").says


def test_what_is_left_keeps_a_claim_open_only_where_it_can_change_it() -> None:
    left = ("init=hpt,shots=c,seed=1",)
    assert checked("hpt at least base on 2 of 3", left).state == "not decided yet"
    assert "open: shots c" in checked("hpt at least base on 2 of 3", left).says
    assert checked("hpt at least base on 1 of 3", left).state == "held"
    assert checked("hpt at least base on 3 of 3", left).state == "not held"


def test_a_paper_is_reproduced_or_not() -> None:
    paper = {"hpt": {"a": 61.5, "b": 66.0}}
    assert checked("hpt within 0.5 of paper on 1 of 3", paper=paper).state == "held"
    assert checked("hpt within 0.4 of paper on 1 of 3", paper=paper).state == "not decided yet"
    assert checked("hpt within 0.5 of paper on 3 of 3", paper=paper).state == "not held"


def test_claims_are_in_the_markdown() -> None:
    names = [f"adapt/init={i},shots=1,seed={n}" for i in ("base", "hpt") for n in (0, 1)]
    done = [finished(n, {"test/top1": 0.5 + 0.01 * at}) for at, n in enumerate(names)]
    text = build(launched(names, claims=["hpt above base"]), done).markdown()
    assert "| hpt above base | \u2713 held | on 1 of 1 |" in " ".join(text.split())
