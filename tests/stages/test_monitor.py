"""The effective rank, and what a watched stage leaves."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from small import RECIPE, TINY, fill, hpt, write_recipe

from hpt_dist.evals.spread import rankme


def test_effective_rank_of_known_features():
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(200, 1, generator=generator) * torch.randn(1, 30, generator=generator)
    assert rankme(line) == pytest.approx(1, abs=1e-3)
    basis = torch.linalg.qr(torch.randn(200, 30, generator=generator)).Q
    assert rankme(basis) == pytest.approx(30, rel=1e-3)
    assert rankme(basis.T) == pytest.approx(30, rel=1e-3)
    values = torch.tensor([3.0, 1.0])
    shares = values / values.sum()
    expected = math.exp(-(shares * shares.log()).sum())
    assert rankme(basis[:, :2] * values) == pytest.approx(expected, rel=1e-3)
    assert rankme(torch.zeros(20, 5)) == pytest.approx(1, abs=1e-3)


@pytest.fixture
def inline():
    """Launch a recipe in this very process, which has imported torch already."""
    threads = torch.get_num_threads()
    yield lambda *arguments, store: hpt(
        "launch", *arguments, "--on", "inline", store=store, process=False
    )
    torch.set_num_threads(threads)


@pytest.fixture
def store(drawings, mlflow_tables, tmp_path):
    return fill(tmp_path / "store", drawings, mlflow_tables)


def details(store):
    (result,) = (
        p for p in store.glob("stages/*/result.json") if '"kind": "pretrain"' in p.read_text()
    )
    return json.loads(result.read_text())["details"], result.parent


def test_a_stage_that_does_harm_leaves_the_weights_it_started_from(inline, store, tmp_path):
    # Ten steps at an absurd rate, with moving statistics.
    harm = RECIPE.replace("batch_norm: frozen\n    head_warmup_steps: 3", "batch_norm: train", 1)
    harm = (
        harm.replace("lr: 3e-4", "lr: 0.1", 1)
        .replace("steps: 24", "steps: 10", 1)
        .replace("every: 12", "every: 5, forgetting: color")
    )
    recipe = write_recipe(tmp_path, harm)
    output = inline(str(recipe), "--only", "hpt", store=str(store))
    assert "2 trials: 2 runs;" in output
    found, folder = details(store)
    assert found["kept_step"] == 0
    assert found["gate"]["judged_step"] == 10
    assert found["forgetting"] == {
        "data": "color",
        "verdict": "none",
        "says": "kept the base: nothing of color is forgotten",
    }
    assert "forgetting/" not in (folder / "metrics.jsonl").read_text()
    assert "ridge probe, 64 validation images, 2 looks" in found["gate"]["says"]
    assert "kept the base" in output
    (base,) = (
        p.parent for p in store.glob("stages/*/result.json") if '"kind": "import"' in p.read_text()
    )
    ours, theirs = (load_file(p / "weights.safetensors") for p in (folder, base))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    judged_once(inline, recipe, store)
    assert (
        json.loads((folder / "result.json").read_text())["metrics"]["ridge/top1"]
        == found["monitor"]["0"]["ridge/top1"]
    )


def judged_once(inline, recipe, store):
    """Check that what follows a kept base takes the result of what follows the base."""
    output = inline(str(recipe), "--only", "probe", store=str(store))
    done = {
        json.loads(file.read_text())["key"]: json.loads(file.read_text()).get("same_as")
        for file in store.glob("stages/*/DONE")
    }
    ((ours, theirs),) = ((key, other) for key, other in done.items() if other)
    assert done[theirs] is None
    files = [store / "stages" / key / "result.json" for key in (ours, theirs)]
    before = files[0].read_bytes()
    one, other = (json.loads(file.read_text()) for file in files)
    assert (one["axes"], other["axes"]) == ({"init": "hpt"}, {"init": "base"})
    assert [one[name] for name in ("metrics", "details")] == [
        other[name] for name in ("metrics", "details")
    ]
    printed = " ".join(output.split())
    assert "probe/init=hpt starts from the same weights as probe/init=base" in printed
    assert "no difference: it kept the weights of base" in printed
    # An index that names a trial of other settings is not believed.
    [index] = [path for path in store.glob("inputs/[0-9a-f]*") if path.read_text() == theirs]
    [base] = [key for key in done if (store / "stages" / key / "weights.safetensors").exists()][:1]
    index.write_text(base)
    (store / "stages" / ours / "DONE").unlink()
    inline(str(recipe), "--only", "probe", store=str(store))
    assert "same_as" not in json.loads((store / "stages" / ours / "DONE").read_text())
    assert files[0].read_bytes() == before
    # Computed for itself, it leaves the same bytes.
    shutil.rmtree(store / "inputs")
    (store / "stages" / ours / "DONE").unlink()
    printed = " ".join(inline(str(recipe), "--only", "probe", store=str(store)).split())
    assert "same_as" not in json.loads((store / "stages" / ours / "DONE").read_text())
    assert files[0].read_bytes() == before
    # Two that ran at the same time have both computed it: they are one result all the same.
    assert "probe/init=hpt starts from the same weights as probe/init=base" in printed
    assert "no difference: it kept the weights of base" in printed


def test_a_stage_without_labels_is_watched_for_collapse(inline, store, tmp_path):
    text = TINY.replace("{data: line, every: 150, images: 64}", "{images: 32, every: 3}")
    recipe = write_recipe(tmp_path, text)
    settings = ["--set", "stages.hpt.steps=5", "--set", "stages.hpt.head_warmup_steps=0"]
    inline(str(recipe), *settings, "--only", "hpt", store=str(store))
    found, _ = details(store)
    assert set(found["monitor"]) == {"0", "3", "5"}
    assert set(found["monitor"]["0"]) == {"monitor/rankme", "monitor/feature_std"}
    assert "gate" not in found
    assert found["kept_step"] == 5
