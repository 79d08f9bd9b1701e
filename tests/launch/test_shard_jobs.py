"""Sharding by jobs: on a real Slurm it ends as sharding here does, whatever happens to the jobs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from faulty_proxy import Every, FaultyProxy, Refuse
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small import environment, hpt

from hpt_dist.datasets import shards
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.verify import strays
from hpt_dist.errors import HptError, RequestError
from hpt_dist.images.formats import AS_IT_IS
from hpt_dist.launch import on_slurm, shard_jobs
from hpt_dist.launch.shard_jobs import Sharding
from hpt_dist.launch.sharding import ShardingPart, ShardingRequest
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm import profile, script
from hpt_dist.slurm.jobs import Array
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile
from hpt_dist.sources import TarOptions, open_source
from hpt_dist.store import FolderStore, Store, lease, marker, open_store
from hpt_dist.store.paths import DONE, FAILURE, LEASE, sharding_prefix
from hpt_dist.store.records import DamagedRecordError
from hpt_dist.trial import starts

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
        mlflow = {"MLFLOW_TRACKING_URI": f"http://ada:{SECRET}@127.0.0.1:9"}
        return self.slurm.environment | work | mlflow

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
        [folder] = (self.folder / "my work/jobs").glob("shard-*")
        return folder

    @property
    def store(self) -> Store:
        return FolderStore(self.folder / "store")

    @property
    def submitted(self) -> list[str]:
        """The ids of the array and of the merge, until the manifest is written."""
        notes = list(self.store.root.glob("launches/shard-*.jobs"))
        return [array.id for array in slurm_jobs.read(self.store, notes[0].stem)] if notes else []

    def holder(self, part: int) -> lease.LeaseInfo | None:
        [folder] = self.store.root.glob("sharding/*") if self.submitted else [None]
        return folder and lease.read(FolderStore(folder), f"{part}/{LEASE}")

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
    printed = site.shard(photos, "--json", text=text)
    assert contents(site.dataset) == shard_here(photos, tmp_path)
    assert '"images": 30' in printed
    [array] = re.findall(r"3 parts in job (\d+), the manifest in job", printed)
    assert site.slurm.nodes_of(array) == {"n1", "n2"}
    # Nothing is left of the jobs in the store.
    assert {info.path.split("/")[0] for info in site.store.list()} == {"STORE", "datasets"}
    assert strays(site.store, "pets") == []
    # The jobs get the variables that the profile names, and only those.
    variables = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert variables["AWS_SECRET_ACCESS_KEY"] == SECRET
    assert SECRET in variables["MLFLOW_TRACKING_URI"]
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
    site.slurm.call("scancel", f"{site.submitted[0]}_1")
    printed, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 1, printed
    assert re.search(
        r"1 of 3 parts failed: job \d+_1 was ended; its log ends with: .+CANCEL", printed
    )
    assert "Traceback" not in printed
    assert not (site.dataset / "manifest.json").exists()
    before = finished(site.dataset)
    assert before
    site.shard(photos)
    assert contents(site.dataset) == shard_here(photos, tmp_path)
    assert before.items() <= finished(site.dataset).items()


def left_of(site: Site) -> set[int]:
    """Return which tasks of the array are not over; empty before there are any."""
    if not all(site.submitted) or not site.submitted:
        return set()
    jobs = site.slurm.jobs()
    return {part for part in range(3) if f"{site.submitted[0]}_{part}" in jobs}


def start(site: Site, source: Path, text: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", *site.arguments(source, *options, text=text)],
        env=environment("", **site.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.services
def test_a_preempted_task_and_a_killed_one_are_queued_again_and_go_on(site, tmp_path):
    # Images that take a while to decode, one in each shard.
    photos = write_photos(tmp_path / "photos", 15, (3072, 3072))
    waiting = start(site, photos, DEV, "--workers", "2")
    site.wait(lambda: site.holder(1) and site.holder(2))
    site.wait(lambda: any(site.dataset.rglob("*.done.json")))
    array, _ = site.submitted
    preempted, killed = f"{array}_1", f"{array}_2"
    before = finished(site.dataset)
    site.slurm.call("scancel", "--signal=USR2", preempted)
    os.kill(site.holder(2).pid, signal.SIGKILL)
    for job in (preempted, killed):
        site.wait(lambda job=job: site.slurm.shorten_wait(job) or waiting.poll() is not None)
    printed, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, printed
    for job in (preempted, killed):
        log = next(site.jobs.glob(f"{job}_*.out")).read_text()
        assert ("this job is preempted" in log) is (job == preempted)
        assert log.count("Starting with JobEnvironment") == 2, log
    assert contents(site.dataset) == shard_here(photos, tmp_path)
    assert before.items() <= finished(site.dataset).items()


@pytest.mark.services
def test_a_bucket_that_is_away_costs_a_restart_and_no_part(site, photos, tmp_path, ceph):
    go, uri = tmp_path / "go", f"s3://{ceph.http.make_bucket()}/hpt"
    text = held("true", go) + "store_wait_s: 60\n"
    on = ("--on", str(site.profile(text)), "--jobs", "1", "--no-wait")
    with FaultyProxy(ceph.http.endpoint, []) as proxy:
        # Two attempts stand for the default of six, which take about half a minute.
        reached = ceph.http.environment | {
            "AWS_ENDPOINT_URL_S3": proxy.endpoint,
            "AWS_MAX_ATTEMPTS": "2",
        }
        command = ("shard", str(photos), f"{uri}/datasets/pets", *OPTIONS, *on)
        hpt(*command, store="", **site.environment | reached)
        proxy.faults.append(Every(1, Refuse()))
        go.touch()
        site.wait(lambda: list(site.jobs.glob("*.0.end")))
        [note] = site.jobs.glob("*.0.end")
        assert note.read_text().splitlines()[0] == "69 again away"
        assert "S3 refused: 503 Service Unavailable" in note.read_text()
        proxy.faults.clear()
        job = note.name.partition(".")[0]
        # Longer than what Slurm itself waits, which is 6 s here.
        site.wait(lambda: site.slurm.jobs()[job] == "PENDING")
        begins = site.slurm.call("squeue", "--noheader", f"--jobs={job}", "--format=%S").strip()
        assert 20 < (datetime.fromisoformat(begins) - datetime.now()).total_seconds() < 61
        site.slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")

        def is_over() -> bool:
            site.slurm.shorten_wait(job)
            return not site.slurm.jobs()

        site.wait(is_over)
        log = "\n".join(one.read_text() for one in sorted(site.jobs.glob("*.out")))
        assert "restarts: 1" in log, log
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ceph.http.environment.items():
                patch.setenv(name, value)
            written = open_store(uri)
            there = {
                info.path.removeprefix("datasets/pets/"): written.get(info.path)
                for info in written.list("datasets/pets/")
            }
    assert "manifest.json" in there, log
    assert there == shard_here(photos, tmp_path)


@pytest.mark.services
def test_the_same_command_finds_its_jobs_and_another_is_refused(site, photos, tmp_path):
    go = tmp_path / "go"
    text = held("true", go)
    printed = site.shard(photos, "--no-wait", text=text)
    array, merge = submitted = site.submitted
    assert f"scancel {array} {merge}" in printed
    printed = site.shard(photos, "--resize", "8", text=text, code=2)
    assert "with other options" in printed
    assert f"scancel {array} {merge}" in printed
    waiting = start(site, photos, text)
    assert f"in job {array}," in waiting.stdout.readline()
    assert "logs in" in waiting.stdout.readline()
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    printed, _ = waiting.communicate(timeout=20)
    assert "the jobs go on" in printed
    assert "Traceback" not in printed
    assert waiting.returncode == 1
    assert site.submitted == submitted
    go.touch()
    printed = site.shard(photos, text=text)
    assert "30 images" in printed
    assert f"in job {array}, the manifest in job {merge}" in printed
    assert contents(site.dataset) == shard_here(photos, tmp_path)


@pytest.mark.services
def test_a_failing_part_reports_its_own_message(site, photos):
    (photos / "cat/broken.png").write_bytes(b"no image")
    printed = site.shard(photos, "--max-bad", "0", code=1)
    assert "1 of 3 parts failed: more than 0 images cannot be used, among them" in printed
    assert "cat/broken.png" in printed
    assert "raise --max-bad" in printed
    assert not (site.dataset / "manifest.json").exists()
    assert "Traceback" not in "".join(log.read_text() for log in site.jobs.glob("*.out"))


@pytest.mark.services
def test_what_slurm_refuses_starts_nothing(site, photos):
    printed = site.shard(photos, text="partition: nowhere\n", code=2)
    assert "sbatch refused the jobs" in printed
    assert "nvalid partition" in printed
    assert site.slurm.jobs() == {}


@pytest.mark.services
def test_a_name_or_source_that_cannot_be_used_starts_nothing(site, photos, tmp_path):
    on = ("--on", str(site.profile()))
    bad = tmp_path / "store/datasets/a;b"
    printed = hpt("shard", str(photos), str(bad), *on, store="", code=2, **site.environment)
    assert "a dataset cannot lie at" in printed
    printed = site.shard(tmp_path / "nowhere", code=2)
    assert "nothing is at" in printed
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


def request(photos: Path, tmp_path: Path) -> ShardingRequest:
    return ShardingRequest(
        str(photos), "/", str(tmp_path / "store"), "birds/photos", SHARD_BYTES, 10, AS_IT_IS
    )


def site_of(cluster: Profile, tmp_path: Path) -> on_slurm.Site:
    return on_slurm.site(cluster, FolderStore(tmp_path / "store"), str(tmp_path / "my work"))


def test_another_dataset_is_refused_before_any_job(fake_slurm, photos, tmp_path):
    asked = request(photos, tmp_path)
    site = site_of(Profile(), tmp_path)
    store = FolderStore(tmp_path / "store")
    shards.write_dataset(open_source(str(photos)), store, asked.name)
    before = contents(store.root / "datasets")
    with pytest.raises(RequestError, match=r"a dataset of 30 images \(photos\) is there"):
        shard_jobs.submit(asked, site, 3)
    assert contents(store.root / "datasets") == before
    assert not (tmp_path / "n").exists()
    shard_jobs.submit(replace(asked, replace=True), site, 3)
    assert (tmp_path / "n").exists()


PART = """\
#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --array=0-2%2
#SBATCH --constraint='avx512&nvme'
#SBATCH --cpus-per-task=8
#SBATCH --export=AWS_PROFILE,HOME,PATH
#SBATCH --job-name={name}.0
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=1536MB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='{folder}/%A_%a_0_log.out'
#SBATCH --partition=cpu,big
#SBATCH --propagate=NONE
#SBATCH --qos=low
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=240

# setup
{before}

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '{folder}/%A_%a_%t_log.out' --kill-on-bad-exit=1 --wait=0 \
'/opt/my env/python' -u -m submitit.core._submit '{folder}'


# teardown
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
    for name in set(os.environ) - {"PATH", "HOME"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "x")
    monkeypatch.setenv("SBATCH_PARTITION", "inherited")
    made = shard_jobs.submit(asked, site_of(profile.load(file), tmp_path), 3)
    assert (made.ids, len(made.parts.keys), sum(made.images)) == (("1", "2"), 3, 30)
    folder = tmp_path / "my work/jobs" / asked.id
    assert re.fullmatch("shard-birds-photos-[0-9a-f]{12}", asked.id)
    [code] = folder.parent.glob("code-*")
    part = (folder / "1_submission.sh").read_text()
    before = "\n".join(script.before(("module load x",), str(code), 8, ()))
    golden = PART.format(folder=folder, name=asked.id, before=before)
    assert part.startswith(golden)
    # It is queued again as a trial is.
    ends = part.removeprefix(golden)
    trials = slurm.executor("x.0", Profile(), slurm.Step(folder, Placement(1, 1, 0, 1, None, 30)))
    assert slurm.script_of(trials, 1).endswith(f"{ends}\n")
    assert "scontrol requeue" in ends
    merge = (folder / "2_submission.sh").read_text()
    assert "#SBATCH --dependency=afterok:1\n" in merge
    assert "--array" not in merge
    assert os.environ["SBATCH_PARTITION"] == "inherited"


def test_there_are_never_more_jobs_than_shards(fake_slurm, photos, tmp_path):
    made = shard_jobs.submit(request(photos, tmp_path), site_of(Profile(), tmp_path), 1000)
    assert 1 < len(made.parts.keys) < 30
    assert len(made.parts.keys) == len(made.images)


def test_a_merge_that_is_refused_takes_the_array_with_it(fake_slurm, photos, tmp_path):
    once = f'test -e {tmp_path}/n && echo "over the limit" >&2 && exit 1; touch {tmp_path}/n'
    program(fake_slurm, "sbatch", f'{once}; echo "Submitted batch job 7"')
    program(fake_slurm, "scancel", f"echo $@ > {tmp_path}/cancelled")
    with pytest.raises(RequestError, match="over the limit"):
        shard_jobs.submit(request(photos, tmp_path), site_of(Profile(), tmp_path), 3)
    assert (tmp_path / "cancelled").read_text() == "--quiet 7\n"


def test_a_command_killed_while_it_submits_leaves_what_the_next_one_goes_on_from(
    fake_slurm, photos, tmp_path, monkeypatch
):
    """It submitted the parts, and was killed before it could note their id."""
    asked, site = request(photos, tmp_path), site_of(Profile(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(slurm_jobs, "with_id", killed)
        with pytest.raises(KeyboardInterrupt):
            shard_jobs.submit(asked, site, 3)
    rows = "".join(f"1_{part}|RUNNING|None|{asked.id}.0\\n" for part in (0, 2))
    program(fake_slurm, "squeue", f"printf '{rows}'")
    made = shard_jobs.submit(asked, site, 3)
    assert made.ids == ("1", "2")
    assert "--dependency=afterok:1\n" in (Path(made.merge.folder) / "2_submission.sh").read_text()
    # Now all is noted.
    assert shard_jobs.submit(asked, site, 3) == made


def test_jobs_of_a_version_that_knew_fewer_options_are_found(fake_slurm, photos, tmp_path):
    asked, site = request(photos, tmp_path), site_of(Profile(), tmp_path)
    made = shard_jobs.submit(asked, site, 3)
    program(fake_slurm, "squeue", f"printf '1_0|RUNNING|None|{asked.id}.0\\n'")
    path = f"{sharding_prefix(asked.id)}/spec.json"
    spec = json.loads(made.store.get(path))
    for name in ("tars", "layout", "group_by"):
        del spec["request"][name]
    made.store.put(path, json.dumps(spec).encode())
    assert shard_jobs.submit(asked, site, 3) == made
    with pytest.raises(RequestError, match="with other options"):
        shard_jobs.submit(replace(asked, tars=TarOptions(split="val")), site, 3)


@pytest.mark.parametrize(
    "spec", [b"", b"{", b"[" * 10**5, b"[1]", b'{"request": 5, "images": [1]}', b'{"request": {}}']
)
def test_what_is_queued_for_a_damaged_request_is_named(fake_slurm, photos, tmp_path, spec):
    asked, site = request(photos, tmp_path), site_of(Profile(), tmp_path)
    made = shard_jobs.submit(asked, site, 3)
    program(fake_slurm, "squeue", f"printf '1_0|RUNNING|None|{asked.id}.0\\n'")
    path = f"{sharding_prefix(asked.id)}/spec.json"
    made.store.put(path, spec)
    with pytest.raises(DamagedRecordError, match=path) as error:
        shard_jobs.submit(asked, site, 3)
    assert "scancel 1 2" in error.value.problem.fix
    made.store.delete(path)
    with pytest.raises(DamagedRecordError, match="missing"):
        shard_jobs.submit(asked, site, 3)


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def submitted(folder: Path) -> Sharding:
    """Return what a command that submitted one part as job 7, and its merge as job 8, noted."""
    asked, store = request(folder, folder), FolderStore(folder / "store")
    parts = Array(f"{asked.id}.0", (f"{asked.id}/0",), str(folder), "7")
    merge = Array(f"{asked.id}.1", (f"{asked.id}/merge",), str(folder), "8")
    slurm_jobs.write(store, asked.id, (parts, merge))
    return Sharding(asked, store, parts, merge, (1,))


def test_waiting_outlives_a_controller_that_restarts(fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_jobs, "_POLL_S", (0.01, 0.01))
    jobs = submitted(tmp_path)
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
    printed = hpt(*arguments[:-1], str(file), store="", code=2, PATH="/nowhere")
    assert "sbatch is not installed here" in printed
    assert "without --on" in printed
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


def test_every_problem_of_a_profile_is_reported_at_once(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(WRONG)
    with pytest.raises(RequestError) as caught:
        profile.load(file)
    printed = str(caught.value)
    assert caught.value.exit_code == 2
    assert printed.startswith("10 problems in the profile")
    assert [int(line) for line in re.findall(r"cluster\.yaml:(\d+)", printed)] == list(range(1, 11))
    assert "did you mean partition?" in printed
    assert "an absolute path" in printed


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the profile is empty"),
        ("- a", "mapping of settings"),
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


CANCELLED = """\
submitit INFO - Starting with JobEnvironment(job_id=7)
slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2024-01-01T00:00:00 ***
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
Terminated
"""
BROKEN = """\
Traceback (most recent call last):
  File x
ModuleNotFoundError: No module 'y'
srun: error: n1: task 0: Exited with exit code 1
"""
REFUSED = """\
s3://b/x: access denied
  do: set AWS_ACCESS_KEY_ID
"""


@pytest.mark.parametrize(
    ("log", "ending"),
    [
        (CANCELLED, "slurmstepd: error: .* CANCELLED AT .*"),
        (BROKEN, "ModuleNotFoundError: No module 'y'"),
        (REFUSED, "s3://b/x: access denied\n  do: set AWS_ACCESS_KEY_ID"),
        ("", ""),
    ],
)
def test_a_job_that_ended_without_a_word_is_reported_by_the_end_of_its_log(tmp_path, log, ending):
    (tmp_path / "7_0_log.out").write_text(log)
    with pytest.raises(HptError) as caught:
        submitted(tmp_path).check()
    what = f"job 7 was ended; its log ends with: {ending}"
    assert re.match(f"1 of 1 parts failed: {what}\n  do: see", str(caught.value))


def test_a_merge_that_failed_is_reported_until_it_has_put_everything_away(tmp_path):
    jobs = submitted(tmp_path)
    jobs.store.put(f"{sharding_prefix(jobs.parts.keys[0])}/{DONE}", b"")
    with pytest.raises(HptError, match="the merge failed: job 8 never began"):
        jobs.check()
    failure = json.dumps({"error": "no image is left"}).encode()
    path = f"{sharding_prefix(jobs.merge.keys[0])}/{FAILURE}"
    jobs.store.put(path, failure)
    with pytest.raises(HptError, match="the merge failed: no image is left"):
        jobs.check()
    jobs.store.put(path, b"{}")
    with pytest.raises(HptError, match="the merge failed: for a reason that cannot be read"):
        jobs.check()
    slurm_jobs.forget(jobs.store, jobs.request.id)
    jobs.check()


# What a job does, in this process.


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a start of job 12_1 in a store that is marked; return the folder of its script."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    marker.begin(FolderStore(tmp_path / "store"))
    names = {"ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "1", "JOB_ID": "14", "RESTART_COUNT": "0"}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SUBMITIT_FOLDER", str(folder))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield folder
    signal.signal(signal.SIGTERM, before)


def part_of(asked: ShardingRequest, part: int | None = 1, limit: int = 1) -> ShardingPart:
    key = f"{asked.id}/{'merge' if part is None else part}"
    return ShardingPart(asked, key, 1, limit, part, 3)


def noted(asked: ShardingRequest) -> set[str]:
    store = FolderStore(Path(asked.store)).at(sharding_prefix(asked.id))
    return {info.path for info in store.list()}


def test_parts_and_the_merge_write_the_dataset_and_put_everything_away(job, photos, tmp_path):
    asked = request(photos, tmp_path)
    for part in range(3):
        part_of(asked, part)()
    assert noted(asked) == {f"{n}/{name}" for n in range(3) for name in (DONE, starts.STARTS)}
    slurm_jobs.write(FolderStore(tmp_path / "store"), asked.id, [])
    part_of(asked, None)()
    there = FolderStore(tmp_path / "store").list()
    assert {info.path.split("/")[0] for info in there} == {"STORE", "datasets"}
    assert strays(FolderStore(tmp_path / "store"), "birds/photos") == []


def test_parts_and_the_merge_read_tars_with_their_options(job, photos, tmp_path):
    shards.write_dataset(open_source(str(photos)), FolderStore(tmp_path / "first"), "a")
    tar = next((tmp_path / "first/datasets/a/train").glob("*.tar"))
    asked = replace(
        request(tar.rename(tmp_path / "cats.tar"), tmp_path), tars=TarOptions(split="val")
    )
    for part in (0, 1, 2):
        part_of(asked, part)()
    part_of(asked, None)()
    manifest = read_manifest(FolderStore(tmp_path / "store"), asked.name)
    assert (manifest.source.rule, list(manifest.splits)) == ("all of val, by --split", ["val"])


def test_a_part_that_fails_says_so_and_is_not_started_again(job, tmp_path):
    asked = request(tmp_path / "nowhere", tmp_path)
    with pytest.raises(SystemExit) as ended:
        part_of(asked)()
    assert ended.value.code == 1
    assert noted(asked) == {f"1/{FAILURE}"}
    assert sorted(file.name for file in job.iterdir()) == ["14.0.began", "14.0.failed"]


def test_a_part_that_is_asked_to_stop_lets_go_and_goes_on(job, photos, tmp_path, monkeypatch):
    asked = request(photos, tmp_path)

    def stop(self, *_: object) -> None:
        assert noted(asked) == {f"1/{LEASE}"}
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ShardingRequest, "write", stop)
    with pytest.raises(SystemExit) as ended:
        part_of(asked)()
    assert ended.value.code == script.AGAIN
    assert noted(asked) == set()
    assert sorted(file.name for file in job.iterdir()) == ["14.0.again", "14.0.began"]


def test_restarts_that_finish_no_shard_end(job, photos, tmp_path, monkeypatch):
    asked = request(photos, tmp_path)
    write = shards.write_part
    monkeypatch.setattr(shards, "write_part", lambda *_, **options: stopped(write, *_, **options))
    for code in (script.AGAIN, script.AGAIN, 1):
        with pytest.raises(SystemExit) as ended:
            part_of(asked)()
        assert ended.value.code == code
    store = FolderStore(tmp_path / "store").at(sharding_prefix(part_of(asked).key))
    assert "2 restarts in a row saved nothing after image 0" in store.get(FAILURE).decode()
    assert "--shard-mb" in store.get(FAILURE).decode()


def stopped(write, *arguments, progress, **options) -> None:
    """Write until the first image is done, and be asked to stop then."""

    def stop(done: shards.Progress) -> None:
        progress(done)
        if done.images:
            os.kill(os.getpid(), signal.SIGTERM)

    write(*arguments, progress=stop, **options)


def test_a_part_that_lives_on_where_slurm_lost_it_stops(job, photos, tmp_path, monkeypatch):
    """A later start of its job takes the lease over."""
    asked = request(photos, tmp_path)
    root = FolderStore(tmp_path / "store").at(sharding_prefix(part_of(asked).key))
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    write = shards.write_part
    seen = []

    def fenced(*arguments, progress, **options) -> None:
        def lose(done: shards.Progress) -> None:
            seen.append(done.images)
            if done.images == 2:
                later.enter_context(lease.hold(root, LEASE, job="12_1", restarts=1))
                time.sleep(0.5)
            progress(done)

        write(*arguments, progress=lose, **options)

    monkeypatch.setattr(shards, "write_part", fenced)
    with contextlib.ExitStack() as later:
        with pytest.raises(SystemExit) as ended:
            part_of(asked)()
        assert lease.read(root, LEASE).restarts == 1
    assert (ended.value.code, max(seen)) == (1, 2)
    assert FAILURE not in {info.path for info in root.list()}


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
    step = slurm.Step(Path("/jobs"), Placement(1, 1, 0, 1, None, 30))
    text = slurm.script_of(slurm.executor("shard-pets.0", cluster, step), 1)
    return re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)


@pytest.fixture(autouse=True)
def _srun(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let submitit find an srun also where no Slurm is installed; it only looks for it."""
    if shutil.which("srun") is None:
        folder = tmp_path_factory.mktemp("srun")
        program(folder, "srun", "exit 1")
        monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{folder}")


def test_a_folder_that_slurm_could_not_write_to_is_refused(tmp_path):
    store = FolderStore(tmp_path)
    with pytest.raises(RequestError, match="cannot write logs"):
        _ = on_slurm.site(Profile(), store, str(tmp_path / "100%j")).folder
    chosen = Profile(shared_folder="~/jobs")
    assert on_slurm.site(chosen, store, "").folder == Path.home() / "jobs"
