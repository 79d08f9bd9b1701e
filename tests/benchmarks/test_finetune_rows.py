"""The benchmark of fine-tuning trains for real, beside the same passes."""

import pytest
import torch

from benchmarks import finetune
from benchmarks.engine_step import Setting


def test_a_step_is_compared_with_its_own_passes(monkeypatch):
    small = Setting("timm/test_resnet", size=32, batch=4, optimizer=finetune.LITE0.optimizer)
    monkeypatch.setattr(finetune, "GOALS", {"test_resnet": (small, 1.1)})
    methods = []
    real = finetune.bare
    monkeypatch.setattr(
        finetune,
        "bare",
        lambda method, *rest: (
            methods.append((method, method.head.weight.clone())) or real(method, *rest)
        ),
    )
    threads = torch.get_num_threads()
    (row,) = finetune.rows(rounds=2)
    torch.set_num_threads(threads)
    assert (row.name, row.goal, row.at_most) == ("finetune_test_resnet_over_bare_passes", 1.1, True)
    assert row.ratio > 0
    ((method, before),) = methods
    assert not torch.equal(method.head.weight, before)
    images, labels = finetune.classifier(small)[1]
    passes = real(method, (images, labels), small)
    gradients = {n: p.grad.clone() for n, p in method.head.named_parameters()}
    passes()  # of copies
    for name, value in method.head.named_parameters():
        assert torch.equal(value.grad, gradients[name])
    assert labels.tolist() == pytest.approx([0, 1, 2, 3])
