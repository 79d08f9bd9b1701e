"""What doctor makes of the facts that its probe brought from a cluster's nodes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from packaging.requirements import Requirement

from hpt_dist.doctor.finding import Finding, failed
from hpt_dist.doctor.probe import DESERTED, SHARED_MEMORY, Facts
from hpt_dist.doctor.probe_outcome import Expected, Outcome, start

_LARGEST_SKEW_S = 20.0
_LEAST_SCRATCH_GB = 2.0
_LEAST_SHARED_GB = 1.0
_LEAST_PYTHON = (3, 11)
_OF_THEIRS = ("torch", "torchvision")


def judge(outcome: Outcome, expected: Expected) -> Iterator[Finding]:
    """Say what is wrong on the nodes, or between them, and how to mend it."""
    yield from start(outcome, expected)
    if not outcome.facts:
        return
    checks: list[Callable[[Facts, Expected], Iterator[Finding]]] = [
        *(_versions, _code, _torch, _work, _services, _scratch, _gpus, _names, _all_reduce),
        lambda facts, _: _clock(facts, outcome),
    ]
    for check in checks:
        each = [(facts["node"], one) for facts in outcome.facts for one in check(facts, expected)]
        yield from _merged(each)
    yield from _unlike(outcome.facts)
    if expected.ranks == 1:
        says = "not tried: a trial of this profile has one process"
        yield Finding("all-reduce", None, says, "raise `nodes` or `gpus_per_node` for more")


def _merged(each: Sequence[tuple[str, Finding]]) -> Iterator[Finding]:
    """Tell once what was found on several nodes."""
    nodes: dict[Finding, list[str]] = {}
    for node, finding in each:
        nodes.setdefault(finding, []).append(node)
    for finding, where in nodes.items():
        yield replace(finding, says=f"{', '.join(dict.fromkeys(where))}: {finding.says}")


def _versions(facts: Facts, expected: Expected) -> Iterator[Finding]:
    if "versions" not in facts:
        return
    there = facts["versions"]
    mend = f"install again for {there['interpreter']}: pip install --upgrade hpt-dist"
    if expected.container:
        mend = "build the image again from this version: containers/build"
    if _numbers(there["python"])[:2] < _LEAST_PYTHON:
        least = ".".join(map(str, _LEAST_PYTHON))
        yield failed("versions", f"Python {there['python']} is older than {least}", mend)
    wrong = [fault for text in expected.requirements if (fault := _fault(text, there["packages"]))]
    if wrong:
        yield failed("versions", "; ".join(wrong), mend)
        return
    # Pickles that travel name what they need, so that other versions may read them.
    others = [
        f"{name} {version} (here {expected.packages[name]})"
        for name, version in sorted(there["packages"].items())
        if version and expected.packages.get(name, version) != version
    ]
    if there["python"] != expected.python:
        others.insert(0, f"Python {there['python']} (here {expected.python})")
    if others:
        mend = "fine as long as all that trains is there; weights depend on torch's version"
        yield Finding("versions", None, "; ".join(others), mend)
    else:
        yield Finding("versions", True, f"Python {there['python']} and packages are those of here")


def _fault(text: str, packages: Mapping[str, str]) -> str:
    requirement = Requirement(text)
    version = packages.get(requirement.name, "")
    if not version:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is not {requirement.specifier}"
    return ""


def _unlike(all_facts: Sequence[Facts]) -> Iterator[Finding]:
    """Find ranks that would train one trial by different versions."""
    found: dict[tuple[str, ...], list[str]] = {}
    for facts in all_facts:
        if "torch" in facts:
            versions = tuple(f"{name} {facts['torch'][name]}" for name in _OF_THEIRS)
            found.setdefault(versions, []).append(facts["node"])
    if len(found) > 1:
        told = "; ".join(f"{', '.join(on)}: {', '.join(what)}" for what, on in found.items())
        mend = "give all nodes the same environment, on a shared folder or in a container"
        yield failed("versions", f"nodes differ: {told}", mend)


def _code(facts: Facts, expected: Expected) -> Iterator[Finding]:
    if "versions" not in facts:
        return
    found = facts["versions"]["code"]
    if found == expected.code:
        yield Finding("code", True, "jobs run the copy of this version")
    else:
        yield failed(
            "code",
            f"jobs run hpt_dist from {found} instead of the copy in {expected.code}",
            "let no line of `setup` put that first on PYTHONPATH; a container needs to see the "
            "folder of jobs",
        )


def _torch(facts: Facts, expected: Expected) -> Iterator[Finding]:
    if "torch" in facts["errors"]:
        yield failed(
            "node torch",
            f"torch and torchvision do not import: {facts['errors']['torch']}",
            f"install a matching pair for {expected.interpreter}"
            + (f" in {expected.container}" if expected.container else ""),
        )
    elif "torch" in facts:
        says = f"torch {facts['torch']['torch']}, torchvision {facts['torch']['torchvision']}"
        yield Finding("node torch", True, f"{says} import")


def _work(facts: Facts, expected: Expected) -> Iterator[Finding]:
    if "work" in facts["errors"]:
        yield failed(
            "node folder",
            f"the work folder cannot be written: {facts['errors']['work']}",
            "name a folder that all nodes share by --work or HPT_WORK"
            + ("; a bundle needs it among its mounts" if expected.container else ""),
        )
    elif "work" in facts:
        yield Finding("node folder", True, "sees the folders of jobs and work, and writes there")


def _services(facts: Facts, expected: Expected) -> Iterator[Finding]:
    if "services" in facts["errors"]:
        mend = "see what the message says; trials need the store"
        yield failed("node store", facts["errors"]["services"], mend)
    for one in facts.get("services", ()):
        finding = Finding(**one)
        name = f"node {finding.name}"
        if finding.name == "store" and finding.ok is None and expected.store:
            says = f"{finding.says}, though it is there where you submit"
            mend = "use a folder that all nodes share, or S3; a container needs it among its mounts"
            yield failed(name, says, mend)
        elif finding.ok is False:
            yield failed(name, finding.says, _mend_of_service(finding, expected))
        else:
            yield replace(finding, name=name)


def _mend_of_service(finding: Finding, expected: Expected) -> str:
    """Name the variables that jobs do not get, if those might be why."""
    prefix = "MLFLOW_" if finding.name == "mlflow" else "AWS_"
    withheld = [name for name in expected.withheld if name.startswith(prefix)]
    if not withheld:
        return finding.mend
    return (
        f"let jobs have {', '.join(withheld)}, set here: add them to `env` in the profile; "
        f"else {finding.mend}"
    )


def _scratch(facts: Facts, expected: Expected) -> Iterator[Finding]:
    name = "scratch"
    if "scratch" in facts["errors"]:
        yield failed(name, facts["errors"]["scratch"], "mend HPT_CACHE and HPT_CACHE_GB")
    if "scratch" not in facts:
        return
    there = facts["scratch"]
    if expected.store is not None:
        yield Finding(name, True, "shards are read from the store's folder, and not kept")
    elif there["warning"]:
        mend = "export HPT_CACHE=/a/local/disk in `setup`, or HPT_CACHE_GB=0 to keep none"
        yield failed(name, there["warning"], mend)
    elif "folder" not in there:
        mend = "a cache spares the store: export HPT_CACHE and HPT_CACHE_GB in `setup`"
        yield Finding(name, None, "shards are not kept on the node (HPT_CACHE_GB=0)", mend)
    else:
        yield _judged_cache(there)
    if there["shm_gb"] < _LEAST_SHARED_GB:
        says = f"{SHARED_MEMORY} has {there['shm_gb']:.2f} GB free"
        mend = "give containers more of it, or NCCL may fail between GPUs of one node"
        yield Finding("shared memory", None, says, mend)


def _judged_cache(there: Facts) -> Finding:
    # Rounded coarsely, so that nodes alike are told of together.
    free_gb, limit_gb = there["free_gb"], there["limit_gb"]
    says = f"{there['folder']} has {free_gb:.0f} GB for shards, of which {limit_gb:g} GB are used"
    if free_gb < min(_LEAST_SCRATCH_GB, limit_gb):
        says = f"{there['folder']} has {free_gb:.2f} GB for shards"
        mend = "export HPT_CACHE=/a/larger/local/disk in `setup`, or HPT_CACHE_GB=0 to keep none"
        return failed("scratch", says, mend)
    if free_gb < limit_gb:
        mend = f"export HPT_CACHE_GB={max(1, int(free_gb * 0.9))} in `setup`, or name a larger disk"
        return Finding("scratch", None, f"{says} at the most", mend)
    return Finding("scratch", True, f"{says} at the most")


def _gpus(facts: Facts, expected: Expected) -> Iterator[Finding]:
    if expected.gpus is None:
        return
    name, there = "node gpu", facts.get("gpus")
    if "gpus" in facts["errors"] or "torch" in facts["errors"]:
        error = facts["errors"].get("gpus") or facts["errors"]["torch"]
        yield failed(name, error, "mend torch there, or the GPU's driver")
    if there is None:
        return
    if there["complaint"]:
        yield failed(name, f"nvidia-smi fails: {there['complaint']}", "mend the GPU's driver")
    if there["seen"] < expected.gpus:
        mend = (
            "install a torch built for the driver's CUDA; let a container have the driver; say "
            "`accelerator: none` if the GPUs are not NVIDIA's"
        )
        yield failed(name, f"torch sees {there['seen']} of {expected.gpus} GPUs", mend)
    elif not there["wrong"]:
        yield Finding(name, True, f"{there['seen']} GPUs compute right")
    for index, what in there["wrong"].items():
        mend = "do not use this node, and tell the administrators"
        yield failed(name, f"GPU {index}: {what}", mend)
    for line in there["smi"]:
        yield from _smi(line)


def _smi(line: str) -> Iterator[Finding]:
    index, errors, slowed = (part.strip() for part in line.split(",", 2))
    if errors.isdecimal() and int(errors):
        mend = "do not use this node, and tell the administrators"
        yield failed("node gpu", f"GPU {index} had {errors} memory errors (ECC)", mend)
    if slowed == "Active":
        mend = "it is too hot, or has too little power: tell the administrators"
        yield Finding("node gpu", None, f"GPU {index} is slowed down by its hardware", mend)


def _names(facts: Facts, _: Expected) -> Iterator[Finding]:
    mend = "add the nodes to DNS or /etc/hosts, also to those of the image"
    if "names" in facts["errors"]:
        yield failed("names", facts["errors"]["names"], mend)
    elif there := facts.get("names"):
        if there["resolves"]:
            says = f"the first node, {there['first']}, is known by its name"
            yield Finding("names", True, says)
        else:
            says = f"{there['first']} has no address here; trials use {there['address']} instead"
            yield Finding("names", None, says, mend)


def _all_reduce(facts: Facts, expected: Expected) -> Iterator[Finding]:
    error = facts["errors"].get("all-reduce", "")
    if error == DESERTED or "names" in facts["errors"]:
        return  # what made it so is told elsewhere
    if error and "address already in use" in error.lower().replace("eaddrinuse", "address"):
        mend = "run doctor again: trials try another port by themselves"
        yield Finding("all-reduce", None, error, mend)
    elif error:
        variable = "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME"
        if expected.gpus is None:
            variable = "GLOO_SOCKET_IFNAME"
        yield failed(
            "all-reduce",
            error,
            f"name the interface between the nodes: export {variable} in `setup` (`ip -brief "
            "address` on a node lists them); let a firewall pass the ports from 1024",
        )
    elif "all-reduce" in facts:
        backends = " and ".join(facts["all-reduce"])
        yield Finding("all-reduce", True, f"{expected.ranks} processes add up by {backends}")


def _clock(facts: Facts, outcome: Outcome) -> Iterator[Finding]:
    """Judge by what is certain: the facts were written after the start, and before they came."""
    ahead_s = facts["time_s"] - outcome.seen_s[facts["rank"]]
    behind_s = outcome.pending_until_s - facts["began_s"]
    mend = "synchronise the node's clock (chrony or ntpd), or leave the node out: its logs mislead"
    for how, skew_s in (("ahead of", ahead_s), ("behind", behind_s)):
        if skew_s > _LARGEST_SKEW_S:
            yield failed("node clock", f"at least {skew_s:.0f} s {how} the clock here", mend)
            return
    yield Finding("node clock", True, "in step with the clock here, as far as can be seen")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
