"""A user without a home and a name gets both; any other is left alone."""

from __future__ import annotations

import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from hpt_dist.processes import environment
from hpt_dist.reading import node_cache


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be a user that /etc/passwd does not know; the folder for temporary files is returned."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HPT_CACHE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_a_home_gets_one_of_its_own(nobody: Path) -> None:
    with pytest.raises(RuntimeError):
        Path.home()
    for _ in range(2):
        environment.provide_home()
        assert Path.home().parent == nobody
        assert Path.home().stat().st_mode & 0o777 == 0o700
        assert getpass.getuser() == str(os.getuid())
    assert [folder.name for folder in nobody.iterdir()] == [f"hpt-dist-home-{os.getuid()}"]
    cache = node_cache.configured_cache()
    assert cache
    assert cache.folder.is_relative_to(nobody)
    kept, _ = environment.for_trials(os.environ)
    assert {"HOME", "USER", "LOGNAME"} <= set(kept)


def test_a_folder_that_others_could_write_to_is_not_used(nobody: Path) -> None:
    taken = nobody / f"hpt-dist-home-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    environment.provide_home()
    assert Path.home() != taken
    assert Path.home().stat().st_mode & 0o777 == 0o700


def test_a_home_that_can_be_used_is_kept(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(nobody))
    monkeypatch.setenv("USER", "ada")
    environment.provide_home()
    assert (os.environ["HOME"], getpass.getuser()) == (str(nobody), "ada")
    assert list(nobody.iterdir()) == []
    monkeypatch.setenv("HOME", "/no/such/folder")
    environment.provide_home()
    assert Path.home().parent == nobody


def test_a_user_with_an_entry_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    environment.provide_home()
    assert "HOME" not in os.environ
