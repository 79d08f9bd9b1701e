"""Which variables a trial's process gets: those that somebody needs, and none that change results.

Libraries read switches from the environment: accelerate its precision, torch its kernels, MPI's
starters who belongs together. A trial's key does not hold them, so they end here.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

# What programs and people need: places, languages, certificates, proxies.
_SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM"),
    *("TMPDIR", "TMP", "TEMP", "PWD", "HOSTNAME", "XDG_*", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC", "KRB5*"),
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONWARNINGS", "PYTHONUNBUFFERED"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONIOENCODING", "PYTHONUTF8"),
)
# The product, its stores and trackers, and where weights are kept.
_SERVICES = (
    *("HPT_*", "AWS_*", "MLFLOW_*", "GOOGLE_*", "AZURE_*", "DATABRICKS_*"),
    *("HF_*", "HUGGINGFACE_*", "TORCH_HOME"),
)
# Devices and networks: which, and how to reach them.
_DEVICES = (
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "TORCH_NCCL_*", "GLOO_*", "TP_SOCKET_IFNAME"),
    *("UCX_*", "FI_*", "IB_*", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
)
_ALLOWED = (*_SYSTEM, *_SERVICES, *_DEVICES)

# Switches that change what is computed, how, or by whom: never passed on, and reported.
SWITCHES = (
    *("ACCELERATE_*", "TORCH_*", "TORCHINDUCTOR_*", "TORCHDYNAMO_*", "TORCHELASTIC_*", "PYTORCH_*"),
    *("ATEN_*", "TIMM_*", "DEEPSPEED_*", "FSDP_*", "MEGATRON_*", "NVIDIA_TF32_OVERRIDE"),
    *("CUBLAS*", "CUDNN_*", "DNNL_*", "ONEDNN_*", "MKL_*", "OMP_*", "GOMP_*", "KMP_*", "BLIS_*"),
    *("OPENBLAS_*", "NUMEXPR_*", "VECLIB_*", "NPY_*"),
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("NODE_RANK", "ROLE_*", "MASTER_ADDR", "MASTER_PORT"),
    *("OMPI_*", "PMI_*", "PMIX_*", "PRTE_*", "MV2_*", "I_MPI_*", "HYDRA_*", "MPI_*"),
)


# Among their names, those of settings that change nothing.
NO_SWITCHES = ("TORCH_HOME", "TORCH_NCCL_*", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def for_trials(
    environment: Mapping[str, str], *, scheduled: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return a trial's variables, and the names of the switches among those left out, sorted.

    Args:
        environment: of the process that starts the trial.
        scheduled: a scheduler started this process for the trial: the site decided on its
            environment, so all but the switches are kept.
    """
    dropped = [name for name in sorted(environment) if _is_switch(name)]
    kept = {
        name: value
        for name, value in environment.items()
        if not _is_switch(name) and (scheduled or _matches(name, _ALLOWED))
    }
    return kept, dropped


def threads(count: int) -> dict[str, str]:
    """Return the variables that give every library its number of CPU threads.

    OpenMP's threads of GNU spin for milliseconds while they wait for each other. With other busy
    processes on the machine a training step then takes 6 times as long (measured: 0.14 s alone,
    0.86 s beside two others, and 0.14 s in both cases when they soon go to sleep). Each library
    reads its variable when it is loaded.
    """
    team = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **dict.fromkeys(team, str(count)),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's and scipy's, whose matrices here are small
        "GOMP_SPINCOUNT": "10000",
    }


def provide_home() -> None:
    """Give this process a home and a name where its user has none, as in many containers.

    Libraries look for both when they are imported. A home that `/etc/passwd` does not know and
    nobody can write to, such as `/`, counts as none.
    """
    uid = os.getuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        if not os.access(os.environ.get("HOME") or "/nowhere", os.W_OK | os.X_OK):
            os.environ["HOME"] = str(_made_home(uid))
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER")):
            os.environ["LOGNAME"] = os.environ["USER"] = str(uid)


def _made_home(uid: int) -> Path:
    """Return a folder of this user's alone: others may make files of any name beside it."""
    folder = Path(tempfile.gettempdir(), f"hpt-dist-home-{uid}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="hpt-dist-home-"))


@contextmanager
def replaced(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these variables and no others in this process while the block runs."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _is_switch(name: str) -> bool:
    return _matches(name, SWITCHES) and not _matches(name, NO_SWITCHES)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
