"""Whether jobs of a partition or a quality of service are preempted, and how. Pure.

Texts come as Slurm's commands print them.
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
    """What happens to jobs that others preempt.

    Args:
        where: the partition or the quality of service, in words.
        by: names of those whose jobs preempt; empty for none.
        mode: Slurm's word, such as REQUEUE or CANCEL.
        grace_s: from the signal to save to the end.
    """

    where: str
    by: tuple[str, ...]
    mode: str
    grace_s: float


def partitions_of(text: str) -> dict[str, dict[str, str]]:
    """Return what `scontrol show partition --oneliner` says, by name of the partition."""
    lines = [dict(word.partition("=")[::2] for word in line.split()) for line in text.splitlines()]
    return {line["PartitionName"]: line for line in lines if "PartitionName" in line}


def nodes_of(text: str) -> dict[str, set[str]]:
    """Return the nodes of each partition, from `sinfo --Node --format='%R %N'`."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        partition, _, node = line.strip().partition(" ")
        found.setdefault(partition, set()).add(node)
    return found


def partition_rules(
    names: Sequence[str],
    partitions: Mapping[str, Mapping[str, str]],
    nodes: Mapping[str, set[str]],
) -> list[Rule]:
    """Return what partitions do to their jobs, where their tiers decide.

    Args:
        names: of the partitions to look at; those that do not exist are left out.
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
    """Return what a quality of service does to its jobs, where these decide.

    Args:
        name: of it.
        text: of `sacctmgr --parsable2 show qos format=name,preempt,gracetime,preemptmode`.
        mode: the cluster's PreemptMode, which a QOS may leave as it is.
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]
    by = tuple(other for other, preempts, *_ in rows if name in preempts.split(","))
    own = next((row for row in rows if row[0] == name), [name, "", "0", "cluster"])
    its_mode = mode if own[3] in ("", "cluster") else own[3].upper()
    return Rule(f"QOS {name}", by, its_mode, minutes_of(own[2], bare_s=True) * 60)


def judge(
    config: Mapping[str, str], rules: Sequence[Rule], others: Sequence[Rule] = ()
) -> Iterator[Finding]:
    """Say whether jobs under these rules can save before they end, and go on later.

    Args:
        config: see `commands.configuration`.
        rules: of the profile's partitions, or its quality of service.
        others: that the profile could choose instead.
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
            "each preemption: it goes on from the last saved state"
        )
        return Finding(_NAME, False, f"{who}, and then ended and not queued again", fix)
    if "SUSPEND" in rule.mode:
        fix = "a suspended trial renews no lease: do not launch it elsewhere meanwhile"
        return Finding(_NAME, None, f"{who}, and then suspended", fix)
    if not rule.grace_s:
        fix = (
            f"{otherwise}ask the administrators for a GraceTime of {rule.where}; else a preempted "
            "trial may have to go on from an earlier state: save more often (checkpoint_every)"
        )
        says = f"{who}, without time to save: GraceTime=0, then KillWait={kill_wait}"
        return Finding(_NAME, False, says, fix)
    user_signal = "preempt_send_user_signal" in config.get("SlurmctldParameters", "")
    how = "USR2 (preempt_send_user_signal)" if user_signal else "TERM"
    says = f"{who}: queued again, {rule.grace_s:g} s after {how} to save, KillWait={kill_wait}"
    return Finding(_NAME, None, says)


def minutes_of(text: str, *, bare_s: bool = False) -> float:
    """Return a time of Slurm's, such as 1-12:00:00, 30:00, 90 or UNLIMITED, in minutes.

    Args:
        text: the time.
        bare_s: whether a number alone means seconds; else it means minutes.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if not found:
        return math.inf
    days, hours, minutes, last = (int(part or 0) for part in found.groups())
    if found[1] is not None and found[3] is None:  # days-hours
        return days * 1440 + last * 60
    if found[3] is None:
        return last / 60 if bare_s else last
    return days * 1440 + hours * 60 + minutes + last / 60
