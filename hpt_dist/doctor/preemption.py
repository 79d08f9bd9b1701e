"""Whether jobs of a partition or a quality of service (QOS) are preempted, and how. Pure.

Texts are what Slurm's commands print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpt_dist.doctor.finding import Finding

_NAME = "preemption"


@dataclass(frozen=True)
class Rule:
    """What happens to preempted jobs of a partition or QOS.

    Args:
        where: the partition or QOS, in words.
        by: names of the partitions or QOS that preempt its jobs; empty for none.
        mode: Slurm's PreemptMode, such as REQUEUE or CANCEL.
        grace_s: seconds from the signal to save until the end of the job.
    """

    where: str
    by: tuple[str, ...]
    mode: str
    grace_s: float


def partitions_of(text: str) -> dict[str, dict[str, str]]:
    """Return the facts of `scontrol show partition --oneliner`, by name of the partition."""
    lines = [dict(word.partition("=")[::2] for word in line.split()) for line in text.splitlines()]
    return {line["PartitionName"]: line for line in lines if "PartitionName" in line}


def nodes_of(text: str) -> dict[str, set[str]]:
    """Return the nodes of each partition, from `sinfo --Node --format='%R %N'`."""
    nodes: dict[str, set[str]] = {}
    for line in text.splitlines():
        partition, _, node = line.strip().partition(" ")
        nodes.setdefault(partition, set()).add(node)
    return nodes


def partition_rules(
    names: Sequence[str],
    partitions: Mapping[str, Mapping[str, str]],
    nodes: Mapping[str, set[str]],
) -> list[Rule]:
    """Return the rules of partitions, on a cluster that preempts by partition.

    Args:
        names: names of the partitions; those that do not exist are left out.
        partitions: see `partitions_of`.
        nodes: see `nodes_of`; only a partition that shares a node can preempt.
    """
    rules = []
    for name in names:
        if name not in partitions:
            continue
        mine = partitions[name]
        by = [
            other
            for other, facts in partitions.items()
            if int(facts["PriorityTier"]) > int(mine["PriorityTier"])
            and nodes.get(other, set()) & nodes.get(name, set())
        ]
        grace_s = minutes_of(mine["GraceTime"], bare_s=True) * 60
        rules.append(Rule(f"partition {name}", tuple(by), mine["PreemptMode"], grace_s))
    return rules


def qos_rule(name: str, text: str, mode: str) -> Rule:
    """Return the rule of a QOS, on a cluster that preempts by QOS.

    Args:
        name: name of the QOS.
        text: the output of
            `sacctmgr --parsable2 show qos format=name,preempt,gracetime,preemptmode`.
        mode: the cluster's PreemptMode, used if the QOS sets none.
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]
    by = tuple(other for other, preempts, *_ in rows if name in preempts.split(","))
    own = next((row for row in rows if row[0] == name), [name, "", "0", "cluster"])
    its_mode = mode if own[3] in ("", "cluster") else own[3].upper()
    return Rule(f"QOS {name}", by, its_mode, minutes_of(own[2], bare_s=True) * 60)


def judge(
    config: Mapping[str, str], rules: Sequence[Rule], others: Sequence[Rule] = ()
) -> Iterator[Finding]:
    """Return whether jobs under these rules can save before they end, and go on later.

    Args:
        config: see `commands.configuration`.
        rules: rules of the profile's partitions, or of its QOS.
        others: rules that the profile could choose instead.
    """
    kind = config.get("PreemptType", "preempt/none")
    endangered = [rule for rule in rules if _is_endangered(rule)]
    if kind == "preempt/none" or not endangered:
        yield Finding(_NAME, True, f"jobs are not preempted ({kind})")
        return
    graceful = [rule.where for rule in others if rule.grace_s or not _is_endangered(rule)]
    for rule in endangered:
        yield _judged(rule, config, graceful)


def _is_endangered(rule: Rule) -> bool:
    return bool(rule.by) and "OFF" not in rule.mode


def _judged(rule: Rule, config: Mapping[str, str], graceful: Collection[str]) -> Finding:
    who = f"jobs of {rule.where} are preempted by those of {', '.join(rule.by)}"
    kill_wait = config.get("KillWait", "30 sec")
    otherwise = f"use {' or '.join(graceful)}, or " if graceful else ""
    if "CANCEL" in rule.mode:
        fix = (
            f"{otherwise}ask the administrators for PreemptMode=REQUEUE; else launch again after "
            "each preemption: trials resume from the last saved state"
        )
        return Finding(_NAME, False, f"{who}: they end and are not queued again", fix)
    if "SUSPEND" in rule.mode:
        fix = "a suspended trial does not renew its lease: do not launch it elsewhere meanwhile"
        return Finding(_NAME, None, f"{who}: they are suspended", fix)
    if not rule.grace_s:
        fix = (
            f"{otherwise}ask the administrators for a GraceTime of {rule.where}; else save more "
            "often (checkpoint_every), since a preempted trial may resume from an older state"
        )
        message = (
            f"{who} without time to save: GraceTime=0, then KillWait={kill_wait}; they are queued "
            "again"
        )
        return Finding(_NAME, None, message, fix)
    user_signal = "preempt_send_user_signal" in config.get("SlurmctldParameters", "")
    how = "USR2 (preempt_send_user_signal)" if user_signal else "TERM"
    message = (
        f"{who}: they have {rule.grace_s:g} s to save after {how} and are queued again, "
        f"KillWait={kill_wait}"
    )
    return Finding(_NAME, None, message)


def minutes_of(text: str, *, bare_s: bool = False) -> float:
    """Return a time as Slurm prints it (1-12:00:00, 30:00, 90 or UNLIMITED) in minutes.

    Args:
        text: the time.
        bare_s: whether a number alone means seconds; else it means minutes.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if not match:
        return math.inf
    days, hours, minutes, last = (int(part or 0) for part in match.groups())
    if match[1] is not None and match[3] is None:  # days-hours
        return days * 1440 + last * 60
    if match[3] is None:
        return last / 60 if bare_s else last
    return days * 1440 + hours * 60 + minutes + last / 60
