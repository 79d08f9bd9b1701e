"""What every test gets: an environment of its own, the services as fixtures, and the profiles.

docs/testing.md says how the tests are laid out.
"""

from __future__ import annotations

import os

# torch reads these when it is imported. Several workers share the cores, and threads that spin
# while they wait for each other take them from the others.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GOMP_SPINCOUNT"] = "10000"

import hypothesis
import pytest
from examples import USUAL
from shapes import write_shapes
from shared import made_once
from small import TINY, fill, hpt, write_recipe

from hpt_dist.store import open_store

pytest_plugins = [
    *("services", "slurm_cluster", "slurm_site", "container_image"),
    *("slow_tests", "groups", "composed", "forest"),
]

# The same examples everywhere, and no time limit: another worker may have the core.
register = hypothesis.settings.register_profile
register("tests", derandomize=True, deadline=None, database=None, max_examples=USUAL)
register("deep", deadline=None, database=None, max_examples=20 * USUAL, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="also repetition and size")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("deep" if config.getoption("--deep") else "tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests marked `deep` out, unless they are asked for."""
    if config.getoption("--deep"):
        return
    left_out = [item for item in items if item.get_closest_marker("deep")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(autouse=True)
def _no_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach, or depend on, an account of whoever runs it."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    """A store with the two domains, which nobody changes."""

    def make(store):
        for domain in ("color", "line"):
            name = f"openmoji/{domain}"
            hpt("shard", name, f"{store}/datasets/{name}", store=str(store))

    return made_once(tmp_path_factory, "drawings", make)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A store with drawn images of several labels, which nobody changes."""
    return made_once(
        tmp_path_factory, "shapes", lambda folder: write_shapes(open_store(str(folder)))
    )


@pytest.fixture(scope="session")
def tiny(drawings, mlflow_tables, tmp_path_factory):
    """A store in which the tiny recipe, which lies beside it, went through at once."""

    def make(folder):
        store = fill(folder / "store", drawings, mlflow_tables)
        hpt("launch", str(write_recipe(folder, TINY)), store=str(store))

    folder = made_once(tmp_path_factory, "tiny", make)
    return folder / "store", folder / "tiny.yaml"
