"""What sbatch and srun are given: exactly this for each profile here, and no name becomes shell.

`HPT_UPDATE_GOLDEN=1 pytest tests/slurm/test_scripts.py` writes golden/ anew; read its diff then.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small import RECIPE

from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch import launches, on_slurm
from hpt_dist.recipe import file as recipe_file
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import container, script
from hpt_dist.slurm import profile as profiles
from hpt_dist.slurm.container import Container
from hpt_dist.slurm.options import SbatchOptions
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
    *("stages.hpt.sweep.seed=[0]", "stages.linear.sweep.seed=[0]"),
    *(
        "stages.few.sweep.init=[hpt]",
        "stages.few.sweep.seed=[0]",
        "stages.few.sweep.shots=[1, 2, 5]",
    ),
)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_the_scripts_of_each_profile(profile, drawings, tmp_path):
    """Of pyxis and apptainer nothing but this is known: neither runs here."""
    store = tmp_path / "store"
    store.symlink_to(drawings)
    words = [word for setting in SHAPE for word in ("--set", setting)]
    command = ("launch", "recipes/quickstart.yaml", "--on", profile, "--only", "few", *words)
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
    for one in scripts.split("==> ")[1:]:
        subprocess.run(["bash", "-n"], input=one.partition("\n")[2], text=True, check=True)
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
    folder.mkdir(parents=True)
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


# What sites need beside.

NEEDS = """\
gpus_per_node: 8
memory_gb: 400
sbatch:
  reservation: spring-2026
  exclude: node[01-03],bad-7
  nodelist: "node[10-20]"
  gres: gpu:a100:8,nvme:100G
  exclusive: user
  licenses: "matlab:1,data@server:2"
  nice: 100
  mail-user: ada@example.org
  comment: "HPT of group 7"
"""


def profile_of(folder: Path, text: str) -> Profile:
    (folder / "cluster.yaml").write_text(text)
    return profiles.load(folder / "cluster.yaml", {})


def test_what_sites_need_reaches_sbatch_with_the_share_of_each_job(tmp_path):
    site = profile_of(tmp_path, NEEDS)
    others = {
        *("--reservation=spring-2026", "--exclude=node[01-03],bad-7", "--nodelist=node[10-20]"),
        *("--exclusive=user", "--licenses=matlab:1,data@server:2", "--nice=100"),
        *("--mail-user=ada@example.org", "--comment=HPT of group 7"),
    }
    for gpus, gres in ((2, "gpu:a100:2,nvme:100G"), (0, "nvme:100G")):
        step = slurm.Step(Path("/shared/x"), replace(STEP["placement"], gpus_per_node=gpus))
        text = slurm.script_of(slurm.executor("name.0", site, step), 1)
        lines = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
        assert others | {f"--gres={gres}"} <= set(lines)
        assert not any(line.startswith("--gpus") for line in lines)


@pytest.mark.parametrize(
    ("options", "gpus", "wanted"),
    [
        ({}, 2, {"gpus-per-node": "2"}),
        ({"gpus-per-node": "a100"}, 2, {"gpus-per-node": "a100:2"}),
        ({"gpus_per_node": "a100:8"}, 0, {}),
        ({"gres": "gpu"}, 2, {"gres": "gpu:2"}),
        ({"gres": "gpu:8"}, 2, {"gres": "gpu:2"}),
        ({"gres": "nvme:1"}, 2, {"gpus-per-node": "2", "gres": "nvme:1"}),
        # Whole nodes whose GPUs Slurm does not know.
        ({"gres": "none", "exclusive": True}, 2, {"exclusive": True}),
        ({"exclusive": False}, 0, {}),
    ],
)
def test_gpus_are_asked_for_as_a_site_wants_it(options, gpus, wanted):
    assert SbatchOptions.model_validate(options).for_job(gpus) == wanted


WRONG = """\
gpus_per_node: 8
sbatch:
  reservation: "a; touch pwned"
  exclude: $(touch pwned)
  licenses: "a'b"
  comment: "two\\nlines"
  exclusive: maybe
  nice: fast
  mem: 4G
  mail_type: "END,FAIL"
  licences: x
  account: vision
"""


def test_what_is_no_name_and_what_hpt_dist_sets_itself_is_refused_at_once(tmp_path):
    with pytest.raises(RequestError) as caught:
        profile_of(tmp_path, WRONG)
    says = str(caught.value)
    assert says.startswith("9 problems")
    for line, words in (
        *((3, "reservation: this must be a name"), (4, "exclude: this must be names of nodes")),
        *((5, "licenses: this must be"), (6, "comment: this must be"), (7, "true, user, mcs or")),
        *((8, "nice"), (9, "hpt-dist sets mem itself"), (11, "unknown setting licences")),
        (12, "hpt-dist sets account itself"),
    ):
        assert re.search(rf"yaml:{line} sbatch.*{words}", says), (line, says)
    assert "do: write `memory_gb`" in says
    assert "do: did you mean licenses?" in says
    assert "do: write it at the top of the profile" in says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpus_per_node: 4\nsbatch: {gres: 'gpu:a100:8'}", "names 8 GPUs of a node"),
        ("sbatch: {gpus-per-node: 'a100:2'}", "names 2 GPUs of a node, and gpus_per_node is 0"),
        ("gpus_per_node: 1\nsbatch: {gres: gpu, gpus-per-node: a100}", "both name GPUs"),
        ("gpus_per_node: 1\nsbatch: {gres: 'gpu:a100,gpu:h100'}", "two types of GPU"),
    ],
)
def test_gpus_that_are_named_twice_are_refused(tmp_path, text, says):
    with pytest.raises(RequestError, match=says):
        profile_of(tmp_path, text)


def test_variables_of_sbatch_that_jobs_do_not_get_are_named():
    environment = {
        "SBATCH_RESERVATION": "spring",
        "SBATCH_ACCOUNT": "vision",
        "SBATCH_TIMELIMIT": "10",
        "SLURM_HINT": "nomultithread",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_PARTITION": "gpu",
    }
    says = Profile(partition="gpu").left_out(environment)
    assert "SBATCH_RESERVATION (write `sbatch: {reservation: ...}`)" in says
    assert "SBATCH_ACCOUNT (account: write it at the top" in says
    assert "SBATCH_TIMELIMIT (time: write `time_min`)" in says
    assert "SLURM_HINT" in says
    assert "CONF" not in says
    assert "PARTITION" not in says
    inside = {"SLURM_JOB_ID": "7", "SLURM_NODELIST": "n1"}
    assert Profile().left_out(inside) == "SLURM_* of the job 7 that this runs in"
    assert Profile().left_out({}) == ""


LOGIN = {
    "PYTHONPATH": "/poison",
    "PYTHONHOME": "/poison",
    "LD_PRELOAD": "",
    "OMP_NUM_THREADS": "7",
    "OPENBLAS_NUM_THREADS": "7",
    "MKL_CBWR": "AVX2",
    "TORCH_HOME": "/weights",
    "HTTPS_PROXY": "http://proxy",
    "NAMED": "by the site",
}


def test_nothing_of_a_login_profile_changes_a_result(tmp_path):
    """numpy reads some of it before any code of ours runs, so the script takes it out."""
    (tmp_path / "srun").write_text('#!/bin/sh\nenv > "$SEEN"\n')
    (tmp_path / "srun").chmod(0o755)
    site = Profile(setup=("export PYTHONPATH=$PYTHONPATH:/site OMP_PROC_BIND=close",))
    step = slurm.Step(tmp_path, Placement(1, 1, 0, 3, None, 30), code="/code")
    text = slurm.script_of(slurm.executor("name.0", site, step), 1)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = LOGIN | {"PATH": path, "SLURM_JOB_ID": "1", "SEEN": str(tmp_path / "seen")}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "left out of the login profile: LD_PRELOAD, PYTHONHOME, PYTHONPATH" in done.stdout
    says = "left out of the environment: MKL_CBWR, OMP_NUM_THREADS, OMP_PROC_BIND, OPENBLAS_NUM"
    assert says in done.stdout
    lines = (tmp_path / "seen").read_text().splitlines()
    seen = dict(line.partition("=")[::2] for line in lines)
    # What the site sets stays, behind the code of the launch.
    assert seen["PYTHONPATH"] == "/code:/site"
    assert (seen["OMP_NUM_THREADS"], seen["OPENBLAS_NUM_THREADS"]) == ("3", "1")
    kept = ("TORCH_HOME", "HTTPS_PROXY", "NAMED")
    assert {name: seen[name] for name in kept} == {name: LOGIN[name] for name in kept}
    assert not {"PYTHONHOME", "LD_PRELOAD", "MKL_CBWR", "OMP_PROC_BIND"} & set(seen)


def test_a_variable_that_a_profile_names_is_no_login_profiles(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/chosen")
    site = Profile(env=("PYTHONPATH",))
    lines = script.before((), "", 1, site.exported(os.environ))
    assert any("in PYTHONPATH) ;; PYTHON*" in line for line in lines)


# Containers.


def test_folders_are_mounted_once_and_where_they_are():
    box = Container(runtime="pyxis", image="/i.sqsh", mounts=("/data", "/a:/b:ro"))
    folders = ["/shared/jobs", "/shared", "/shared2", "/shared/work"]
    mounts = container.srun_arguments(box, folders, "/shared/jobs")[-1]
    expected = "/shared:/shared,/shared2:/shared2,/data:/data,/a:/b:ro"
    assert mounts == f"--container-mounts={expected}"
    words = container.python_command(box, "/venv/bin/python", folders, "/x", gpus=True)
    assert words == ["/venv/bin/python"]


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
@pytest.mark.parametrize("sign", [",", ":", " ", "'", "\n"])
def test_a_store_or_folder_that_no_mount_list_can_hold_is_refused(runtime, sign):
    box, folders = Container(runtime=runtime, image="/i"), ["/shared", f"/data{sign}x/store"]

    def mount() -> None:
        container.srun_arguments(box, folders, "/shared")
        container.python_command(box, "/python", folders, "/shared", gpus=False)

    with pytest.raises(RequestError, match="cannot mount") as caught:
        mount()
    assert "shared_folder" in caught.value.problem.fix
    bundle = Container(runtime="oci", image="/b")  # its mounts are inside
    assert container.srun_arguments(bundle, folders, "/shared") == ["--container=/b"]


def test_files_that_variables_of_jobs_name_are_mounted(tmp_path):
    """Such as the bundle of a private CA, whose path alone would lead nowhere inside."""
    bundle, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    bundle.touch()
    other.touch()
    environment = {
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "HPT_STORE": str(tmp_path),
        "SHELL": "/bin/sh",
        "REQUESTS_CA_BUNDLE": str(other),
    }
    assert Profile().files(environment) == [str(bundle)]
    more = Profile(env=("AWS_*", "REQUESTS_CA_BUNDLE"))
    assert more.files(environment) == [str(bundle), str(other)]


def test_a_dry_run_mounts_the_bundle_of_a_private_ca(drawings, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    command = ("launch", "recipes/quickstart.yaml", "--on", "slurm/profiles/pyxis.yaml")
    variables = {"HPT_STORE": str(drawings), "AWS_CA_BUNDLE": str(bundle), "NCCL_DEBUG": "INFO"}
    done = subprocess.run(
        [sys.executable, "-m", "hpt_dist", *command, "--only", "base", "--dry-run"],
        env=SHELL | variables | {"SBATCH_RESERVATION": "spring"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"{bundle}:{bundle}" in done.stdout
    assert ",NCCL_DEBUG," in done.stdout
    assert "not passed on to sbatch: SBATCH_RESERVATION (write `sbatch: {" in done.stderr


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


@pytest.mark.parametrize(
    ("written", "variable", "expected"),
    [
        ("", "", "small"),
        ("", "mine", "mine"),
        ("recipe", "mine", "recipe"),
    ],
)
def test_a_profile_names_the_experiment_of_recipes_that_name_none(
    written, variable, expected, tmp_path, monkeypatch
):
    """The recipe's own comes first, then the user's variable, and without all its own name."""
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
    recipe = recipe_file.parse(
        RECIPE + (f"mlflow: {{experiment: {written}}}\n" if written else ""),
        environment={"HPT_STORE": "s"},
    )
    assert launches.experiment_of(recipe) == expected
    path = tmp_path / "site.yaml"
    path.write_text("mlflow_experiment: ${USER}/hpt\n")
    on_slurm.load(str(path))
    wanted = "ada/hpt" if expected == "small" else expected
    assert launches.experiment_of(recipe) == wanted


def test_an_experiment_that_cannot_be_seen_is_refused_at_its_line(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text('partition: gpu\nmlflow_experiment: "a\\nb"\n')
    with pytest.raises(RequestError, match=r"site\.yaml:2 mlflow_experiment: .*one line"):
        profiles.load(path)
