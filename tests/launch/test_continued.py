"""Which recipe `continue` uses: the one that it wrote, an edited one, or a new one."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import yaml

from hpt_dist.errors import RequestError, StoreError
from hpt_dist.images.formats import Encoding
from hpt_dist.launch import adapted, space
from hpt_dist.launch.continued import Asked, Written, choose, read, stamped
from hpt_dist.launch.sharding import ShardingRequest
from hpt_dist.sources.sample import FileSource, Sample
from hpt_dist.store import open_store
from hpt_dist.trial.records import Launch

ASKED = Asked("photos", "ab" * 32, 2.0, ("timm/resnet18.a1_in1k",), ())
TEXT = "name: photos\n# größer\nstages: {}\n"
OURS = stamped(TEXT, ASKED, 1.5)
EDITED = OURS.replace("stages: {}", "stages: {a: 1}")
NO_HOURS = dataclasses.replace(ASKED, hours=None)
OTHER_IMAGES = dataclasses.replace(ASKED, digest="cd" * 32)


def test_a_recipe_says_what_it_was_written_for_and_is_read_as_before():
    assert read(OURS) == Written(dataclasses.replace(ASKED, digest="ab" * 6), 1.5, is_edited=False)
    assert yaml.safe_load(OURS) == yaml.safe_load(TEXT)
    assert OURS.endswith(TEXT)
    assert read(EDITED).is_edited
    assert read(OURS.replace("2.0", "3.0")).asked.hours == 3


@pytest.mark.parametrize("first", ["", "# Written by `hpt-dist continue`: {}\n", OURS[:60] + "\n"])
def test_any_other_file_is_of_its_user(first):
    assert read(first + TEXT) == Written(None, None, is_edited=True)
    assert choose("f", first + TEXT, Asked("photos", "d"), (), can_ask=False).kind == "own"
    with pytest.raises(
        RequestError, match="no recipe that `continue` wrote, and --hours 2, --base"
    ):
        choose("f", first + TEXT, ASKED, (), can_ask=True)


@pytest.mark.parametrize("launched", [(), (OURS,)])
@pytest.mark.parametrize("can_ask", [True, False])
def test_what_was_written_for_the_same_is_kept_also_where_it_was_edited(launched, can_ask):
    kept = choose("f", OURS, ASKED, launched, can_ask=can_ask)
    assert (kept.kind, kept.takes_hours, kept.says) == ("kept", 1.5, ())
    assert choose("f", EDITED, ASKED, launched, can_ask=can_ask).kind == "own"
    [used, note] = choose("f", EDITED, OTHER_IMAGES, launched, can_ask=can_ask).says
    assert used == "f is used as edited"
    assert "other images" in note


def test_other_options_make_a_new_recipe_of_one_that_nobody_edited_or_launched():
    [says] = choose("f", OURS, NO_HOURS, (), can_ask=False).says
    assert says == "f is written anew: it was for --hours 2"
    found = choose("f", OURS, NO_HOURS, (OURS,), can_ask=True)
    assert (found.kind, len(found.says)) == ("new", 2)
    # Its images changed, which --replace has allowed.
    found = choose("f", OURS, OTHER_IMAGES, (OURS,), can_ask=False)
    assert found.kind == "new"
    assert "it was for other images" in found.says[0]


@pytest.mark.parametrize(
    ("there", "why"), [(OURS, "it was launched"), (EDITED, "it was edited")], ids=["ours", "edited"]
)
def test_other_options_are_refused_where_nobody_can_be_asked_or_it_was_edited(there, why):
    with pytest.raises(RequestError) as refused:
        choose("f", there, NO_HOURS, (OURS,), can_ask=False)
    problem = refused.value.problem
    assert problem.what == f"{why}, and was written for --hours 2; this command has no --hours"
    assert "ask for --hours 2" in problem.fix
    assert "delete it" in problem.fix


def test_a_recipe_that_is_missing_is_that_of_an_earlier_launch_for_the_same():
    found = choose("f", None, ASKED, ("name: mine\n", EDITED, OURS), can_ask=False)
    assert (found.kind, found.text, found.takes_hours) == ("restored", OURS, 1.5)
    for asked, launched in ((ASKED, ()), (ASKED, (EDITED,)), (NO_HOURS, (OURS,))):
        assert choose("f", None, asked, launched, can_ask=False).kind == "new"
    assert choose("f", None, OTHER_IMAGES, (OURS,), can_ask=False).kind == "new"


def test_images_that_surely_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    store = open_store(str(tmp_path / "store"))
    huge = Sample("a", "train", None, "a.jpg", "1", 10**18, bytes)
    source = FileSource("pile", "all", [], [huge])
    request = ShardingRequest("pile", str(tmp_path), store.uri, "pile", 10**6, 0, Encoding())
    with pytest.raises(StoreError, match=r"the images take 1,000,000,000,000 MB, and [\d,]+ MB"):
        space.check(request, source, store)
    # Nobody knows how large they are when they are encoded anew.
    space.check(dataclasses.replace(request, encoding=Encoding(resize=64)), source, store)
    assert not list(tmp_path.iterdir())


def launch_of(**trials):
    """Return the record of a launch, of (kind, trial that it starts from) by trial."""
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in trials}
    settings = {
        name: {
            "spec": {"kind": kind},
            "init": keys.get(init, ""),
            "backbone": "resnet18",
            "image": {"size": 64},
        }
        for name, (kind, init) in trials.items()
    }
    names = ("r-1", "r", "r.yaml", "2026-01-01T00:00:00+00:00")
    return Launch(*names, keys, {}, "/work", "", settings=settings)


def test_the_adapted_weights_are_those_of_the_row_that_the_answer_is_about(tmp_path):
    store = open_store(str(tmp_path / "store"))
    launch = launch_of(
        other=("import", ""),
        base=("import", ""),
        first=("pretrain", "base"),
        last=("pretrain", "first"),
        probe=("linear", "last"),
    )

    def found(row, without=()):
        done = set(launch.trials) - set(without)
        pair = adapted.weights(store, launch, done, row)
        return tuple(one and one.trial for one in pair)

    assert found("first") == ("base", "first")
    assert found("") == found("last") == found("probe") == ("base", "last")
    assert found("last", without=["last"]) == ("base", "first")
    assert found("", without=["first", "last"]) == ("other", None)
    [_, last] = adapted.weights(store, launch, set(launch.trials), "")
    assert (last.backbone, last.size) == ("resnet18", 64)
    assert last.weights == f"{store.uri}/stages/{launch.trials['last']}/weights.safetensors"
