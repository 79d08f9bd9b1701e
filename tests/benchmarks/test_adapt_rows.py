"""The benchmark of adaptation trains for real, beside the same passes."""

import pytest
import torch

from benchmarks import adapt
from benchmarks.engine_step import Setting


def test_a_step_of_each_objective_is_compared_with_its_own_passes(monkeypatch):
    small = Setting("timm/test_resnet", size=32, batch=4, optimizer=adapt.LITE0.optimizer)
    monkeypatch.setattr(adapt, "LITE0", small)
    methods = []
    real = adapt.bare

    def bare(method, *rest):
        methods.append((method, method.prototypes.weight.clone()))
        return real(method, *rest)

    monkeypatch.setattr(adapt, "bare", bare)
    threads = torch.get_num_threads()
    rows = list(adapt.rows(rounds=1))
    torch.set_num_threads(threads)
    assert [row.name for row in rows] == [
        "adapt_mme_over_bare_passes",
        "adapt_consistency_over_bare_passes",
    ]
    assert all(row.ratio > 0 and row.at_most and row.goal == pytest.approx(1.1) for row in rows)
    for method, before in methods:
        assert not torch.equal(method.prototypes.weight, before)
