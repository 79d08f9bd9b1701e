"""What is shown of a training: numbers for leases and programs, words for people."""

import json

import pytest
import torch
from clock import Clock

from hpt_dist.launch import survey
from hpt_dist.store import FolderStore, lease
from hpt_dist.train.averages import Average
from hpt_dist.train.selection import Evaluation, Look, Selection
from hpt_dist.trial.progress import Progress, in_words


def selected(*looks, metric="knn/top1", keeps=True):
    """Return the selection after looks, (step, value) each."""
    selection = Selection()
    keeps = torch.nn.Linear(1, 1) if keeps else None
    plan = Evaluation(1, lambda: Look({}), keeps, metric if keeps else "", ties="earlier")
    for step, value in looks:
        selection.add(step, Look({metric: value, "other": 1.0}), plan)
    return selection


def test_the_numbers_of_a_training_in_words():
    clock = Clock()
    progress = Progress(clock)
    assert in_words(progress.after(10, 300, 0.0)) == ""
    clock.now += 5
    progress.note_loss({"train/loss": 6.21349, "train/lr": 0.1})
    facts = progress.after(20, 300, 312.4)
    assert facts == {
        "loss": 6.2135, "step": 20, "steps": 300, "images_per_second": 312.4, "seconds_left": 140,
    }  # fmt: skip
    assert in_words(facts) == "loss 6.213, 0:02:20 left, 312 images/s"
    assert "left" not in in_words(progress.after(300, 300, 1.0))
    progress.note_look(selected((0, 0.40)))
    assert "kNN 40.0 % at step 0 (the best)" in in_words(progress.after(20, 300, 1.0))
    progress.note_look(selected((0, 0.4), (1200, 0.431), (1300, 0.412)))
    facts = progress.after(20, 300, 1.0)
    assert (facts["knn/top1"], facts["looked_step"]) == (0.412, 1300)
    assert (facts["best"], facts["best_step"]) == (0.431, 1200)
    assert "kNN 41.2 % at step 1,300 (best 43.1 % at 1,200), " in in_words(facts)


def test_averages_are_named_by_their_share_of_the_way():
    progress, average = Progress(), Average(0.25, 1300)
    progress.note_look(selected((0, 0.4), (1300, 0.431), (average, 0.412)))
    facts = progress.after(1300, 1300, 1.0)
    assert (facts["looked_step"], facts["looked_average"], facts["best_step"]) == (1300, 0.25, 1300)
    words = "kNN 41.2 % at 0.25 of the way to step 1,300 (best 43.1 % at 1,300), "
    assert words in in_words(facts)
    progress.note_look(selected((0, 0.4), (average, 0.5)))
    assert "at 0.25 of the way to step 1,300 (the best)" in in_words(progress.facts)
    progress.note_look(selected((0, 0.4), (average, 0.5), (Average(0.5, 1300), 0.3)))
    assert "(best 50.0 % at 0.25 of the way to 1,300)" in in_words(progress.facts)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("val/top1", "val top-1 50.0 % at step 3"),
        ("monitor/rankme", "effective rank 0.5 at step 3"),
        ("val/auroc", "val auroc 50.0 % at step 3"),
        ("ridge/top1", "ridge 50.0 % at step 3"),
        ("ridge/map", "ridge map 50.0 % at step 3"),
    ],
)
def test_other_looks_and_no_best_where_the_last_weights_are_kept(metric, words):
    progress = Progress()
    progress.note_look(selected((3, 0.5), metric=metric, keeps=False))
    facts = progress.after(3, 9, 1.0)
    assert in_words(facts).startswith(f"{words}, ")
    assert "best" not in facts


def test_the_metric_that_selects_is_shown():
    selection, keeps = Selection(), torch.nn.Linear(1, 1)
    plan = Evaluation(1, lambda: Look({}), keeps, "val/balanced_accuracy", ties="earlier")
    for step, top1, balanced in ((1, 0.3, 0.6), (2, 0.4, 0.5)):
        looked = {"val/top1": top1, "val/balanced_accuracy": balanced}
        selection.add(step, Look(looked), plan)
    progress = Progress()
    progress.note_look(selection)
    words = in_words(progress.after(2, 9, 1.0))
    assert words == "val balanced_accuracy 50.0 % at step 2 (best 60.0 % at 1), 1 images/s"


@pytest.mark.parametrize("facts", [{}, {"step": 3}, {"knn/top1": 0.5}, {"best": 1, "x": 2}])
def test_numbers_of_another_version_are_no_error(facts):
    in_words(facts)


def test_status_shows_what_the_lease_holds_in_words_and_in_json(tmp_path):
    store, key = FolderStore(tmp_path), "5" * 64
    progress = Progress()
    progress.note_loss({"train/loss": 2.5})
    progress.note_look(selected((100, 0.5)))
    facts = progress.after(120, 300, 64.0)
    with lease.hold(store.at(f"stages/{key}"), "lease.json") as held:
        held.beat(**facts)
        held.check()  # what happens every 15 s
        state = survey.state_of(store, key)
    expected = ", step 120 of 300, loss 2.500, kNN 50.0 % at step 100 (the best), 64 images/s"
    assert state.why.endswith(expected)
    shown = survey.as_json(state)
    assert shown["progress"] == facts
    json.dumps(shown)
