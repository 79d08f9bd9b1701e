"""What was seen and decided, in words: a line each. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hpt_dist.advice import cost
from hpt_dist.advice.facts import Facts, Score
from hpt_dist.advice.rules import Choices


def seen(facts: Facts) -> Iterator[str]:
    """Yield what was seen of the data, the bases and the machine."""
    target, shown = facts.target, facts.pictures
    yield target.in_words
    low, median, high = shown.short_sides
    colours = "no colours" if shown.gray > 0.5 else "colours"
    if 0 < shown.gray < 1:
        colours += f" ({100 * shown.gray:.0f} % gray)"
    yield (
        f"looked for {facts.seconds:.0f} s; at {shown.seen:,} of {target.pool_images:,} images to "
        f"pretrain on: short sides {low} to {high} pixels (median {median}), {colours}, values "
        f"{shown.range[0]} to {shown.range[1]} of 255"
    )
    for base in facts.bases:
        parts = [f"features of {base.images_per_second:,.0f} images/s"]
        if base.score:
            parts.insert(0, f"nearest neighbours {_score(base.score)}")
        if base.shift is not None:
            parts.append(f"batch norm {base.shift:.2f} deviations off")
        yield f"{base.name}: {', '.join(parts)}"
    if facts.pixels:
        yield f"raw pixels: nearest neighbours {_score(facts.pixels)}"
    for found in facts.differences:
        points = f"{100 * found.mean:+.1f} ± {100 * found.half_width:.1f} points"
        says = "no evidence of a difference" if found.verdict == "undecided" else found.verdict
        yield f"{found.one} against {found.other}: {points}, {says}"
    for source in facts.sources:
        far = "distance not measured"
        if source.distance is not None:
            far = f"{source.distance:.1f} ± {source.spread:.1f} times as far as halves of "
            far += f"{target.alias} are from each other ({source.seen:,} images)"
        yield f"source {source.dataset.alias}: {source.dataset.pool_images:,} images, {far}"
    yield (
        f"this machine ({machine(facts)}) trains on {facts.speed.views_per_second:,.0f} image "
        f"views a second at {facts.speed.size} pixels"
    )
    for part in facts.skipped:
        yield f"not looked at: {part}"


def _score(score: Score) -> str:
    ends = ""
    if score.interval:
        low, high = (100 * end for end in score.interval)
        ends = f" ({low:.1f} to {high:.1f})"
    held = "a quarter of train held out" if score.split == "train" else score.split
    return (
        f"{100 * score.value:.1f} % {score.metric}{ends} of {score.images:,} images ({held}), "
        f"among {score.neighbours:,}"
    )


def machine(facts: Facts) -> str:
    """Return what trials compute on."""
    cores = f"{facts.cores} core{'s' * (facts.cores != 1)}"
    return f"a GPU, {cores}" if facts.device == "gpu" else f"a CPU, {cores}"


def decided(facts: Facts, chosen: Choices, hours: float) -> Iterator[str]:
    """Yield what is recommended, and for how long that runs."""
    yield f"base: {chosen.base.value.name} ({chosen.base.why})"
    if chosen.rivals:
        yield f"the recipe chooses among {' and '.join(chosen.rivals)} by val"
    if found := chosen.sources.value:
        names = " or ".join(one.dataset.alias for one in found)
        yield f"source first: {names} ({chosen.sources.why})"
    yield (
        f"{chosen.size.value} pixels, {chosen.steps.value:,} steps of {chosen.batch.value} "
        f"({chosen.steps.why})"
    )
    if len(arms := cost.arms(chosen)) > 1:
        yield f"compared with it: {', '.join(arms[1:])}"
    for cut in chosen.cuts:
        yield f"left out for want of time: {cut}"
    yield duration(facts, hours)


def duration(facts: Facts, hours: float) -> str:
    """Return how long a recipe takes."""
    took = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} minutes"
    return f"about {took} here ({machine(facts)}), evaluations included"


def head(facts: Facts, chosen: Choices, hours: float) -> Iterator[str]:
    """Yield the comment at the beginning of a recipe."""
    target, before = facts.target, chosen.sources.value
    first = f"{' or '.join(one.dataset.alias for one in before)}, then " if before else ""
    yield f"Continue pretraining on {first}{target.alias}. Written by `hpt-dist recommend`."
    yield ""
    yield target.in_words
    yield f"It takes {duration(facts, hours)}."
    for cut in chosen.cuts:
        yield f"Left out for want of time: {cut}."


def lacks_labels(target: str, needed: int) -> str:
    """Return why nothing judges, and the least that would."""
    return (
        f"{target} has no labels, so nothing shows whether features became better: the last "
        f"weights are kept. About {needed:,} labelled images would show a gain of 5 points: shard "
        "them as a dataset with the splits train and val, and name it: monitor: {data: NAME}, "
        "keep: best"
    )


def lacks_val(target: str, missing: str) -> str:
    """Return why labels of train judge nothing, and what to do."""
    return (
        f"{target} has labels, but no split {missing}, so nothing judges and the last weights are "
        "kept. Shard a source without splits (one folder a class, or a list without a column "
        "split): 15 % become val and 15 % test; or add them to the source as folders or rows of "
        "their own; tars take --split hash"
    )


def lacks_test(target: str, why: str) -> str:
    """Return that val alone judges."""
    return (
        f"{why}: a ridge probe on val chooses the weights and judges the stage, and no "
        f"evaluation follows. A split test of {target} would give one that chose nothing"
    )
