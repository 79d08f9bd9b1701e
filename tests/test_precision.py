"""Precision and memory format: what is chosen is clear, and choosing leaves no trace."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hpt_dist import backbones, precision
from hpt_dist.errors import RequestError
from hpt_dist.precision import Choice, Numerics, autocast, candidates, choose, pick, torch_format

CPU = torch.device("cpu")
FLOAT_LAST = Numerics("float32", "channels_last")
FLOAT_FIRST = Numerics("float32", "contiguous")
BRAIN_LAST = Numerics("bfloat16", "channels_last")
BRAIN_FIRST = Numerics("bfloat16", "contiguous")


class Small(nn.Module):
    """Everything that choosing could disturb: statistics, dropout, a frozen part."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
        )
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.seen = []

    def forward(self, images):
        self.seen.append((torch.is_autocast_enabled("cpu"), images.shape, images.stride()))
        return self.frozen(self.layers(images)).mean(dim=(2, 3))


@pytest.fixture
def with_units(monkeypatch):
    """A CPU that says it has AMX; bfloat16 itself is computed for real, only slowly."""
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset({"sse2", "amx_bf16"}))


@pytest.fixture
def without_units(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset({"sse2", "avx2"}))


@pytest.mark.parametrize("training", [True, False])
def test_the_backbone_and_the_generators_stay_as_they_are(with_units, training):
    torch.manual_seed(5)
    backbone = Small().train(training)
    before, random = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    choice = choose(backbone, size=8, batch=4, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(module.training is training for module in backbone.modules())
    assert backbone.layers[0].weight.is_contiguous()
    assert backbone.seen == []
    assert set(choice.seconds) == {FLOAT_LAST, FLOAT_FIRST, BRAIN_LAST, BRAIN_FIRST}
    assert all(0 < seconds < float("inf") for seconds in choice.seconds.values())
    assert choice.numerics == pick(choice.seconds)


def test_each_candidate_runs_in_its_own_numerics(with_units):
    runs = precision._measure(Small(), [FLOAT_LAST, BRAIN_FIRST], 8, 4, CPU)
    assert set(runs[0]) == {FLOAT_LAST, BRAIN_FIRST}
    assert 2 <= runs[1] <= 4
    seen = []
    for numerics in (FLOAT_LAST, BRAIN_FIRST):
        # Copies share this list no longer, so the copy is reached through its own pass.
        run = precision._pass(Small(), numerics, 8, 4, CPU)
        run()
        (module,) = (c.cell_contents for c in run.__closure__ if isinstance(c.cell_contents, Small))
        (was,) = module.seen
        seen.append(was)
        assert module.layers[0].weight.grad is not None
        assert module.frozen.weight.grad is None
        assert module.layers[0].weight.dtype == torch.float32
    assert [enabled for enabled, _, _ in seen] == [False, True]
    assert [stride[1] for _, _, stride in seen] == [1, 64]


def test_what_is_named_is_taken_and_not_measured(with_units):
    backbone = Small()
    for numerics in (FLOAT_FIRST, BRAIN_LAST):
        choice = choose(
            backbone,
            size=8,
            batch=4,
            device="cpu",
            precision=numerics.precision,
            memory_format=numerics.memory_format,
        )
        assert choice == Choice(numerics)
        assert str(choice) == str(numerics)
    one_axis = choose(backbone, size=8, batch=4, device="cpu", precision="bfloat16")
    assert set(one_axis.seconds) == {BRAIN_LAST, BRAIN_FIRST}
    other_axis = choose(backbone, size=8, batch=4, device="cpu", memory_format="contiguous")
    assert set(other_axis.seconds) == {FLOAT_FIRST, BRAIN_FIRST}


def test_without_matrix_units_bfloat16_is_only_used_when_asked_for(without_units):
    choice = choose(Small(), size=8, batch=2, device="cpu")
    assert set(choice.seconds) == {FLOAT_LAST, FLOAT_FIRST}
    assert "bfloat16 not tried: this CPU has no bf16 matrix units" in str(choice)
    assert choose(
        Small(), size=8, batch=2, device="cpu", precision="bfloat16", memory_format="contiguous"
    ) == Choice(BRAIN_FIRST)


def test_where_one_candidate_is_left_nothing_is_measured(without_units):
    backbone = backbones.create("timm/vit_tiny_patch16_224")

    def never(*_):
        raise AssertionError("it ran")

    backbone.register_forward_pre_hook(never)
    choice = choose(backbone, size=224, batch=4, device="cpu")
    assert (choice.numerics, dict(choice.seconds)) == (FLOAT_FIRST, {})
    assert "no overlapping convolutions" in str(choice)


@pytest.mark.parametrize(
    ("name", "convolutional"),
    [("resnet18", True), ("timm/convnext_atto", True), ("timm/vit_tiny_patch16_224", False)],
)
def test_a_patch_embedding_is_no_reason_for_channels_last(name, convolutional):
    assert precision._convolutional(backbones.create(name)) is convolutional


def test_a_network_that_learns_nothing_is_measured_forwards(without_units):
    choice = choose(Small().requires_grad_(False), size=8, batch=2, device="cpu")
    assert len(choice.seconds) == 2


def test_what_there_is_no_use_for_is_refused():
    with pytest.raises(RequestError, match="float16 does not train on a CPU") as refused:
        choose(Small(), size=8, batch=2, device="cpu", precision="float16")
    assert refused.value.problem.where == "precision"
    assert "bfloat16" in refused.value.problem.allowed
    with pytest.raises(RequestError, match="did you mean bfloat16"):
        choose(Small(), size=8, batch=2, device="cpu", precision="bflaot16")
    with pytest.raises(RequestError, match=r"memory_format[\s\S]*channels_last, contiguous"):
        choose(Small(), size=8, batch=2, device="cpu", memory_format="nhwc")


def test_float16_is_a_candidate_only_by_name():
    kept = {"convolutional": True, "bfloat16": True, "device": "GPU"}
    by_itself, _ = candidates("auto", "auto", **kept)
    assert {n.precision for n in by_itself} == {"float32", "bfloat16"}
    asked, why = candidates("float16", "auto", **kept)
    assert ({n.precision for n in asked}, why) == ({"float16"}, "")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({FLOAT_LAST: 1.0, BRAIN_LAST: 0.88}, FLOAT_LAST),  # 1.14 times: not clear
        ({FLOAT_LAST: 1.0, BRAIN_LAST: 0.86}, BRAIN_LAST),  # 1.16 times
        ({FLOAT_LAST: 1.0, FLOAT_FIRST: 0.8, BRAIN_LAST: 0.75}, FLOAT_FIRST),  # over the best
        ({FLOAT_LAST: 1.0, FLOAT_FIRST: 0.95}, FLOAT_LAST),
        ({FLOAT_LAST: 1.0, FLOAT_FIRST: 0.89}, FLOAT_FIRST),
        ({FLOAT_LAST: 4.0, FLOAT_FIRST: 5.0, BRAIN_LAST: 1.0, BRAIN_FIRST: 0.95}, BRAIN_LAST),
        ({BRAIN_FIRST: 3.0, BRAIN_LAST: 4.0}, BRAIN_FIRST),
        ({FLOAT_LAST: 1.0}, FLOAT_LAST),
    ],
)
def test_a_lower_precision_and_the_unusual_format_win_by_a_clear_margin(seconds, chosen):
    assert pick(seconds) == chosen


TIMES = st.floats(1e-3, 10)


@given(st.dictionaries(st.sampled_from([FLOAT_LAST, FLOAT_FIRST, BRAIN_LAST, BRAIN_FIRST]), TIMES))
def test_nothing_is_given_away_but_the_margins(seconds):
    if not seconds:
        return
    chosen = pick(seconds)
    both = precision.PRECISION_MARGIN * precision.FORMAT_MARGIN
    assert seconds[chosen] <= both * min(seconds.values()) * (1 + 1e-9)
    if chosen.precision != "float32":
        floats = [value for numerics, value in seconds.items() if numerics.precision == "float32"]
        lower = [value for numerics, value in seconds.items() if numerics.precision != "float32"]
        assert all(value >= precision.PRECISION_MARGIN * min(lower) for value in floats)


def test_autocast_lowers_products_and_leaves_the_rest():
    weight, value = torch.ones(2, 2), torch.ones(2, 2)
    with autocast(BRAIN_LAST, CPU):
        assert (weight @ value).dtype == torch.bfloat16
    with autocast(BRAIN_LAST, "cpu"), autocast(FLOAT_LAST, "cpu"):
        assert (weight @ value).dtype == torch.float32
    assert (weight @ value).dtype == torch.float32


def test_the_format_is_torchs_own():
    assert torch_format(FLOAT_LAST) is torch.channels_last
    assert torch_format(FLOAT_FIRST) is torch.contiguous_format


def test_the_log_line_has_the_seconds_of_every_candidate():
    choice = Choice(FLOAT_LAST, {FLOAT_LAST: 0.412, FLOAT_FIRST: 0.98}, 32, "bfloat16 not tried")
    assert str(choice) == (
        "float32, channels_last: 0.412 s for forward and backward of 32 images, "
        "float32, contiguous 0.98 s; bfloat16 not tried"
    )


def test_units_are_read_from_the_flags_of_the_processor(monkeypatch):
    for flags, units in (({"avx2"}, ""), ({"avx512_bf16"}, "avx512_bf16"), (set(), "")):
        monkeypatch.setattr(precision, "_cpu_flags", lambda flags=flags: frozenset(flags))
        assert precision.bfloat16_units(CPU) == units
