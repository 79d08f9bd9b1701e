"""Backbones with the weights of a source, and of a finished trial."""

import shutil

import pytest
import torch

from hpt_dist.errors import RequestError, StoreError, WeightsError
from hpt_dist.launch.calls import finished
from hpt_dist.store.paths import stage_prefix
from hpt_dist.weights import match
from hpt_dist.weights.backbone import load_backbone

NAME = "timm/test_efficientnet"


@pytest.fixture
def trials(tiny):
    return {trial.name: trial for trial in finished("tiny", store=str(tiny[0]))}


def test_what_a_trial_left(tiny, trials):
    store = tiny[0]
    backbone = load_backbone("test_efficientnet", f"trial/{trials['hpt'].key}", store=str(store))
    data = (store / stage_prefix(trials["hpt"].key) / "weights.safetensors").read_bytes()
    left, _ = match.read(data)
    assert left.keys() == backbone.state_dict().keys()
    assert all(torch.equal(left[name], value) for name, value in backbone.state_dict().items())
    features = backbone.eval()(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, backbone.feature_dim)


def test_random_weights_come_from_torchs_generator():
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(load_backbone(NAME).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, made), strict=True))


def test_weights_of_a_recipes_source():
    backbone = load_backbone("timm/tf_efficientnet_lite0", "package/efficientnet-lite0")
    assert backbone.feature_dim == 1280
    with pytest.raises(WeightsError, match="do not fit"):
        load_backbone(NAME, "package/efficientnet-lite0")


def test_what_is_not_there_or_does_not_fit_is_refused(tiny, trials, tmp_path):
    store = str(tiny[0])
    hpt = f"trial/{trials['hpt'].key}"
    with pytest.raises(RequestError, match="no finished trial"):
        load_backbone(NAME, "trial/abc", store=store)
    with pytest.raises(RequestError, match="left another backbone"):
        load_backbone("resnet18", hpt, store=store)
    knn = next(trial for name, trial in trials.items() if name.startswith("probe"))
    with pytest.raises(RequestError, match="left no backbone"):
        load_backbone(NAME, f"trial/{knn.key}", store=store)
    prefix = stage_prefix(trials["hpt"].key)
    shutil.copytree(tiny[0] / prefix, tmp_path / prefix)
    (tmp_path / prefix / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(StoreError, match="not what was committed"):
        load_backbone(NAME, hpt, store=str(tmp_path))
