"""Which tests stay together on a worker, and in what order workers get them."""

import re
from pathlib import Path

import conftest
import container_image
import groups
import services
import slow_tests
import slurm_cluster
import slurm_site

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.fixture(scope="session")
def slurm(): pass

@pytest.fixture(scope="session")
def image(slurm): pass

@pytest.fixture(scope="session")
def ceph(): pass

@pytest.fixture(scope="module")
def made_for_all(): pass

@pytest.fixture(params=["folder", "ceph-https"])
def store(request):
    if request.param != "folder":
        request.getfixturevalue("ceph")

def test_alone(): pass
def test_slow(): pass
def test_file(made_for_all): pass
def test_store(store): pass
def test_container(image): pass
def test_cluster(slurm, ceph): pass
def test_ranks(tmp_path): on_ranks(2, tmp_path, print)
"""


def test_tests_of_a_service_and_of_a_files_fixture_stay_together_and_long_ones_start(
    pytester, monkeypatch
):
    items = pytester.getitems(TESTS)
    found = {item.name: groups.group_of(item) for item in items}
    file = items[0].path.stem
    assert found == {
        "test_alone": "",
        "test_slow": "",
        "test_file": file,
        "test_store[folder]": "",
        "test_store[ceph-https]": "s3",
        "test_container": "trials",
        "test_cluster": "slurm",
        "test_ranks": "ranks",
    }
    monkeypatch.setattr(slow_tests, "listed", lambda: {f"{file}.py::test_slow": "a reason"})
    config = items[0].config
    groups.pytest_collection_modifyitems(config, before := list(items))
    assert before == items  # one process takes them as they come
    monkeypatch.setattr(config, "workerinput", {}, raising=False)
    groups.pytest_collection_modifyitems(config, items)
    names = [item.name for item in items]
    first = ["test_container", "test_cluster", "test_store[ceph-https]", "test_slow"]
    assert names == [*first, "test_alone", "test_file", "test_store[folder]", "test_ranks"]
    marked = [item.get_closest_marker("xdist_group") for item in items]
    assert [mark.args[0] if mark else "" for mark in marked] == [found[name] for name in names]


def test_groups_are_made_of_fixtures_that_there_are():
    assert set(groups.FIRST) <= set(groups.GROUP_OF.values())
    modules = (services, slurm_cluster, slurm_site, container_image, conftest)
    known = {name for module in modules for name in vars(module)}
    # Two are of one file's tests each.
    texts = [path.read_text() for path in Path(__file__).parent.glob("*/test_*.py")]
    known |= {name for text in texts for name in re.findall(r"^def (\w+)\(", text, re.MULTILINE)}
    assert set(groups.GROUP_OF) <= known
