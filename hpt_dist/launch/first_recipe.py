"""A first recipe for somebody's own data: a recipe of the package, with their names.

`one_domain`, or `unlabeled` where nothing can be evaluated, is the template, so settings and
comments are said once. Of several labels an image, pretraining is that of `unlabeled`, since it is
watched by one label. Names, splits and sizes are put in; each further domain is a stage of its own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.datasets.manifest import Manifest
from hpt_dist.errors import RequestError
from hpt_dist.recipe import shipped
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import metric_faults
from hpt_dist.recipe.metrics import METRICS, metric_of
from hpt_dist.recipe.numerics import DeviceKind
from hpt_dist.sources.sample import Sample, Source

_EVALUATED = ("train", "val", "test")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_/-]*")
_PLAIN_STORE = re.compile(r"[A-Za-z0-9_./:-]*[A-Za-z0-9_/-]")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}  # in some YAML no texts
_CLASSES_SHOWN = 6
# Those of the templates, and the defaults.
_BATCH, _LINEAR_BATCH, _QUEUE = 64, 256, 512


@dataclass(frozen=True)
class Domain:
    """A dataset as a recipe sees it.

    Args:
        reference: its name in the store, or its URI.
        images: of each split.
        class_counts: images of each class, of each split.
        label: "single", "multi", "boxes" or "none".
        classes: names.
        metric: that the manifest names for evaluations.
    """

    reference: str
    images: Mapping[str, int]
    class_counts: Mapping[str, Sequence[int]]
    label: str
    classes: Sequence[str]
    metric: str = ""

    @property
    def alias(self) -> str:
        """How the recipe calls it: also a part of stages' names."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", self.reference.rpartition("/")[2]).strip("_-")
        return name[:60] or "images"

    @property
    def pool(self) -> list[str]:
        """The splits to pretrain on: all but those that judge."""
        return [name for name in self.images if name not in ("val", "test")]

    @property
    def facts(self) -> DatasetFacts:
        """What a plan would know of it."""
        of_classes = len(self.classes), self.images, self.class_counts
        return DatasetFacts(self.alias, "", "", *of_classes, label=self.label, metric=self.metric)

    def lacks(self) -> str:
        """Return why nothing can be evaluated on it; empty if it can."""
        if self.label == "none":
            return f"{self.alias} has no labels"
        if self.label == "boxes":
            return f"the labels of {self.alias} are boxes, and no classes of images"
        if missing := [split for split in _EVALUATED if not self.images.get(split)]:
            return f"{self.alias} has no split {' and no '.join(missing)}"
        if faults := metric_faults(None, self.facts):
            return faults[0].what
        if self.label == "multi":  # an image without a label is one of none of the classes
            return ""
        bare = [one for one in _EVALUATED if sum(self.class_counts[one]) < self.images[one]]
        return f"{self.alias}/{bare[0]} has images without a label" if bare else ""

    def judged_by(self) -> str:
        """Return what an evaluation reads of it, in words; of one for which `lacks` is empty."""
        if self.label == "single":
            return "with labels"
        return f"several labels an image, judged by {METRICS[metric_of(None, self.facts)].title}"

    def in_words(self) -> str:
        """Return its splits and classes in a line."""
        ranks = {name: rank for rank, name in enumerate(_EVALUATED)}
        order = sorted(self.images, key=lambda name: ranks.get(name, len(ranks)))
        splits = ", ".join(f"{name} {self.images[name]:,}" for name in order)
        names = ", ".join(self.classes[:_CLASSES_SHOWN])
        more = ", ..." if len(self.classes) > _CLASSES_SHOWN else ""
        classes = f"; {len(self.classes):,} classes: {names}{more}" if self.classes else ""
        return f"{self.alias}: {splits} images{classes}"


def name_of(path: Path) -> str:
    """Return how the dataset of a folder or a list of images is called."""
    absolute = path.absolute()
    name = absolute.name if path.is_dir() else absolute.stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.-") or "images"


def of_manifest(manifest: Manifest, reference: str) -> Domain:
    """Return a dataset that is there as a domain."""
    splits = manifest.splits.items()
    counts = {name: split.class_counts for name, split in splits}
    images = {name: split.images for name, split in splits}
    label = manifest.label
    return Domain(reference, images, counts, label, manifest.classes, manifest.metric)


def of_source(source: Source, reference: str) -> Domain:
    """Return the dataset that a source will become as a domain."""
    samples = list(source.samples())
    images = Counter(sample.split for sample in samples)
    labels = Counter((one.split, label) for one in samples for label in _labels(one))
    counts = {split: [labels[split, c] for c in range(len(source.classes))] for split in images}
    return Domain(reference, dict(sorted(images.items())), counts, source.label, source.classes)


def _labels(sample: Sample) -> tuple[int, ...]:
    if isinstance(sample.label, int):
        return (sample.label,)
    return sample.label or ()


def text(
    name: str, domains: Sequence[Domain], store: str, device: DeviceKind, commands: Sequence[str]
) -> str:
    """Return a recipe.

    Args:
        name: of the recipe.
        domains: in the order of pretraining; the last one is the target, which is evaluated.
        store: URI of the store.
        device: what the sizes are for.
        commands: what to run next, for the comment at its beginning.

    Raises:
        RequestError: a domain has nothing to pretrain on, or two have one name.
    """
    _check(domains)
    target = domains[-1]
    lacks = target.lacks()
    body = _template(target, lacks)
    body = re.sub(r"\A.*", f"name: {_word(name)}", body)
    place = f"${{HPT_STORE:-{store}}}"
    place = place if _PLAIN_STORE.fullmatch(store) else json.dumps(place, ensure_ascii=False)
    body = re.sub(r"(?m)^store: .*", lambda _: f"store: {place}", body)
    pairs = ", ".join(f"{_word(one.alias)}: {_word(one.reference)}" for one in domains)
    body = re.sub(r"(?m)^datasets: .*", lambda _: f"datasets: {{{pairs}}}", body)
    body = _with_stages(body, domains)
    judged = r"(?m)^(    data:|.*monitor: \{data:) photos\b"
    body = re.sub(judged, rf"\1 {_word(target.alias)}", body)
    body = _sized(body, domains, device)
    return _head(domains, lacks, device, commands) + body


def _template(target: Domain, lacks: str) -> str:
    """Return a recipe of the package from its name on."""
    one, bare = (
        shipped.recipe(name).read_text(encoding="utf-8").partition("\nname: ")[2]
        for name in ("one_domain", "unlabeled")
    )
    if lacks:
        return bare
    if target.label == "single":
        return one
    evaluation = one[_stage(one, "features")[0] :]
    asked = f"    data: photos\n    metric: {metric_of(None, target.facts)}\n"
    return bare + evaluation.replace("    data: photos\n", asked, 1)


def _check(domains: Sequence[Domain]) -> None:
    aliases = [one.alias for one in domains]
    if twice := [alias for alias, count in Counter(aliases).items() if count > 1]:
        raise RequestError(f"two datasets are called {twice[0]}", fix="shard one by another name")
    for one in domains:
        if sum(one.images[split] for split in one.pool) < 2:
            raise RequestError(
                f"{one.alias} has nothing to pretrain on: {one.in_words()}",
                allowed="a split train or unlabeled with 2 images or more",
            )


def _stage(body: str, name: str) -> tuple[int, int]:
    """Return where a stage of the template begins and ends."""
    start = body.index(f"\n  {name}:\n") + 1
    following = re.compile(r"(?m)^(  \w|\w)").search(body, start + len(name))
    return start, following.start() if following else len(body)


def _word(text: str) -> str:
    """Return a text as YAML reads it back."""
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _with_stages(body: str, domains: Sequence[Domain]) -> str:
    """Give each domain a stage of pretraining, which starts from the one before."""
    start, end = _stage(body, "hpt")
    several = len(domains) > 1
    names = [f"hpt_{one.alias}" if several else "hpt" for one in domains]
    blocks: list[str] = []
    before = "base"
    for stage, one in zip(names, domains, strict=True):
        block = body[start:end].replace("  hpt:", f"  {stage}:", 1)
        block = block.replace("init: base", f"init: {before}", 1)
        pool = ", ".join(_word(f"{one.alias}/{split}") for split in one.pool)
        block = re.sub(r"(?m)^    data: \[.*\]", f"    data: [{pool}]", block)
        # Said once, it counts for all.
        blocks.append(re.sub(r"(?m)^ +#.*\n", "", block) if blocks else block)
        before = stage
    body = body[:start] + "".join(blocks) + body[end:]
    return body.replace("init: [base, hpt]", f"init: [{', '.join(['base', *names])}]")


def _sized(body: str, domains: Sequence[Domain], device: DeviceKind) -> str:
    """Fit batches, queue and, on a GPU, sizes of images and steps."""
    fewest = min(sum(one.images[split] for split in one.pool) for one in domains)
    batch = _at_most(fewest, _BATCH if device == "cpu" else 4 * _BATCH)
    body = body.replace("    batch: 64\n", f"    batch: {batch}\n")
    if fewest < _QUEUE:  # else it would hold images twice, as negatives of themselves
        body = body.replace(f"queue: {_QUEUE},", f"queue: {fewest // batch * batch},")
    if device == "gpu":
        for old, new in (
            ("{size: 64,", "{size: 224,"),
            ("    steps: 300\n", "    steps: 5000\n"),
            ("head_warmup_steps: 60", "head_warmup_steps: 500"),
            ("every: 50}", "every: 500}"),
            ("checkpoint_every: 50\n", "checkpoint_every: 500\n"),
        ):
            body = body.replace(old, new)
    labelled = domains[-1].images.get("train") or _LINEAR_BATCH  # without any, nothing is evaluated
    linear = f"    batch: {_LINEAR_BATCH}\n    views"
    return body.replace(linear, linear.replace("256", str(_at_most(labelled, _LINEAR_BATCH))))


def _at_most(images: int, batch: int) -> int:
    """Return a batch, or the largest power of two that so many images fill."""
    return batch if images >= batch else 1 << (images.bit_length() - 1)


def _head(
    domains: Sequence[Domain], lacks: str, device: DeviceKind, commands: Sequence[str]
) -> str:
    judged = (
        f"Nothing is evaluated: {lacks}."
        if lacks
        else f"Then a linear evaluation on {domains[-1].alias}: were the features worth it?"
    )
    order = ", then ".join(one.alias for one in domains)
    sizes = (
        "Sizes are for a CPU; on a GPU use size 224, batch 256 and 5000 steps."
        if device == "cpu"
        else "Sizes are for a GPU; on a CPU use size 64, batch 64 and 300 steps."
    )
    lines = [
        f"Continue pretraining on {order}. Written by `hpt-dist init`.",
        judged,
        "",
        *(one.in_words() for one in domains),
        "",
        *(f"  {command}" for command in commands),
        "",
        sizes,
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
