"""Which tests one worker runs together, and which start first.

A group shares what is dear to make: a cluster, a server, a browser, a server of warm processes, or
what its file makes for all its tests. All other tests go to whichever worker is free.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import slow_tests

# The group of the tests that use a fixture; the first one that a test uses decides.
GROUP_OF = {
    # Two clusters: one for trials, on nodes and in containers, one for all else.
    **dict.fromkeys(("trained_here", "image", "bundle", "cuda_image"), "trials"),
    "slurm": "slurm",
    "mlflow_server": "mlflow",
    "chromium": "mlflow",
    "ceph": "s3",
    "seaweedfs": "s3",
    "undisturbed": "launch",  # else workers would wait for the one that makes it
    "tiny": "launch",
    "two_ranks": "ranks",
}
# The long ones: no worker is left with one of them when the others have ended.
FIRST = ("trials", "slurm", "launch", "s3", "mlflow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its group, and let the long groups and tests start first."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if name := group_of(item):
            item.add_marker(pytest.mark.xdist_group(name))
    slow = slow_tests.listed()
    items.sort(key=lambda item: _rank(item, slow))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run where groups do not form: each worker would start each server.

    Raises:
        pytest.UsageError: pytest-xdist did not put a test's group into its id.
    """
    if not getattr(session.config.option, "loadgroup", False):
        return
    for item in session.items:
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]:
            raise pytest.UsageError(f"{item.nodeid} is in no group: see pytest in pyproject.toml")


def group_of(item: pytest.Item) -> str:
    """Return the name of a test's group; empty for a test that goes with no other."""
    if own := item.get_closest_marker("xdist_group"):
        return str(own.args[0])
    fixtures = set(item.fixturenames) | _parameters(item)
    for fixture, group in GROUP_OF.items():
        if fixture in fixtures:
            return group
    if "on_ranks" in item.function.__code__.co_names:
        return "ranks"
    made_for_file = any(
        definition.scope == "module"
        for definitions in item._fixtureinfo.name2fixturedefs.values()
        for definition in definitions
    )
    return Path(item.fspath).stem if made_for_file else ""


def _parameters(item: pytest.Item) -> set[str]:
    """Return the words of a test's parameters, such as the server that a fixture asks for."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    texts = [value for value in parameters if isinstance(value, str)]
    return {word for text in texts for word in text.split("-")}


def _rank(item: pytest.Item, slow: set[str]) -> int:
    mark = item.get_closest_marker("xdist_group")
    if mark and mark.args[0] in FIRST:
        return FIRST.index(mark.args[0])
    return len(FIRST) + (item.nodeid not in slow)
