"""Sharding by jobs: on a real Slurm it ends as sharding here does, whatever happens to the jobs."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small import environment, hpt

from hpt_dist.datasets import shards
from hpt_dist.errors import HptError, RequestError
from hpt_dist.images.formats import AS_IT_IS
from hpt_dist.launch import shard_jobs
from hpt_dist.launch.shard_jobs import Jobs, Request
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import profile
from hpt_dist.slurm.profile import Profile
from hpt_dist.sources import open_source
from hpt_dist.store import FolderStore

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "slurm/profiles"
DEV = (PROFILES / "dev.yaml").read_text()
SECRET = "not-to-be-written"
SHARD_BYTES = 12_000
OPTIONS = ("--shard-mb", str(SHARD_BYTES / 1e6))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of about 1 kB: with OPTIONS about nine shards."""
    return write_photos(tmp_path / "photos", 30, (16, 16))


def write_photos(folder: Path, count: int, size: tuple[int, int]) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        tile = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(tile).resize(size, Image.Resampling.NEAREST).save(file)
    return folder


@dataclass(frozen=True)
class Site:
    """A user's folder on the cluster: a profile and a store, in a path with a space."""

    folder: Path
    slurm: object

    @property
    def environment(self) -> dict[str, str]:
        work = {"HPT_WORK": str(self.folder / "my work"), "AWS_SECRET_ACCESS_KEY": SECRET}
        return self.slurm.environment | work

    def profile(self, text: str = DEV) -> Path:
        file = self.folder / "cluster.yaml"
        file.write_text(text)
        return file

    def shard(self, source: Path, *options: str, code: int = 0, text: str = DEV) -> str:
        arguments = self.arguments(source, *options, text=text)
        return hpt(*arguments, store="", code=code, **self.environment)

    def arguments(self, source: Path, *options: str, text: str = DEV) -> list[str]:
        on = ("--on", str(self.profile(text)), "--jobs", "3")
        return ["shard", str(source), str(self.dataset), *OPTIONS, *on, *options]

    @property
    def dataset(self) -> Path:
        return self.folder / "store/datasets/pets"

    @property
    def jobs(self) -> Path:
        [folder] = (self.folder / "my work/jobs").iterdir()
        return folder

    @property
    def submitted(self) -> dict:
        return json.loads((self.jobs / "jobs.json").read_text())

    def wait(self, what) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, self.slurm.call("squeue")
            time.sleep(0.05)


@pytest.fixture
def site(tmp_path: Path, slurm) -> Site:
    yield (made := Site(tmp_path, slurm))
    if left := {job.partition("_")[0] for job in slurm.jobs()}:
        slurm.call("scancel", *left)
        made.wait(lambda: not slurm.jobs())


def held(condition: str, until: Path) -> str:
    """Return a profile whose jobs wait before they begin, where a condition holds."""
    line = f"{condition} && while [ ! -e '{until}' ]; do sleep 0.1; done; true"
    return f"{DEV}\nsetup:\n  - {json.dumps(line)}\n"


def contents(dataset: Path) -> dict[str, bytes]:
    files = (path for path in dataset.rglob("*") if path.is_file())
    return {str(path.relative_to(dataset)): path.read_bytes() for path in files}


def shard_here(source: Path, folder: Path) -> dict[str, bytes]:
    store = FolderStore(folder / "here")
    shards.write_dataset(open_source(str(source)), store, "pets", shard_bytes=SHARD_BYTES)
    return contents(store.root / "datasets/pets")


def finished(dataset: Path) -> dict[str, int]:
    """Return when each file of the finished shards was written."""
    records = list(dataset.rglob("*.done.json"))
    stems = [str(record).removesuffix(".done.json") for record in records]
    files = [Path(stem + end) for stem in stems for end in (".tar", ".index.json", ".done.json")]
    return {str(file): file.stat().st_mtime_ns for file in files}


@pytest.mark.services
def test_jobs_on_two_nodes_write_what_one_process_writes(site, photos, tmp_path):
    seen = tmp_path / "seen"
    setup = ["export HPT_SETUP=1", f"env > '{seen}'"]
    text = DEV + f"\nsetup: {json.dumps(setup)}\n"
    said = site.shard(photos, "--json", text=text)
    assert contents(site.dataset) == shard_here(photos, tmp_path)
    assert '"images": 30' in said
    submitted = site.submitted
    assert len(submitted["parts"]) == 3
    assert site.slurm.nodes_of(submitted["parts"][0].partition("_")[0]) == {"n1", "n2"}
    # The jobs get the variables that the profile names, and only those.
    variables = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert variables["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert variables["HPT_SETUP"] == "1"
    assert "HPT_CORES" in variables
    assert "PYTHONWARNINGS" not in variables
    # No secret is written down.
    assert len(list(site.jobs.glob("*.out"))) == 4
    for file in site.jobs.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.services
def test_a_cancelled_task_is_made_up_for_by_running_again(site, photos, tmp_path):
    text = held('[ "$SLURM_ARRAY_TASK_ID" = 1 ]', tmp_path / "never")
    waiting = start(site, photos, text)
    site.wait(lambda: left_of(site) == {1} or waiting.poll() is not None)
    site.slurm.call("scancel", site.submitted["parts"][1])
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 1, said
    assert re.search(r"1 of 3 parts failed: job \d+_1 was ended; its log ends with: .+CANCEL", said)
    assert "Traceback" not in said
    assert not (site.dataset / "manifest.json").exists()
    before = finished(site.dataset)
    assert before
    site.shard(photos)
    assert contents(site.dataset) == shard_here(photos, tmp_path)
    assert before.items() <= finished(site.dataset).items()


def left_of(site: Site) -> set[int]:
    """Return which tasks of the array are not over; empty before there are any."""
    if not any(site.folder.glob("my work/jobs/*/jobs.json")):
        return set()
    jobs = site.slurm.jobs()
    return {n for n, part in enumerate(site.submitted["parts"]) if part in jobs}


def start(site: Site, source: Path, text: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", *site.arguments(source, *options, text=text)],
        env=environment("", **site.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.services
def test_a_preempted_task_is_queued_again_and_goes_on(site, tmp_path):
    # Images that take a while to decode, one in each shard.
    photos = write_photos(tmp_path / "photos", 15, (3072, 3072))
    waiting = start(site, photos, DEV, "--workers", "2")
    site.wait(lambda: any(site.folder.glob("my work/jobs/*/*_1_0_result.progress")))
    site.wait(lambda: any(site.dataset.rglob("*.done.json")))
    second = site.submitted["parts"][1]
    before = finished(site.dataset)
    site.slurm.call("scancel", "--signal=USR2", second)
    site.wait(lambda: site.slurm.shorten_wait(second) or waiting.poll() is not None)
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    log = next(site.jobs.glob(f"{second}_*.out")).read_text()
    assert "this job is preempted" in log
    assert log.count("Starting with JobEnvironment") == 2, log
    assert contents(site.dataset) == shard_here(photos, tmp_path)
    assert before.items() <= finished(site.dataset).items()


@pytest.mark.services
def test_the_same_command_finds_its_jobs_and_another_is_refused(site, photos, tmp_path):
    go = tmp_path / "go"
    text = held("true", go)
    said = site.shard(photos, "--no-wait", text=text)
    submitted = site.submitted
    array, merge = submitted["parts"][0].partition("_")[0], submitted["merge"]
    assert f"scancel {array} {merge}" in said
    said = site.shard(photos, "--resize", "8", text=text, code=2)
    assert "with other options" in said
    assert f"scancel {array} {merge}" in said
    waiting = start(site, photos, text)
    assert f"in job {array}," in waiting.stdout.readline()
    assert "logs in" in waiting.stdout.readline()
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=20)
    assert "the jobs go on" in said
    assert "Traceback" not in said
    assert waiting.returncode == 1
    go.touch()
    said = site.shard(photos, text=text)
    assert "30 images" in said
    assert site.submitted == submitted
    assert contents(site.dataset) == shard_here(photos, tmp_path)


@pytest.mark.services
def test_a_failing_part_tells_its_own_message(site, photos):
    (photos / "cat/broken.png").write_bytes(b"no image")
    said = site.shard(photos, "--max-bad", "0", code=1)
    assert "1 of 3 parts failed: more than 0 images cannot be used, among them" in said
    assert "cat/broken.png" in said
    assert "raise --max-bad" in said
    assert not (site.dataset / "manifest.json").exists()
    assert "Traceback" not in "".join(log.read_text() for log in site.jobs.glob("*.out"))


@pytest.mark.services
def test_what_slurm_refuses_starts_nothing(site, photos):
    said = site.shard(photos, text="partition: nowhere\n", code=2)
    assert "sbatch refused the jobs" in said
    assert "nvalid partition" in said
    assert site.slurm.jobs() == {}


@pytest.mark.services
def test_a_name_or_source_that_cannot_be_used_starts_nothing(site, photos, tmp_path):
    on = ("--on", str(site.profile()))
    bad = tmp_path / "store/datasets/a;b"
    said = hpt("shard", str(photos), str(bad), *on, store="", code=2, **site.environment)
    assert "cannot name a dataset" in said
    said = site.shard(tmp_path / "nowhere", code=2)
    assert "nothing is at" in said
    assert not (tmp_path / "my work").exists()


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs in place of Slurm's: sbatch counts up, squeue knows no job."""
    folder = tmp_path / "bin"
    counting = f'echo x >> {tmp_path}/n; echo "Submitted batch job $(wc -l < {tmp_path}/n)"'
    program(folder, "sbatch", counting)
    program(folder, "srun", "exit 1")
    program(folder, "squeue", "true")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def request(photos: Path, tmp_path: Path) -> Request:
    return Request(
        str(photos), "/", str(tmp_path / "store"), "birds/photos", SHARD_BYTES, 10, AS_IT_IS
    )


PART = """\
#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --array=0-2%2
#SBATCH --constraint='avx512&nvme'
#SBATCH --cpus-per-task=8
#SBATCH --export=AWS_PROFILE,HOME,PATH
#SBATCH --job-name=hpt-shard-birds-photos-part
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=1536MB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output='{folder}/%A_%a_0_log.out'
#SBATCH --partition=cpu,big
#SBATCH --qos=low
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=240

# setup
export SLURM_EXPORT_ENV=ALL SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
module load x

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '{folder}/%A_%a_%t_log.out' '/opt/my env/python' -u -m \
submitit.core._submit '{folder}'
"""


def test_golden_scripts(fake_slurm, photos, tmp_path, monkeypatch):
    asked = request(photos, tmp_path)
    text = """\
account: vision
partition: cpu,big
qos: low
constraint: avx512&nvme
memory_gb: 1.5
cpus_per_task: 8
max_parallel_jobs: 2
setup: [module load x]
python: /opt/my env/python
"""
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    cluster = profile.load(file)
    folder = shard_jobs.jobs_folder(asked, tmp_path / "my work", cluster)
    for name in set(os.environ) - {"PATH", "HOME"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "x")
    monkeypatch.setenv("SBATCH_PARTITION", "inherited")
    jobs = shard_jobs.submit(asked, cluster, 3, folder)
    assert (jobs.parts, jobs.merge, jobs.images) == (("1_0", "1_1", "1_2"), "2", 30)
    assert (folder / "1_submission.sh").read_text() == PART.format(folder=folder)
    merge = (folder / "2_submission.sh").read_text()
    assert "#SBATCH --dependency=afterok:1\n" in merge
    assert "--array" not in merge
    assert os.environ["SBATCH_PARTITION"] == "inherited"


def test_there_are_never_more_jobs_than_shards(fake_slurm, photos, tmp_path):
    asked = request(photos, tmp_path)
    jobs = shard_jobs.submit(asked, Profile(), 1000, tmp_path / "jobs")
    assert 1 < len(jobs.parts) < 30


def test_a_merge_that_is_refused_takes_the_array_with_it(fake_slurm, photos, tmp_path):
    once = f'test -e {tmp_path}/n && echo "over the limit" >&2 && exit 1; touch {tmp_path}/n'
    program(fake_slurm, "sbatch", f'{once}; echo "Submitted batch job 7"')
    program(fake_slurm, "scancel", f"echo $@ > {tmp_path}/cancelled")
    with pytest.raises(RequestError, match="over the limit"):
        shard_jobs.submit(request(photos, tmp_path), Profile(), 3, tmp_path / "jobs")
    assert (tmp_path / "cancelled").read_text() == "--quiet 7\n"


def test_waiting_outlives_a_controller_that_restarts(fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_jobs, "_POLL_S", (0.01, 0.01))
    jobs = Jobs({}, tmp_path, ("7_0",), "8", 1)
    asked = f"echo x >> {tmp_path}/asked; n=$(wc -l < {tmp_path}/asked)"
    down = 'echo "Unable to contact slurm controller" >&2; exit 1'
    program(fake_slurm, "squeue", f"{asked}; [ $n -gt 3 ] && exit 0; {down}")
    with pytest.raises(HptError, match="never began"):  # for nobody ran these jobs
        shard_jobs.wait(jobs, lambda *_: None)
    assert (tmp_path / "asked").read_text().count("x") == 4
    monkeypatch.setattr(shard_jobs, "_PATIENCE_S", 0.2)
    program(fake_slurm, "squeue", down)
    with pytest.raises(HptError, match="Unable to contact"):
        shard_jobs.wait(jobs, lambda *_: None)


def test_without_slurm_the_error_says_so(photos, tmp_path):
    arguments = ("shard", str(photos), str(tmp_path / "store/datasets/pets"), "--on", "p.yaml")
    file = PROFILES / "dev.yaml"
    said = hpt(*arguments[:-1], str(file), store="", code=2, PATH="/nowhere")
    assert "sbatch is not installed here" in said
    assert "without --on" in said
    assert "--on PROFILE" in hpt(*arguments[:3], "--jobs", "3", store="", code=2)


def test_the_profiles_that_come_along_are_right():
    for file in PROFILES.glob("*.yaml"):
        assert profile.load(file, {}).partition
    environment = {"SLURM_PARTITION": "gpu"}
    assert profile.load(PROFILES / "generic-cpu.yaml", environment).partition == "gpu"


WRONG = """\
partitoin: cpu
account: 'vision; rm -rf ~'
constraint: "a\\nb"
cpus_per_task: 0
memory_gb: lots
time_min: 1
python: python3
shared_folder: /shared/100%
env: [AWS_*, 'PATH=x']
setup: module load x
"""


def test_every_problem_of_a_profile_is_told_at_once(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(WRONG)
    with pytest.raises(RequestError) as caught:
        profile.load(file)
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert said.startswith("10 problems in the profile")
    assert [int(line) for line in re.findall(r"cluster\.yaml:(\d+)", said)] == list(range(1, 11))
    assert "did you mean partition?" in said
    assert "an absolute path" in said


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the profile is empty"),
        ("- a", "object"),
        ("a: [", "not valid YAML"),
        ("partition: ${NOT_SET}", "NOT_SET is not set"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, text, what):
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=re.escape(what)):
        profile.load(file, {})
    with pytest.raises(RequestError, match="cannot read the profile"):
        profile.load(tmp_path / "nowhere.yaml")


def test_a_failed_merge_and_a_program_that_breaks_are_told(fake_slurm, tmp_path):
    jobs = Jobs({}, tmp_path, ("7_0",), "8", 1)
    (tmp_path / "7_0_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    with pytest.raises(HptError, match="the merge failed: job 8 never began"):
        jobs.check()
    trace = "Traceback (most recent call last):\n  File x\nModuleNotFoundError: No module 'y'\n"
    (tmp_path / "7_0_0_result.pkl").write_bytes(pickle.dumps(("error", trace)))
    with pytest.raises(HptError, match="1 of 1 parts failed: job 7_0 failed: ModuleNotFoundError"):
        jobs.check()
    (tmp_path / "7_0_0_result.pkl").write_bytes(pickle.dumps(("error", "Stop\n")))
    with pytest.raises(HptError, match="job 7_0 failed: see its log"):
        jobs.check()
    (tmp_path / "8_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    jobs.check()


NAMES = ("partition", "account", "qos", "constraint", "python")


@given(st.sampled_from(NAMES), st.text(min_size=1) | st.text("ab/~&|$`'\"\\;\n #-", min_size=1))
def test_no_name_ends_as_shell(name, text):
    """What a profile accepts is one word on one line of a script, and is what was meant."""
    try:
        accepted = Profile.model_validate({name: text}, strict=True)
    except ValueError:
        return
    script = script_of(accepted)
    if name == "python":
        [command] = [line for line in script if line.startswith("srun ")]
        assert shlex.split(command)[4] == text
    else:
        [line] = [line for line in script if line.startswith(f"#SBATCH --{name}=")]
        assert shlex.split(line.removeprefix("#SBATCH ")) == [f"--{name}={text}"]
    assert len(script) == len(script_of(Profile())) + (name != "python")


def script_of(cluster: Profile) -> list[str]:
    text = slurm.script_of(slurm.shard_executor(Path("/jobs"), "hpt-shard-pets", cluster), 1)
    return re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)


@pytest.fixture(autouse=True)
def _srun(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let submitit find an srun also where no Slurm is installed; it only looks for it."""
    if shutil.which("srun") is None:
        folder = tmp_path_factory.mktemp("srun")
        program(folder, "srun", "exit 1")
        monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{folder}")


def test_a_folder_that_slurm_could_not_write_to_is_refused(tmp_path):
    asked = Request("x", "/", "/store", "pets", 1, 1, AS_IT_IS)
    with pytest.raises(RequestError, match="cannot write logs"):
        shard_jobs.jobs_folder(asked, tmp_path / "100%j", Profile())
    chosen = Profile(shared_folder="~/jobs")
    assert shard_jobs.jobs_folder(asked, tmp_path, chosen).parent == Path.home() / "jobs"
