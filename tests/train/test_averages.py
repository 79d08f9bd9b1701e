"""Averages of two states of a network: the numbers, and their names."""

import numpy as np
import pytest
import torch
from torch import nn

from hpt_dist.train.averages import Average, averaged, in_words, of_details


def state(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for _ in range(seed):
        network[:2](torch.randn(5, 3, 8, 8))
    return network.state_dict()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_every_floating_tensor_is_on_the_straight_line_between(share):
    base, adapted = state(1), state(4)
    found = averaged(base, adapted, share)
    assert found.keys() == adapted.keys()
    assert {"1.running_mean", "1.running_var"} <= found.keys()
    for name, value in found.items():
        assert value.dtype == adapted[name].dtype
        if name == "1.num_batches_tracked":
            assert value == 4
            continue
        one, other = (np.float64(two[name].numpy()) for two in (base, adapted))
        exact = one + share * (other - one)
        # Rounded once: half a unit in the last place of a float32.
        assert np.abs(value.numpy() - exact).max() <= 2**-24 * np.abs(exact).max()
    assert not any(torch.equal(found[n], base[n]) for n in found if "running" in n)


def test_it_does_not_change_what_it_averages():
    base, adapted = state(1), state(2)
    averaged(base, adapted, 0.5)
    assert all(torch.equal(base[name], value) for name, value in state(1).items())
    assert all(torch.equal(adapted[name], value) for name, value in state(2).items())


def test_weights_in_words():
    average = Average(0.5, 300)
    assert in_words(average) == "0.5 of the way from the base to step 300"
    assert (in_words(300), in_words(0)) == ("step 300", "the base")
    assert of_details({"kept_step": 300, "kept_average": 0.5}) == average
    assert of_details({"kept_step": 300}) is None
