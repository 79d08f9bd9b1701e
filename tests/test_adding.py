"""docs/adding.md shows whole additions: its diffs apply to the code as it is, and they work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/adding.md").read_text()
# By the title of a section: its edit points in words, and its diff.
ADDITIONS = {
    section.splitlines()[0]: (printed, diff)
    for section in re.split(r"^## ", PAGE, flags=re.M)
    for printed, diff in re.findall(
        r"^Edit points: (.*?)\..*?^```diff\n(.*?)^```", section, re.DOTALL | re.M
    )
}


@pytest.fixture
def copy(tmp_path):
    """A copy of the package with the page's additions and their tests."""
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hpt_dist", tmp_path / "hpt_dist", ignore=without)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "tests").mkdir()
    # The rules hold for what is added, too.
    shutil.copy(ROOT / "tests/test_architecture.py", tmp_path / "tests")
    shutil.copy(ROOT / "tests/fixtures/additions.py", tmp_path / "tests/test_additions.py")
    for title, (_, diff) in ADDITIONS.items():
        applied = subprocess.run(
            ["git", "apply", "-"],
            cwd=tmp_path,
            # A folder above may be a repository, outside of which git would apply nothing.
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
            input=diff,
            capture_output=True,
            text=True,
        )
        assert applied.returncode == 0, f"{title}: {applied.stderr}"
    return tmp_path


def test_each_addition_of_the_page_works(copy):
    paths = [str(copy), str(ROOT / "tests/fixtures"), *sys.path]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=copy,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_counts_the_edit_points():
    assert [*ADDITIONS] == ["Add a method", "Add an evaluation", "Add a source"]
    for printed, diff in ADDITIONS.values():
        parts = re.split(r"^--- ", diff, flags=re.M)[1:]
        parts = [part for part in parts if "+++ b/hpt_dist/" in part]
        new = [part for part in parts if part.startswith("/dev/null")]
        places = sum(part.count("\n@@ ") for part in parts if part not in new)
        files = len(parts) - len(new)
        plural, others = ("" if count == 1 else "s" for count in (len(new), files))
        assert printed == f"{len(new)} new file{plural}, {places} changes in {files} other{others}"
