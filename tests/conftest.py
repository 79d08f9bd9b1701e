"""What every test gets: the services as fixtures, and an environment without AWS settings."""

from __future__ import annotations

import os

import pytest
from small import hpt

pytest_plugins = ["services", "slurm_cluster", "container_image"]


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
    """A store with the two domains."""
    store = tmp_path_factory.mktemp("drawings")
    for domain in ("color", "line"):
        name = f"openmoji/{domain}"
        hpt("shard", name, f"{store}/datasets/{name}", store=str(store))
    return store
