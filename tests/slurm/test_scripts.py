"""What sbatch and srun are given: exactly this for each profile here, and no name becomes shell.

`HPT_UPDATE_GOLDEN=1 pytest tests/slurm/test_scripts.py` writes golden/ anew; read its diff then.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hpt_dist.errors import HptError, RequestError
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import container
from hpt_dist.slurm.container import Container
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
PROFILES = sorted((ROOT / "slurm/profiles").glob("*.yaml"))
# What an interactive shell on a login node holds, a secret and a bit of conda among it.
SHELL = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/ada",
    "USER": "ada",
    "LANG": "C.UTF-8",
    "SLURM_PARTITION": "gpu",
    "AWS_SECRET_ACCESS_KEY": "sesame",
    "CONDA_PREFIX": "/opt/conda",
    "HPT_BUNDLE": "/shared/images/hpt-dist.bundle",
    "PYTHONWARNINGS": "ignore",
}
# One job on the profile's own CPUs, one on as many GPUs as it has up to 16, and an array.
SHAPE = (
    *("stages.hpt.resources.gpus=16", "stages.hpt.resources.time_min=90"),
    *("stages.adapt.sweep.init=[hpt]", "stages.adapt.sweep.seed=[0, 1, 2]"),
)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_the_scripts_of_each_profile(profile, drawings, tmp_path):
    """Of pyxis and apptainer nothing but this is known: neither runs here."""
    store = tmp_path / "store"
    store.symlink_to(drawings)
    words = [word for setting in SHAPE for word in ("--set", setting)]
    command = ("launch", "recipes/quickstart.yaml", "--on", profile, "--only", "adapt", *words)
    done = subprocess.run(
        [sys.executable, "-m", "hpt_dist", *map(str, command), "--dry-run"],
        env=SHELL | {"HPT_STORE": str(store), "HPT_WORK": "/shared/work"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    scripts = done.stdout.replace(str(store), "/shared/store")
    scripts = scripts.replace(sys.executable, "/shared/venv/bin/python")
    golden = GOLDEN / f"{profile.stem}.sbatch"
    if os.environ.get("HPT_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(scripts)
    assert scripts == golden.read_text()
    assert "sesame" not in scripts
    for script in scripts.split("==> ")[1:]:
        subprocess.run(["bash", "-n"], input=script.partition("\n")[2], text=True, check=True)
    assert not Path("/shared").exists()


# No name becomes shell.

STEP = {"placement": Placement(2, 2, 2, 4, 16.0, 30), "after": ("7", "8_1")}
NASTY = st.text(st.sampled_from("a1/:,.-_ \t\n;&|<>()$`'\"\\*?[]{}!#~=%@+é\x00\x7f"), max_size=12)
FIELDS = ("partition", "account", "qos", "constraint", "python", "shared_folder")


@given(st.sampled_from(FIELDS), NASTY)
def test_what_a_profile_names_is_refused_or_stays_one_word(field, text):
    try:
        profile = Profile.model_validate({field: text})
    except ValidationError:
        return
    folder = Path(profile.shared_folder or "/shared") / "x"
    directives, words = read(profile, folder)
    plain_directives, plain_words = read(Profile(), Path("/shared/x"))
    if field == "python":
        assert words == [text if word == sys.executable else word for word in plain_words]
    elif field == "shared_folder":
        assert len(words) == len(plain_words)
        assert words[-1] == str(folder.expanduser())
    else:
        assert directives == plain_directives | {f"--{field}={text}"}
        assert words == plain_words


def test_names_as_clusters_have_them_are_taken():
    known = {"partition": "gpu,gpu-long", "account": "vision@lab", "qos": "high_1"}
    Profile.model_validate(known | {"constraint": "[a100*2&h100]|v100", "python": "/a b/python"})


@given(NASTY, NASTY)
def test_what_a_container_names_is_refused_or_stays_one_word(image, mount):
    try:
        box = Container(runtime="pyxis", image=image, mounts=(mount,))
    except ValidationError:
        return
    arguments = container.srun_arguments(box, ["/shared"], "/shared/x")
    assert arguments[0] == f"--container-image={image}"
    assert len(arguments[-1].split(",")) == 2
    profile = Profile(container=box, gpus_per_node=2)
    directives, words = read(profile, Path("/shared/x"))
    assert directives == read(Profile(), Path("/shared/x"))[0]
    assert f"--container-image={image}" in words


def read(profile: Profile, folder: Path) -> tuple[set[str], list[str]]:
    """Return the directives of a trial's script, and the words of its srun line, as they are read.

    Slurm takes directives from the lines at the top, and splits them as a shell does.
    """
    executor = slurm.executor("name.0", profile, slurm.Step(folder, **STEP))
    head, _, rest = slurm.script_of(executor, 1).partition("# setup")
    lines = [line for line in head.splitlines() if line.startswith("#SBATCH")]
    split = [shlex.split(line)[1:] for line in lines]
    assert all(len(words) == 1 for words in split)
    directives = {words[0] for words in split if not re.match("--(output|export)=", words[0])}
    [srun] = [line for line in rest.splitlines() if line.startswith("srun ")]
    return directives, shlex.split(srun)


HOSTILE = "a $(touch pwned) `touch pwned` 'b' \"c\" ;touch pwned;&| *"


def test_a_script_run_by_bash_does_nothing_but_start_srun(tmp_path):
    """Every text that may hold any sign at all holds signs of the shell."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "srun").write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$SEEN"\n')
    (bin_ / "srun").chmod(0o755)
    folder, code = tmp_path / HOSTILE / "jobs", f"/{HOSTILE}/code"
    python = f"/{HOSTILE}/python"
    step = slurm.Step(folder, **STEP, code=code)
    executor = slurm.executor("name.0", Profile(python=python), step)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    seen = tmp_path / "seen"
    environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_JOB_ID": "1", "SEEN": str(seen)}
    done = subprocess.run(
        ["bash", "-c", slurm.script_of(executor, 1)], cwd=cwd, env=environment, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    words = seen.read_text().split("\0")[:-1]
    assert words[words.index(python) :] == [
        python,
        "-u",
        "-m",
        "submitit.core._submit",
        str(folder),
    ]
    assert list(cwd.iterdir()) == []


def test_names_of_jobs_have_no_sign_of_the_shell():
    assert slurm.plain("a b;$(c)\n'\"") == "a-b-c-"


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ("Batch job submission failed: Resource temporarily unavailable", HptError),
        ("Batch job submission failed: Invalid account", RequestError),
    ],
)
def test_a_full_queue_is_no_wrong_request(tmp_path, monkeypatch, says, error):
    """In the words of a real one, which fills at its MaxJobCount."""
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {says}' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    executor = slurm.executor("name.0", Profile(), slurm.Step(tmp_path / "jobs", **STEP))
    with pytest.raises(HptError) as caught:
        slurm.submit(executor, [print])
    assert type(caught.value) is error


# Containers.


def test_folders_are_mounted_once_and_where_they_are():
    box = Container(runtime="pyxis", image="/i.sqsh", mounts=("/data", "/a:/b:ro"))
    folders = ["/shared/jobs", "/shared", "/shared2", "/shared/work"]
    mounts = container.srun_arguments(box, folders, "/shared/jobs")[-1]
    expected = "/shared:/shared,/shared2:/shared2,/data:/data,/a:/b:ro"
    assert mounts == f"--container-mounts={expected}"
    words = container.python_command(box, "/venv/bin/python", folders, "/x", gpus=True)
    assert words == ["/venv/bin/python"]


@pytest.mark.parametrize("gpus", [True, False])
def test_apptainer_stands_before_the_interpreter(gpus):
    box = Container(runtime="apptainer", image="/i.sif", mounts=("/data",))
    assert container.srun_arguments(box, ["/shared"], "/shared/x") == []
    words = container.python_command(box, "/venv/bin/python", ["/shared"], "/shared/x", gpus=gpus)
    assert words == [
        *("apptainer", "exec", "--pwd", "/shared/x", *(["--nv"] if gpus else [])),
        *("--bind", "/shared:/shared", "--bind", "/data:/data", "/i.sif", "/venv/bin/python"),
    ]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"runtime": "oci", "image": "name"}, "absolute path"),
        ({"runtime": "apptainer", "image": "docker://name"}, "absolute path"),
        ({"runtime": "oci", "image": "/b", "mounts": ["/data"]}, "containers/bundle --mount"),
        ({"runtime": "pyxis", "image": "-x"}, "absolute path without spaces"),
        ({"runtime": "pyxis", "image": "/i", "mounts": ["/a,/b"]}, "/folder:/inside"),
        ({"runtime": "docker", "image": "/i"}, "pyxis"),
    ],
)
def test_containers_that_could_not_start_are_refused(values, says):
    with pytest.raises(ValidationError, match=says):
        Container.model_validate(values)
