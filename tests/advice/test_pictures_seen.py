"""What encoded images show, and which of them are there twice."""

import io

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

from hpt_dist.advice import pictures
from hpt_dist.errors import DamagedImageError


def deep():
    """Return a PNG of 16 bits that uses the lower half."""
    values = np.linspace(0, 2**15, 48 * 64).reshape(48, 64).astype(np.uint16)
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG")
    return data.getvalue()


def test_sizes_colours_depth_contrast_and_damage_are_seen():
    colour = encoded(picture(1, (200, 100)), "PNG")
    files = [
        colour,
        encoded(picture(2, (90, 60)).convert("L"), "JPEG"),
        deep(),
        encoded(Image.new("RGB", (40, 40), (200, 10, 10)), "PNG"),
        colour[:300],
    ]
    found = pictures.looked_at(range(5), files.__getitem__, "photos/{}".format)
    assert (found.seen, found.damaged) == (5, ("photos/4",))
    assert (found.gray, found.deep, found.flat) == (0.5, 0.25, 0.25)
    assert found.short_sides == (42, 54, 88)
    assert found.range[0] < 10
    assert found.range[1] > 200


def test_images_of_which_none_decodes_are_an_error():
    with pytest.raises(DamagedImageError, match="none of the formats"):
        pictures.looked_at([0, 1], lambda _: b"no image", str)


def test_copies_that_were_recompressed_or_resized_are_found_among_others():
    pool = [encoded(picture(number), "PNG") for number in range(40)]
    judged = [
        encoded(picture(3), "JPEG", quality=60),
        encoded(picture(5).resize((80, 60)), "PNG"),
        pool[7],
        encoded(picture(100), "PNG"),
        b"damaged",
        encoded(Image.new("RGB", (40, 40)), "PNG"),
    ]
    words = [pictures.words_of(range(len(one)), one.__getitem__) for one in (judged, pool)]
    found = pictures.copies(*words, exact=1, whole=True)
    assert (found.judged, found.others, found.near, found.exact) == (4, 40, 3, 1)
    none = pictures.words_of([], judged.__getitem__)
    assert pictures.copies(none, words[1], exact=None, whole=False).near == 0


def test_a_sample_is_the_same_on_every_machine_and_smaller_ones_begin_it():
    rows = pictures.sampled(1000, 20)
    assert list(pictures.sampled(1000, 5)) == list(rows[:5])
    assert sorted(pictures.sampled(7, 20)) == list(range(7))
    assert len(set(rows)) == 20
