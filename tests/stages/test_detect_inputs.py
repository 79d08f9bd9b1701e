"""What a detector is trained on as tensors, its images' seeds, and what it finds in pixels."""

import numpy as np
import torch

from hpt_dist.images import run_lengths
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks.detector import Found
from hpt_dist.stages import detect_inputs, detect_scores

SIZES = ((60, 80), (80, 64), (60, 80), (96, 50))
NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def sample(place, masks=True):
    height, width = SIZES[place]
    count = place % 3
    target = {
        "boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]] * count).view(-1, 4),
        "labels": torch.full((count,), place),
        "index": place,
        "key": str(place),
    }
    if masks:
        target["masks"] = torch.ones(count, height, width, dtype=torch.bool)
    return torch.full((3, height, width), 50 * place, dtype=torch.uint8), target


def test_a_share_becomes_padded_tensors():
    samples = [sample(place) for place in range(4)]
    inputs = detect_inputs.inputs_of(samples, NORMALIZE, seed=0, step=5)
    assert inputs.images.shape == (4, 3, 96, 80)
    assert inputs.counts.tolist() == [0, 1, 2, 0]
    assert inputs.labels.tolist() == [1, 2, 2]
    assert inputs.boxes.shape == (3, 4)
    assert inputs.masks.shape == (3, 96, 80)
    assert inputs.masks[0].sum() == 80 * 64
    for image, (h, w), (pixels, _) in zip(
        inputs.images, inputs.sizes.tolist(), samples, strict=True
    ):
        assert (h, w) == pixels.shape[1:]
        torch.testing.assert_close(image[:, :h, :w], NORMALIZE(pixels[None])[0])
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()
    without = [sample(place, masks=False) for place in range(4)]
    assert detect_inputs.inputs_of(without, NORMALIZE, seed=0, step=5).masks.shape == (0,)


def test_seeds_are_those_of_step_and_place_on_any_rank():
    samples = [sample(place) for place in range(4)]
    whole = detect_inputs.inputs_of(samples, NORMALIZE, seed=0, step=5).seeds
    half = detect_inputs.inputs_of(samples[2:], NORMALIZE, seed=0, step=5).seeds
    assert torch.equal(whole[2:], half)
    others = [detect_inputs.seeds(*one, range(4)) for one in ((0, 6), (1, 5))]
    seen = [int(one) for seeds in (whole, *others) for one in seeds]
    assert len(set(seen)) == 12
    assert all(0 <= one < 2**53 for one in seen)


def test_what_is_found_is_scaled_to_the_stored_image():
    found = Found(
        torch.tensor([[10.0, 20.0, 30.0, 40.0]]),
        torch.tensor([0.5]),
        torch.tensor([2]),
        torch.ones(1, 14, 14),
    )
    stored = detect_scores.in_image(found, (80, 100), (160, 300))
    assert stored.boxes.tolist() == [[30, 40, 90, 80]]
    mask = run_lengths.decode(stored.masks[0], (160, 300))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert abs(rows[0] - 40) <= 3
    assert abs(columns[-1] - 90) <= 4
