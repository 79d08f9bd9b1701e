"""Mistakes and confusion from answers, by hand, and their page."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from hpt_dist.datasets.preview import Thumbnail
from hpt_dist.page import as_html
from hpt_dist.report import mistakes, mistakes_page
from hpt_dist.report.mistakes import OfClass, Pair, in_per_cent
from hpt_dist.trial.predictions_file import Answer, Facts

NASTY = "<script>x</script>\x1b[31m"
FACTS = Facts(1, "birds", "0" * 64, "val", several=False, classes=("a", "b", NASTY))


def answer(key, label, top, scores, its=0.1):
    labels = label if isinstance(label, tuple) else (label,)
    its_scores = its if isinstance(its, tuple) else (its,) * len(labels)
    return Answer(key, f"files/{key}", labels, its_scores, top, scores)


ONE = [
    answer("1", 0, (0, 1), (0.9, 0.1), 0.9),
    answer("2", 0, (1, 0), (0.6, 0.4), 0.4),
    answer("3", 1, (2, 1), (1.0, 1e-9), 1e-9),
    answer("4", 1, (2, 1), (1.0, 1e-12), 1e-12),
    answer("5", 1, (1, 0), (0.5, 0.4), 0.5),
    answer("6", 0, (1, 0), (0.7, 0.2), 0.2),
]


def test_of_one_label_the_most_confident_mistake_is_first():
    found = mistakes.of(FACTS, ONE)
    assert [one.key for one in found.mistakes] == ["4", "3", "6", "2"]
    first = found.mistakes[0]
    assert (first.kind, first.true, first.answered) == ("confusion", ("b",), NASTY)
    assert found.classes == (OfClass("a", 3, 1, 0), OfClass("b", 3, 1, 2), OfClass(NASTY, 0, 0, 2))
    assert found.pairs == (
        Pair("a", "b", 2, pytest.approx(2 / 3)),
        Pair("b", NASTY, 2, pytest.approx(2 / 3)),
    )
    assert found.summary() == "4 of 6 images of birds/val are answered wrongly (66.7 %)"
    json = found.as_json(1)
    assert [one["key"] for one in json["mistakes"]] == ["4"]
    assert json["wrong"] == 4


SEVERAL = Facts(
    1, "birds", "0" * 64, "val", several=True, classes=("a", "b", "c"),
    average_precisions=(0.9, 0.4, None),
)  # fmt: skip


def test_of_several_labels_what_is_not_there_and_what_is_missed():
    found = mistakes.of(
        SEVERAL,
        [
            answer("1", (0, 1), (0, 2, 1), (0.9, 0.8, 0.3), (0.9, 0.3)),
            answer("2", (), (1, 0, 2), (0.95, 0.2, 0.1), ()),
            answer("3", (1,), (0, 2, 1), (0.4, 0.3, 0.01), (0.01,)),
            answer("4", (0,), (0, 1, 2), (0.5, 0.1, 0.1), (0.5,)),
        ],
    )
    wrong, missed = (found.of_kind(kind, 9) for kind in found.kinds)
    assert [(one.key, one.answered, one.probability) for one in wrong] == [
        ("2", "b", 0.95),
        ("1", "c", 0.8),
    ]
    assert [(one.key, one.answered, one.confidence) for one in missed] == [
        ("3", "b", 0.99),
        ("1", "b", 0.7),
        ("4", "a", 0.5),
    ]
    assert found.classes == (
        OfClass("b", 2, 0, 1, 0.4),
        OfClass("a", 2, 1, 0, 0.9),
        OfClass("c", 0, 0, 1, None),
    )
    assert found.pairs == ()
    assert "2 false positives and 3 false negatives" in found.summary()


def test_the_page_has_pictures_in_order_and_escapes_names():
    found = mistakes.of(FACTS, ONE)
    pictures = {one.key: Thumbnail(one.key, "", Image.new("RGB", (9, 9))) for one in ONE}
    html = as_html("t", mistakes_page.blocks(found, NASTY, pictures, "", 2))
    assert html.count("<script>") == 1  # ours, which sorts tables
    assert "\x1b" not in html
    assert html.count("<img") == 2
    assert html.index("files/4") < html.index("files/3")
    assert "Most confident mistakes: 2 of 4" in html
    assert "→ 100 % &lt;script&gt;" in html
    with Image.open(io.BytesIO(pictures["1"].png())) as image:
        assert image.size == (9, 9)


def test_without_images_the_page_lists_them_and_says_why():
    found = mistakes.of(FACTS, ONE)
    html = as_html("t", mistakes_page.blocks(found, "x/y", {}, "no dataset birds.", 9))
    assert "<img" not in html
    assert "Without pictures: no dataset birds." in html
    assert html.count("files/") == 4


def test_nothing_wrong_is_a_page_too():
    found = mistakes.of(FACTS, ONE[:1])
    html = as_html("t", mistakes_page.blocks(found, "x/y", {}, "", 9))
    assert "There is none." in html
    assert "0 of 1 images" in html


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100.0 %"), (0, "0.0 %"), (0.99999, ">99.9 %"), (1e-9, "<0.1 %"), (None, "-")],
)
def test_nearly_all_is_not_all(share, text):
    assert in_per_cent(share) == text
    assert in_per_cent(0.996, 0) == ">99 %"
