"""Candidates on a real Slurm: tasks of an array, for which the trial that decides waits."""

import json

import pytest
from slurm_site import here, made

pytestmark = [pytest.mark.services, pytest.mark.slow]

RECIPE = """\
name: small
store: ${HPT_STORE}
datasets: {line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  near: {kind: knn, init: base, data: line, k: [5, 20], choose: {temperature: [0.07, 1.0]}}
"""


@pytest.fixture
def site(tmp_path, slurm, drawings):
    yield (site := made(tmp_path, slurm, drawings))
    site.cancel_all()


def test_candidates_are_one_array_and_the_choice_follows_them(site, drawings, tmp_path):
    (tmp_path / "here").mkdir()
    alone = here(drawings, tmp_path / "here", RECIPE)
    assert "4 trials submitted" in site.launch("--hold", text=RECIPE)
    trials = json.loads(max(site.store.glob("launches/*.json")).read_text())["trials"]
    tried = {key for name, key in trials.items() if ".candidates/" in name}
    arrays = json.loads(max(site.store.glob("launches/*.jobs")).read_text())
    job_of = {frozenset(array["keys"]): array["id"] for array in arrays}
    candidates, deciding = job_of[frozenset(tried)], job_of[frozenset([trials["near"]])]
    assert len(tried) == 2
    shown = site.slurm.call("scontrol", "show", "job", candidates)
    assert "ArrayTaskId=0-1" in shown
    (waits,) = (
        word
        for word in site.slurm.call("scontrol", "show", "job", deciding).split()
        if word.startswith("Dependency=")
    )
    assert f"afterok:{candidates}" in waits
    for job in job_of.values():
        site.slurm.call("scontrol", "release", job)
    assert site.finished() == alone.left
    assert set(site.states().values()) == {"cached"}
    result = json.loads((site.store / "stages" / trials["near"] / "result.json").read_text())
    chosen = result["details"]["choice"]["chosen"]
    assert f"chose {chosen}" in site.hpt("status", "small")
    assert "Traceback" not in site.logs()
