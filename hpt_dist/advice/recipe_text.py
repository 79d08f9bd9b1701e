"""Choices as a recipe: YAML in which every line that the rules decided carries its reason. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from hpt_dist.advice import cost, evidence, rules
from hpt_dist.advice.facts import Dataset, Facts
from hpt_dist.advice.rules import Choices
from hpt_dist.page import printable
from hpt_dist.recipe import catalogue

_WIDTH = 100


def text(name: str, store: str, choices: Choices, facts: Facts, head: Sequence[str]) -> str:
    """Return the recipe.

    Args:
        name: of the recipe.
        store: URI of the store; HPT_STORE takes its place.
        choices: what is written.
        facts: what they follow from.
        head: lines for the comment at its beginning.
    """
    return "\n".join([*_lines(name, store, choices, facts, head), ""])


def _lines(
    name: str, store: str, choices: Choices, facts: Facts, head: Sequence[str]
) -> Iterator[str]:
    for line in head:
        yield from _comment(line, 0)
    target, sources = facts.target, [one.dataset for one in choices.sources.value]
    yield f"name: {_flow(name)}"
    yield f"store: {_flow(f'${{HPT_STORE:-{store}}}')}"
    yield f"datasets: {_flow({one.alias: one.reference for one in [target, *sources]})}"
    yield from _line("backbone", choices.base.value.backbone, "", 0)
    yield "image:"
    yield from _line("size", choices.size.value, choices.size.why, 2)
    yield from _line("normalize", choices.normalize.value, choices.normalize.why, 2)
    yield "stages:"
    yield from _base(choices, target)
    yield from _sources(choices, facts)
    start = "source" if sources else "base"
    yield from _pretraining("hpt", start, target, choices, facts)
    for arm in cost.arms(choices)[1:]:
        if arm == "hpt_direct":
            yield from _comment("The target without the source: what the source adds.", 2)
            yield from _pretraining(arm, "base", target, choices, facts, again=True)
        else:
            yield from _comment(_few_images(target), 2)
            yield from _pretraining(
                arm, start, target, choices, facts, evidence.FEW_IMAGES_ARM.value, again=True
            )
    if target.judges == "test":
        inits = ["base", *(["source"] if sources else []), *cost.arms(choices)]
        yield from _features(inits, choices, target)
        yield "report: {table: features, rows: init}"


def _few_images(target: Dataset) -> str:
    arm = evidence.FEW_IMAGES_ARM
    return (
        f"{target.pool_images:,} images, fewer than {evidence.FEW_IMAGES.value:,}: {arm.source}. "
        f"But {evidence.DEFAULT_ARM.source}. So both are trained, and the evaluation compares them."
    )


def _base(choices: Choices, target: Dataset) -> Iterator[str]:
    if not choices.rivals:
        why, given = choices.base.why, {"kind": "import", "weights": choices.base.value.weights}
        yield from _line("base", given, why, 2)
        return
    yield from _comment(f"{choices.base.why}. So a linear evaluation on val chooses.", 2)
    names = [f"base_{number}" for number in range(1, len(choices.rivals) + 1)]
    for name, weights in zip(names, choices.rivals, strict=True):
        yield from _line(name, {"kind": "import", "weights": weights}, "", 2)
    yield from _select("base", names, choices, target)


def _sources(choices: Choices, facts: Facts) -> Iterator[str]:
    found = choices.sources
    if not found.value:
        return
    yield from _comment(f"First a source: {found.why}.", 2)
    if len(found.value) == 1:
        yield from _pretraining("source", "base", found.value[0].dataset, choices, facts)
        return
    names = [f"source_{number}" for number in range(1, len(found.value) + 1)]
    for number, (name, one) in enumerate(zip(names, found.value, strict=True)):
        again = number > 0
        yield from _pretraining(name, "base", one.dataset, choices, facts, again=again)
    yield from _select("source", ["base", *names], choices, facts.target)


def _select(name: str, candidates: list[str], choices: Choices, target: Dataset) -> Iterator[str]:
    settings = {"kind": "select", "candidates": candidates, **_evaluation(choices, target)}
    yield from _line(name, settings, "", 2)


def _pretraining(
    stage: str,
    init: str,
    data: Dataset,
    choices: Choices,
    facts: Facts,
    arm: Mapping[str, Any] = evidence.DEFAULT_ARM.value,
    *,
    again: bool = False,
) -> Iterator[str]:
    """Yield a stage of pretraining; reasons that stand in an earlier one are not repeated."""
    steps, batch = choices.steps.value, choices.batch
    monitor, monitor_why = _monitor(choices, facts.target)
    queue = {"queue": choices.queue.value, "momentum": evidence.MOMENTUM.value}
    rows: list[tuple[str, Any, str]] = [
        ("kind", "pretrain", ""),
        ("init", init, ""),
        ("data", [f"{data.alias}/{split}" for split in data.pool], ""),
        ("moco", queue, choices.queue.why),
        ("steps", steps, choices.steps.why),
        ("batch", batch.value, batch.why),
        *_arm(arm, choices.base.value.backbone),
        (
            "head_warmup_steps",
            rules.warmup(steps),
            "at first only the new projector learns, whose first gradients are noise",
        ),
        ("augment", choices.augment.value, choices.augment.why),
        ("monitor", monitor, monitor_why),
        ("keep", "last" if facts.target.judges == "none" else "best", ""),
        ("checkpoint_every", rules.every(steps), ""),
    ]
    yield f"  {stage}:"
    for key, value, why in rows:
        if value != {}:
            yield from _line(key, value, "" if again else why, 4)


def _arm(arm: Mapping[str, Any], backbone: str) -> Iterator[tuple[str, Any, str]]:
    reasons = {
        "batch_norm": evidence.DEFAULT_ARM.source if arm.get("train", "all") == "all" else ""
    }
    for key, value in arm.items():
        if key == "batch_norm" and not catalogue.has_batch_norm(backbone):
            continue
        yield key, value, reasons.get(key, "")


def _monitor(choices: Choices, target: Dataset) -> tuple[dict[str, Any], str]:
    every = rules.every(choices.steps.value)
    if target.judges == "none":
        return {"every": every}, "watched for collapse alone: nothing judges without labels"
    found: dict[str, Any] = {"data": target.alias, "every": every}
    return found, "a ridge probe judges on val; the base is kept if training does harm"


def _evaluation(choices: Choices, target: Dataset) -> dict[str, Any]:
    learned = max(1, target.images["train"] * choices.share.value // 100)
    part = "" if choices.share.value == 100 else f"/train@{choices.share.value}%"
    batch = min(evidence.LINEAR_BATCH, 1 << (learned.bit_length() - 1))
    judged = {"data": f"{target.alias}{part}", "metric": target.metric}
    if choices.seeds == 1:
        return judged | {"solver": "lbfgs"}
    return judged | {
        "steps": evidence.LINEAR_STEPS,
        "batch": batch,
        "views": choices.views,
    }


def _features(inits: list[str], choices: Choices, target: Dataset) -> Iterator[str]:
    yield from _comment(
        "Were the features worth it? A linear classifier on each: val chooses, test is read once.",
        2,
    )
    yield "  features:"
    yield from _line("kind", "linear", "", 4)
    for key, value in _evaluation(choices, target).items():
        yield from _line(key, value, choices.share.why if key == "data" else "", 4)
    seeds = {"seed": list(range(choices.seeds))} if choices.seeds > 1 else {}
    yield from _line("sweep", {"init": inits, **seeds}, "", 4)


def _line(key: str, value: Any, why: str, indent: int) -> Iterator[str]:
    """Yield a setting, its reason behind it, or above it where the line would be long."""
    line = f"{' ' * indent}{key}: {_flow(value)}"
    if not why:
        yield line
    elif len(line) + 4 + len(why) <= _WIDTH:
        yield f"{line}  # {why}"
    else:
        yield from _comment(why, indent)
        yield line


def _comment(words: str, indent: int) -> Iterator[str]:
    start = f"{' ' * indent}# "
    if not words:
        yield "#"
        return
    yield from textwrap.wrap(
        printable(" ".join(words.split())),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _flow(value: Any) -> str:
    """Return a value in one line of YAML."""
    written = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
    )
    return written.removesuffix("\n").removesuffix("\n...")
