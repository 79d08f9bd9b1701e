"""The totals of a plan are what like trials in the store took, and nothing is guessed."""

import json

import pytest
from small import document, hpt

UNLIKE = "--set", "image.size=64"


def totals(tiny, *options):
    store, recipe = tiny
    return document(hpt("plan", str(recipe), "--totals", "--json", *options, store=str(store)))


def took(tiny, stage):
    """Return result.json, run.json and the committed bytes of a stage's only trial."""
    for folder in (tiny[0] / "stages").iterdir():
        result = json.loads((folder / "result.json").read_text())
        if result["stage"] == stage:
            objects = json.loads((folder / "DONE").read_text())["objects"]
            run = json.loads((folder / "run.json").read_text())
            return result, run, sum(one["bytes"] for one in objects.values())
    raise AssertionError(stage)


def test_what_is_done_costs_nothing(tiny):
    found = totals(tiny)
    assert (found["trials"], found["cached"], found["to_run"], found["views"]) == (6, 6, 0, 0)
    for cost in ("evaluated", "hours", "result_bytes", "state_bytes"):
        assert found[cost] == {"value": 0, "trials": 0, "unknown": {}}


def test_a_longer_training_takes_what_the_like_one_took(tiny):
    found = totals(tiny, "--set", "stages.hpt.steps=3000")
    (result, run, size), probe, adapt = (took(tiny, one) for one in ("hpt", "probe", "adapt"))
    assert run["device"] == "cpu"
    assert found["to_run"] == 3  # hpt, and what starts from it
    adapting = adapt[0]["images"]
    assert found["views"] == 10 * result["images"] + adapting == 3000 * 8 * 2 + adapting
    assert found["hours"]["trials"] == 3
    assert found["hours"]["value"] * 3600 >= 10 * run["seconds"] + probe[1]["seconds"]
    assert found["hours"]["value"] * 3600 < 10 * run["seconds"] + 1000
    assert found["result_bytes"]["value"] >= size + adapt[2]
    states = run["state_bytes"] + adapt[1]["state_bytes"]
    assert run["state_bytes"] > size
    assert found["state_bytes"]["value"] == pytest.approx(states, rel=1e-3)
    assert found["state_bytes"]["trials"] == 3


def test_evaluations_decode_their_splits_and_looks(tiny):
    store, _ = tiny
    found = totals(tiny, *UNLIKE)
    images = {
        split: one["images"]
        for split, one in json.loads((store / "datasets/openmoji/line/manifest.json").read_text())[
            "splits"
        ].items()
    }
    watched = 3 * (min(64, images["train"]) + min(64, images["val"]))  # at 0, 150 and 300
    probes = 2 * (images["train"] + images["val"] + images["test"])
    # At 20 and 40, and again with the best weights.
    adapt = 2 * (3 * images["val"] + images["test"])
    assert found["evaluated"] == {"value": watched + probes + adapt, "trials": 6, "unknown": {}}


def test_what_nothing_like_it_took_is_unknown(tiny):
    found = totals(tiny, *UNLIKE)
    assert found["hours"] == {
        "value": 0,
        "trials": 1,
        "unknown": {"hpt": 1, "probe": 2, "adapt": 2},
    }
    store, recipe = tiny
    printed = hpt("plan", str(recipe), *UNLIKE, store=str(store))
    assert "hours: unknown (1 of hpt, 2 of probe, 2 of adapt)\n" in printed
    assert "results take: unknown (1 of base, 1 of hpt" in printed


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_steps_of_one_schedule_are_trained_apart(tiny, schedule):
    store, recipe = tiny
    text = recipe.read_text().replace("    steps: 300\n", "")
    text = text.replace("    batch: 8\n", f"    batch: 8\n    schedule: {schedule}\n", 1)
    swept = recipe.parent / f"swept_{schedule}.yaml"
    swept.write_text(
        text.replace("    batch: 8\n", "    batch: 8\n    sweep: {steps: [300, 600]}\n", 1)
    )
    printed = hpt("plan", str(swept), "--totals", store=str(store))
    line = "hpt@300 and hpt@600 are trained apart: a cosine schedule depends on its length"
    assert (line in printed) == (schedule == "cosine")
