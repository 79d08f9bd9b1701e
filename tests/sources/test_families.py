"""The splits of families: whole, whatever the order of the images."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.sources import families

FAMILIES = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), max_size=40)


@given(FAMILIES, st.randoms())
def test_families_are_placed_in_any_order_of_the_images(images, random):
    splits = families.assign_splits(images, ["x", "y"])
    assert set(splits) == {family for family, name in images if name != "z"}
    assert set(splits.values()) <= set(families.SHARES)
    shuffled = random.sample(images, len(images))
    assert families.assign_splits(shuffled, ["x", "y"]) == splits


def test_unlabelled_relatives_of_what_judges_are_left_out():
    assert families.place("val", is_labelled=False) == ""
    assert families.place("test", is_labelled=False) == ""
    assert families.place("train", is_labelled=False) == "unlabeled"
    assert families.place(None, is_labelled=False) == "unlabeled"
    assert families.place("val", is_labelled=True) == "val"
