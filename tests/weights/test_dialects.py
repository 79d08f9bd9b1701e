"""Files as other projects write them: each layout, built by hand from its project's public code."""

from __future__ import annotations

import argparse
import io

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision import models

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.networks import backbones
from hpt_dist.store import open_store
from hpt_dist.weights import dialects
from hpt_dist.weights import match as weights


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def network(model="resnet18", seed=1):
    """Return a torchvision network whose every entry has its own values."""
    torch.manual_seed(seed)
    made = models.get_model(model)
    for name, value in made.state_dict().items():
        if "running" in name or value.dim() == 1:
            value.uniform_(0.5, 2)
    return made


def thin(made):
    """Let each entry of a network have one number of its own throughout; its file is small then."""
    for module in made.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    one = value.detach().flatten()[:1].clone()
                    values[name] = one.reshape([1] * value.dim()).expand(value.shape)
    return made


def backbone_of(made):
    return {k: v for k, v in made.state_dict().items() if not k.startswith(("fc.", "head."))}


def put(store, name, content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    store.put(name, buffer.getvalue())


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def head(prefix, *shapes):
    return {f"{prefix}.{n}.weight": torch.rand(shape) for n, shape in enumerate(shapes)}


def assert_loads(store, source, expected, backbone="resnet18"):
    """Load a source; it must be exactly the expected entries, counters apart. Return the report."""
    state, report = weights.load(source, backbone, store)
    assert report.share == 1, report
    assert not report.unexpected, report
    counted = {name for name in state if not name.endswith("num_batches_tracked")}
    assert counted == {name for name in expected if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(state[name], expected[name]) for name in counted)
    return report


# Momentum contrast


@pytest.fixture(scope="module")
def query():
    return thin(network(seed=1))


@pytest.fixture(scope="module")
def key():
    return thin(network(seed=2))


def moco(query, key, head_of):
    """`module.encoder_q.fc` is a linear layer in MoCo v1, and a small network in v2."""
    return {
        **prefixed("module.encoder_q.", backbone_of(query)),
        **prefixed("module.encoder_q.fc.", head_of),
        **prefixed("module.encoder_k.", backbone_of(key)),
        **prefixed("module.encoder_k.fc.", head_of),
        "module.queue": torch.rand(128, 32),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }


MOCO_HEADS = {
    "v1": {"weight": torch.rand(128, 512), "bias": torch.rand(128)},
    "v2": {
        "0.weight": torch.rand(512, 512),
        "0.bias": torch.rand(512),
        "2.weight": torch.rand(128, 512),
        "2.bias": torch.rand(128),
    },
}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_moco(store, query, key, version):
    state_dict = moco(query, key, MOCO_HEADS[version])
    optimizer = {"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": [{"lr": 0.03}]}
    file = {"epoch": 200, "arch": "resnet18", "state_dict": state_dict, "optimizer": optimizer}
    put(store, "checkpoint_0199.pth.tar", file)
    report = assert_loads(store, "checkpoint_0199.pth.tar", backbone_of(query))
    assert report.recognised.startswith("MoCo, query encoder")
    assert report.recognised.endswith("under state_dict.module.encoder_q")
    aside = dict(line.rstrip(")").rsplit(" (", 1) for line in report.aside)
    heads = len(MOCO_HEADS[version])
    assert aside == {
        "state_dict.module.encoder_q.fc": str(heads),
        "state_dict.module.encoder_k": str(len(backbone_of(key)) + heads),
        "state_dict.module.queue": "1",
        "state_dict.module.queue_ptr": "1",
    }


@pytest.mark.parametrize("choice", ["key", "state_dict.module.encoder_k"])
def test_another_encoder_can_be_chosen(store, query, key, choice):
    put(store, "a.pth", {"state_dict": moco(query, key, MOCO_HEADS["v2"])})
    report = assert_loads(store, f"a.pth#{choice}", backbone_of(key))
    assert report.recognised.startswith("MoCo, key encoder")
    assert any("encoder_q (" in line for line in report.aside)


def test_an_encoder_that_is_not_there_is_refused_with_those_that_are(store, query, key):
    put(store, "a.pth", {"state_dict": moco(query, key, MOCO_HEADS["v2"])})
    with pytest.raises(RequestError, match="allowed: query, key") as refused:
        weights.load("a.pth#teacher", "resnet18", store)
    assert str(refused.value).startswith("a.pth#teacher: this file has no encoder 'teacher'")
    put(store, "b.pth", query.state_dict())
    with pytest.raises(RequestError, match="there is one encoder"):
        weights.load("b.pth#teacher", "resnet18", store)


def test_mocos_official_backbone_files_for_v3(store, query, key):
    state_dict = {
        **prefixed("module.base_encoder.", backbone_of(query)),
        **head("module.base_encoder.fc", (4096, 512), (256, 4096)),
        **prefixed("module.momentum_encoder.", backbone_of(key)),
        **head("module.momentum_encoder.fc", (4096, 512), (256, 4096)),
        **head("module.predictor", (4096, 256), (256, 4096)),
    }
    put(store, "r-50-1000ep.pth.tar", {"epoch": 1, "arch": "resnet18", "state_dict": state_dict})
    report = assert_loads(store, "r-50-1000ep.pth.tar", backbone_of(query))
    assert report.recognised.startswith("MoCo v3, query encoder")
    report = assert_loads(store, "r-50-1000ep.pth.tar#key", backbone_of(key))
    assert report.recognised.startswith("MoCo v3, key encoder")


# Vision transformers: MoCo v3 and DINO build them with timm's names


@pytest.fixture(scope="module")
def transformers():
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
        for value in vit.state_dict().values():
            value.uniform_(-1, 1)
        made.append(thin(vit).state_dict())
    return made


def test_moco_v3_of_a_transformer(store, transformers):
    base, momentum = transformers
    state_dict = {
        **prefixed("module.base_encoder.", base),
        **head("module.base_encoder.head", (4096, 192), (256, 4096)),
        **prefixed("module.momentum_encoder.", momentum),
        **head("module.momentum_encoder.head", (4096, 192), (256, 4096)),
    }
    put(store, "vit.pth.tar", {"state_dict": state_dict})
    report = assert_loads(store, "vit.pth.tar", base, "timm/vit_tiny_patch16_224")
    assert report.recognised.startswith("MoCo v3, query encoder")


DINO_HEAD = {
    "mlp.0.weight": torch.rand(8, 4),
    "mlp.0.bias": torch.rand(8),
    "last_layer.weight_g": torch.rand(16, 1),
    "last_layer.weight_v": torch.rand(16, 8),
}


def test_dino_takes_the_teacher_unless_asked_otherwise(store, transformers):
    teacher, student = transformers
    file = {
        "student": {
            **prefixed("module.backbone.", student),
            **prefixed("module.head.", DINO_HEAD),
        },
        "teacher": {**prefixed("backbone.", teacher), **prefixed("head.", DINO_HEAD)},
        "optimizer": {"state": {0: {"exp_avg": torch.rand(2)}}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", patch_size=16, lr=5e-4, use_fp16=True),
        "dino_loss": {"center": torch.rand(1, 16)},
    }
    put(store, "checkpoint.pth", file)
    name = "timm/vit_tiny_patch16_224"
    report = assert_loads(store, "checkpoint.pth", teacher, name)
    assert report.recognised == "DINO, teacher encoder, timm's names, under teacher.backbone"
    assert f"student.module.backbone ({len(student)})" in report.aside
    report = assert_loads(store, "checkpoint.pth#student", student, name)
    assert report.recognised.startswith("DINO, student encoder")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"teacher": state}])
def test_dinos_backbone_files(store, transformers, wrap):
    put(store, "dino.pth", wrap(transformers[0]))
    assert_loads(store, "dino.pth", transformers[0], "timm/vit_tiny_patch16_224")


# BYOL


BYOL_LAYOUTS = {
    "OpenSelfSup": lambda online, target: {
        "meta": {"mmcv_version": "1.0.3"},
        "state_dict": {
            **prefixed("online_net.0.", online),
            **head("online_net.1.mlp", (8, 512)),
            **prefixed("target_net.0.", target),
            **head("target_net.1.mlp", (8, 512)),
            **prefixed("backbone.", online),
            **head("head.predictor.mlp", (8, 8)),
        },
    },
    "its backbone": lambda online, target: {"state_dict": prefixed("backbone.", online)},
    "lightning-bolts": lambda online, target: {
        "state_dict": {
            **prefixed("online_network.encoder.", online),
            **head("online_network.projector.model", (8, 512)),
            **prefixed("target_network.encoder.", target),
            **head("target_network.projector.model", (8, 512)),
        }
    },
    "lucidrains, the learner": lambda online, target: {
        **prefixed("net.", online),
        **prefixed("online_encoder.net.", online),
        **head("online_encoder.projector", (8, 512)),
        **prefixed("target_encoder.net.", target),
        **head("online_predictor", (8, 8)),
    },
    "lucidrains, the network": lambda online, target: online,
    "solo-learn": lambda online, target: {
        "state_dict": {
            **prefixed("backbone.", online),
            **head("classifier", (8, 512)),
            **prefixed("momentum_backbone.", target),
            **head("projector", (8, 512)),
            **head("momentum_projector", (8, 512)),
        }
    },
}


@pytest.mark.parametrize("layout", BYOL_LAYOUTS)
def test_byol_in_torch(store, query, key, layout):
    put(store, "a.ckpt", BYOL_LAYOUTS[layout](backbone_of(query), backbone_of(key)))
    report = assert_loads(store, "a.ckpt", backbone_of(query))
    assert ("online" in report.recognised) == (layout in TRAINED), report


TRAINED = ("OpenSelfSup", "lightning-bolts", "lucidrains, the learner")


@pytest.mark.parametrize("layout", TRAINED)
def test_byols_target_can_be_chosen(store, query, key, layout):
    put(store, "a.ckpt", BYOL_LAYOUTS[layout](backbone_of(query), backbone_of(key)))
    assert_loads(store, "a.ckpt#target", backbone_of(key))


def test_networks_whose_children_are_numbered(store, query, key):
    """As lightly's examples and sthalles/PyTorch-BYOL take off the classifier."""
    online, target = (nn.Sequential(*list(n.children())[:-1]).state_dict() for n in (query, key))
    lightly = {
        **prefixed("backbone.", online),
        **head("projection_head.layers", (8, 512)),
        **prefixed("backbone_momentum.", target),
        **head("projection_head_momentum.layers", (8, 512)),
    }
    put(store, "lightly.ckpt", {"state_dict": lightly})
    report = assert_loads(store, "lightly.ckpt", backbone_of(query))
    assert "children numbered" in report.recognised
    assert_loads(store, "lightly.ckpt#key", backbone_of(key))

    sthalles = {
        "online_network_state_dict": {**prefixed("encoder.", online), **head("projetion", (8, 8))},
        "encoder_state_dict": online,
        "target_network_state_dict": prefixed("encoder.", target),
        "optimizer_state_dict": {},
    }
    put(store, "model.pth", sthalles)
    report = assert_loads(store, "model.pth", backbone_of(query))
    assert report.recognised.startswith("BYOL, online encoder")


def haiku(state, root="res_net50"):
    """Write a ResNet-50 as DeepMind's BYOL has it, by its documented module names."""
    arrays = {}
    for name, value in state.items():
        module, entry = name.rsplit(".", 1)
        if entry == "num_batches_tracked":
            continue
        path = module.split(".")
        if path[0].startswith("layer"):
            place = f"{root}/~/block_group_{int(path[0][-1]) - 1}/~/block_{path[1]}/~/"
            if path[2] == "downsample":
                place += ("shortcut_conv", "shortcut_batchnorm")[int(path[3])]
            else:
                kind = {"conv": "conv", "bn": "batchnorm"}[path[2][:-1]]
                place += f"{kind}_{int(path[2][-1]) - 1}"
        else:
            place = f"{root}/~/initial_" + {"conv1": "conv", "bn1": "batchnorm"}[module]
        if value.dim() == 4:
            arrays[f"{place}/w"] = value.permute(2, 3, 1, 0).numpy()
            continue
        array = value.reshape(1, 1, 1, -1).numpy()
        if entry in ("weight", "bias"):
            arrays[f"{place}/{'scale' if entry == 'weight' else 'offset'}"] = array
        else:
            average = f"{place}/~/{'mean' if entry == 'running_mean' else 'var'}_ema"
            arrays[f"{average}/average"] = array
            arrays[f"{average}/hidden"] = array / 2
            arrays[f"{average}/counter"] = np.int32(1000)
    return arrays


def test_deepminds_byol(store):
    online, target = network("resnet50", 1), network("resnet50", 2)
    beside = {
        "projector/linear/w": np.ones((2048, 8), np.float32),
        "projector/~/batchnorm/scale": np.ones((1, 8), np.float32),
        "predictor/linear/w": np.ones((8, 8), np.float32),
        "classifier/w": np.ones((2048, 10), np.float32),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **haiku(backbone_of(online)), **beside)
    store.put("pretrain_res50x1.npz", buffer.getvalue())
    report = assert_loads(store, "pretrain_res50x1.npz", backbone_of(online), "resnet50")
    assert report.recognised == "BYOL, haiku's names, under res_net50"
    aside = [line.split()[0] for line in report.aside]
    assert sorted(aside) == [
        "classifier.w",
        "predictor.linear",
        "projector.batchnorm",
        "projector.linear",
    ]

    both = prefixed("online/", haiku(backbone_of(online)))
    both |= prefixed("target/", haiku(backbone_of(target)))
    buffer = io.BytesIO()
    np.savez(buffer, **both)
    store.put("both.npz", buffer.getvalue())
    assert_loads(store, "both.npz", backbone_of(online), "resnet50")
    assert_loads(store, "both.npz#target", backbone_of(target), "resnet50")


def test_arrays_under_torchs_names_are_a_state_dict_too(store, query):
    buffer = io.BytesIO()
    np.savez(buffer, **query.state_dict())
    store.put("a.npz", buffer.getvalue())
    assert_loads(store, "a.npz", backbone_of(query))


# SimCLR


def test_simclr_v1_converted(store, query):
    """tonylins/simclr-converter writes torchvision's names."""
    put(store, "resnet50-1x.pth", {"state_dict": query.state_dict()})
    assert_loads(store, "resnet50-1x.pth", backbone_of(query))


class Pair(nn.Sequential):
    """A norm and what follows it, which is one child in SimCLRv2-Pytorch."""

    def __init__(self, norm):
        super().__init__(norm, nn.ReLU())


class SimclrBlock(nn.Module):
    def __init__(self, block):
        super().__init__()
        if block.downsample is not None:
            self.projection = nn.Module()
            self.projection.shortcut = block.downsample[0]
            self.projection.bn = Pair(block.downsample[1])
        layers = []
        for n in (1, 2, 3):
            layers += [getattr(block, f"conv{n}"), Pair(getattr(block, f"bn{n}"))]
        self.net = nn.Sequential(*layers)


def test_simclr_v2_converted(store):
    """Built as its module tree is, so that torch gives the names."""
    plain = network("resnet50")
    expected = backbone_of(plain)
    stages = []
    for n in (1, 2, 3, 4):
        stage = nn.Module()
        stage.blocks = nn.ModuleList(SimclrBlock(block) for block in getattr(plain, f"layer{n}"))
        stages.append(stage)
    resnet = nn.Module()
    resnet.net = nn.Sequential(nn.Sequential(plain.conv1, Pair(plain.bn1)), *stages)
    resnet.fc = plain.fc
    file = {"resnet": resnet.state_dict(), "head": head("layers", (8, 2048))}
    assert "net.1.blocks.0.projection.bn.0.weight" in file["resnet"]
    put(store, "r50_1x_sk0.pth", file)
    report = assert_loads(store, "r50_1x_sk0.pth", expected, "resnet50")
    assert report.recognised.startswith("SimCLR v2")
    assert [line.split()[0] for line in report.aside] == ["resnet.fc", "head.layers"]


# timm and torchvision in each other's names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("timm/efficientnet_b0", "torchvision/efficientnet_b0"),
        ("torchvision/efficientnet_b0", "timm/efficientnet_b0"),
        ("torchvision/mobilenet_v2", "timm/mobilenetv2_100"),
        ("timm/resnet18", "torchvision/resnet18"),
    ],
)
def test_one_librarys_file_in_the_others_backbone(store, theirs, ours):
    torch.manual_seed(1)
    images = torch.rand(2, 3, 32, 32)
    network = backbones.create(theirs).train()
    network(images)
    put(store, "a.pth", {"model": network.state_dict()})
    state, report = weights.load("a.pth", ours, store)
    assert report.share == 1
    other = backbones.create(ours).eval()
    other.load_state_dict(state)
    features = network.eval()(images)
    assert features.std() > 0
    assert torch.equal(other(images), features)


def test_what_only_looks_alike_is_refused(store):
    """timm's B5 has torchvision's shapes and another batch norm."""
    assert "timm" not in dialects.dialects_of("torchvision/efficientnet_b5")
    put(store, "a.pth", timm.create_model("efficientnet_b5", num_classes=0).state_dict())
    with pytest.raises(WeightsError, match="do not fit"):
        weights.load("a.pth", "torchvision/efficientnet_b5", store)


# The choice among encoders


def test_averaged_weights_come_second(store, query, key):
    file = {"state_dict": query.state_dict(), "state_dict_ema": key.state_dict()}
    put(store, "last.pth.tar", file)
    assert_loads(store, "last.pth.tar", backbone_of(query))
    assert_loads(store, "last.pth.tar#average", backbone_of(key))


def test_the_encoder_that_fits_is_taken_before_the_one_that_is_named(store, query):
    """A large teacher of a small student: every name of a ResNet-18 is in a ResNet-34."""
    teacher = backbone_of(thin(network("resnet34")))
    wide = {name: value.repeat_interleave(2, 0) for name, value in teacher.items() if value.dim()}
    put(store, "a.pth", {"teacher": wide, "student": backbone_of(query)})
    assert_loads(store, "a.pth", backbone_of(query))


def test_a_small_student_is_found_beside_its_large_teacher_by_every_name(store, query):
    """The shapes decide, also where only some of them differ."""
    teacher = {
        k: v.repeat(2, *[1] * (v.dim() - 1)) if v.dim() > 1 else v
        for k, v in backbone_of(query).items()
    }
    put(store, "a.pth", {"teacher": teacher, "student": backbone_of(query)})
    assert_loads(store, "a.pth", backbone_of(query))


def test_a_report_reads_from_top_to_bottom(store, query, key):
    state_dict = moco(query, key, MOCO_HEADS["v2"]) | {
        "module.encoder_q.extra.weight": torch.ones(1)
    }
    put(store, "a.pth", {"state_dict": state_dict})
    _, report = weights.load("a.pth", "resnet18", store)
    first, recognised, unexpected, aside = str(report).split("\n")
    assert first == f"{len(report.matched)} of {len(report.matched)} entries match (100.0%)"
    assert recognised.startswith("  recognised: MoCo, query encoder, torchvision's names")
    assert unexpected == "  unexpected: extra.weight"
    assert aside.startswith("  left aside: state_dict.module.encoder_q.fc (4), ")
