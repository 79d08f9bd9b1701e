"""A user's folder on the tests' cluster, and a pretraining there that is long enough to disturb.

The backbone is the smallest that timm has, with random weights: what is tested is what happens to
jobs. The quickstart in `test_cluster` has real weights.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import Slurm
from small import RECIPE, hpt, outcome

from hpt_dist.store import lease, open_store
from hpt_dist.store.paths import LEASE, stage_prefix, trial_folder
from hpt_dist.tracking.metrics_file import read_lines
from hpt_dist.train.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent
DEV = (ROOT / "slurm/profiles/dev.yaml").read_text()
ONE_RANK_A_NODE = DEV.replace("gpus_per_node: 2", "gpus_per_node: 1")
TINY = RECIPE.replace("tf_efficientnet_lite0", "test_efficientnet")
TINY = TINY.replace("package/efficientnet-lite0", "random")


def settings(steps: int) -> list[str]:
    """Return options by which the pretraining takes so many steps, each of few images."""
    changes = {"batch": 4, "moco.queue": 16, "steps": steps, "monitor.every": steps}
    words = [f"stages.hpt.{name}={value}" for name, value in changes.items()]
    return [part for word in (*words, "stages.hpt.checkpoint_every=10") for part in ("--set", word)]


# About 30 ms a step: it is still young when it is disturbed, and soon over after that.
LONG = settings(steps=160)


@dataclass
class Site:
    """A user's folder on a cluster: a recipe, a profile and a store."""

    folder: Path
    slurm: Slurm

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        return self.slurm.environment | {"HPT_CORES": "1"}

    def hpt(self, *arguments: str, code: int = 0, **more: str) -> str:
        return hpt(*arguments, store=str(self.store), code=code, **{**self.environment, **more})

    def launch(self, *options: str, code: int = 0, profile: str = DEV, text: str = TINY) -> str:
        return self.hpt(*self.arguments(*options, profile=profile, text=text), code=code)

    def arguments(self, *options: str, profile: str = DEV, text: str = TINY) -> list[str]:
        recipe, file = self.folder / "small.yaml", self.folder / "cluster.yaml"
        recipe.write_text(text)
        file.write_text(profile)
        return ["launch", str(recipe), "--on", str(file), *options]

    def start_long(self, *options: str, profile: str = DEV) -> str:
        """Launch the long pretraining alone; return the id of its job once it trains."""
        self.launch("--only", "hpt", *LONG, *options, profile=profile)
        self.wait_for_start(0)
        return self.job

    @property
    def job(self) -> str:
        """The id of the pretraining's job."""
        arrays = json.loads(max(self.store.glob("launches/*.jobs")).read_text())
        return next(array["id"] for array in arrays if self.key in array["keys"])

    @property
    def key(self) -> str:
        return json.loads(max(self.store.glob("launches/*.json")).read_text())["trials"]["hpt"]

    @property
    def trial(self) -> Path:
        return self.store / stage_prefix(self.key)

    def holder(self) -> lease.LeaseInfo | None:
        return lease.read(open_store(str(self.store)).at(stage_prefix(self.key)), LEASE)

    def is_held_by(self, start: int) -> bool:
        """Whether a process of that start of the job holds the pretraining; the first is 0."""
        holder = self.holder()
        return holder is not None and holder.term == start

    def wait_for_holder(self, start: int) -> None:
        """Wait until a process of that start of the job holds the pretraining; the first is 0."""

        def held() -> bool:
            self.slurm.shorten_wait(self.job)
            return self.is_held_by(start)

        self.wait(held)

    def wait_for_start(self, start: int) -> None:
        """Wait until the process of that start of the job has taken steps; the first is 0."""
        self.wait_for_holder(start)
        # Nobody else may write from here on.
        began = time.time()
        self.wait(lambda: self.logged_at() > began)

    def logged_at(self) -> float:
        """The unix time of the newest metrics of steps; 0 without any."""
        file = trial_folder(self.store / "work", self.key) / "metrics.jsonl"
        lines = read_lines(file)[0] if file.exists() else []
        return max((line.time for line in lines if "train/loss" in line.metrics), default=0)

    def saved_step(self) -> int:
        """The step of the newest saved state, 0 without one."""
        root = open_store(str(self.store)).at(stage_prefix(self.key))
        return max(Checkpoints(root).steps(), default=0)

    def states(self) -> dict[str, str]:
        told = json.loads(self.hpt("status", "--json"))["trials"]
        return {name: state["state"] for name, state in told.items()}

    def run_record(self) -> dict:
        return json.loads((self.trial / "run.json").read_text())

    def finished(self) -> dict:
        """Wait until no job is left; return what the trials left."""
        self.wait(lambda: not self.slurm.jobs())
        return outcome(self.store)

    def wait(self, what: Callable[[], bool], timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, self.slurm.call("squeue") + self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.store.glob("work/jobs/*/*.out"))

    def cancel_all(self) -> None:
        """End what is left of its jobs."""
        if left := {job.partition("_")[0] for job in self.slurm.jobs()}:
            self.slurm.call("scancel", *left)
            self.wait(lambda: not self.slurm.jobs())


def made(folder: Path, slurm: Slurm, drawings: Path) -> Site:
    """Return a site with the datasets in its store."""
    site = Site(folder, slurm)
    shutil.copytree(drawings / "datasets", site.store / "datasets")
    return site


def based(folder: Path, slurm: Slurm, trained_here: Here) -> Site:
    """Return a site with the datasets, and the base, in its store: the pretraining can begin."""
    site = made(folder, slurm, trained_here.store)
    shutil.copytree(trained_here.base, site.store / "stages" / trained_here.base.name)
    return site


@dataclass(frozen=True)
class Here:
    """A launch that went through on this machine."""

    store: Path

    @property
    def left(self) -> dict:
        """What its trials left."""
        return outcome(self.store)

    @property
    def base(self) -> Path:
        """The folder of the trial `base`."""
        trials = json.loads(max(self.store.glob("launches/*.json")).read_text())["trials"]
        return self.store / stage_prefix(trials["base"])


def here(drawings: Path, folder: Path, text: str, *options: str) -> Here:
    """Launch a recipe in one process of this machine, with one thread."""
    store = folder / "store"
    shutil.copytree(drawings / "datasets", store / "datasets")
    (folder / "small.yaml").write_text(text)
    words = ("launch", str(folder / "small.yaml"), "--on", "inline", *options)
    hpt(*words, store=str(store), HPT_CORES="1")
    return Here(store)


@pytest.fixture(scope="session")
def trained_here(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    """The long pretraining, by a process of this machine."""
    return here(drawings, tmp_path_factory.mktemp("long"), TINY, "--only", "hpt", *LONG)


@pytest.fixture(scope="session")
def two_ranks(slurm: Slurm, trained_here: Here, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The long pretraining, by two ranks on one node that nothing happens to."""
    site = based(tmp_path_factory.mktemp("ranks"), slurm, trained_here)
    site.launch("--ranks", "2", "--only", "hpt", *LONG)
    site.finished()
    return site
