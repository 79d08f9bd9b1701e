"""The table of evaluations: `make bench-evals`. Exits 1 when a goal is missed.

With `--write`, the table is kept in `benchmarks/evals.txt` with the versions of what was measured.
`--only features|linear|lbfgs|finetune` measures one part; nothing is kept then. The machine should
do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from pictures import sample
from sklearn.linear_model import LogisticRegression
from small import hpt
from torch import Tensor

from benchmarks import finetune
from benchmarks.measure import Row, paired, print_table, seconds_of, versions
from benchmarks.photos import photos
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.evals import linear, logistic
from hpt_dist.evals.features import Labelled, extract
from hpt_dist.launch import lookup
from hpt_dist.recipe import file, plan
from hpt_dist.sources.sample import FileSource
from hpt_dist.stages.frozen import Copy, Frozen, features_of
from hpt_dist.stages.inputs import pool_of
from hpt_dist.store import open_store
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial.context import Context, TrialOrder
from hpt_dist.trial.memory import keep_freed_memory

PARTS = ("features", "linear", "lbfgs", "finetune")
KEPT = Path(__file__).with_name("evals.txt")
_MEASURED = ("torch", "torchvision", "scikit-learn", "scipy", "numpy")

IMAGES = {"train": 64, "val": 16, "test": 16}
CLASSES = 4
ONE, SIX = (3.0,), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# The steps that come on each image that is looked at where 5,000 come on RESISC's 18,900 training
# images, eight times, and 12,600 others.
STEPS_PER_IMAGE = 5000 / (8 * 18_900 + 12_600)
L2 = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

RECIPE = """\
name: evals
store: ${HPT_STORE}
datasets: {photos: photos}
backbone: torchvision/resnet50
stages:
  base: {kind: import, weights: random}
  probe: {kind: knn, init: base, data: photos}
"""


def context_in(folder: Path) -> Context:
    """Write photographs as shards, import a ResNet-50, and return the context of a trial on it."""
    store = folder / "store"
    data = photos(sum(IMAGES.values()))
    names = [(split, at) for split, count in IMAGES.items() for at in range(count)]
    samples = [
        sample(f"{split}-{at:03}", jpeg, split, at % CLASSES)
        for (split, at), jpeg in zip(names, data, strict=True)
    ]
    write_dataset(
        FileSource("photos", "made", list("abcd"), samples), open_store(str(store)), "photos"
    )
    path = folder / "evals.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    hpt("launch", str(path), "--only", "base", store=str(store))
    opened = open_store(str(store))
    recipe = file.load(path, environment={"HPT_STORE": str(store)})
    _, trial = plan.make(recipe, lookup.facts(recipe, opened))
    order = TrialOrder(
        recipe="evals",
        trial=trial,
        store=str(store),
        work=folder / "work",
        tracking_uri="",
        parent_run="",
        artifact_location="",
        image_size=recipe.image.size,
        normalize=recipe.image.normalize,
        threads=cores(),
    )
    return Context(order, opened, opened.at(f"stages/{trial.key}"), Interrupt())


def feature_rows(context: Context) -> Iterator[Row]:
    """Yield how fast features are computed from shards, and how fast they are shared."""
    frozen = Frozen(context)
    pool_images = torch.randn(IMAGES["train"], 3, 224, 224).to(memory_format=torch.channels_last)
    device, backbone = torch.device("cpu"), frozen.backbone
    pool = pool_of(context, ("photos/train",))
    seconds = seconds_of(
        {
            "shards": lambda: frozen.computed(pool, None, None),
            "bare": lambda: extract(backbone, [pool_images], device),
        },
        rounds=3,
    )
    rates = {who: IMAGES["train"] / statistics.median(s) for who, s in seconds.items()}
    note = ", ".join(f"{who} {rate:.1f} images/s" for who, rate in rates.items())
    yield Row(
        "features_resnet50_224_vs_bare", paired(seconds["bare"], seconds["shards"]), 0.8, note
    )
    first, second = (_seconds_of_features(context) for _ in range(2))
    note = f"first {first:.1f} s, second {second:.2f} s, of {sum(IMAGES.values())} images"
    yield Row("second_evaluations_features", second / first, 0.05, note, at_most=True, digits=3)


def _seconds_of_features(context: Context) -> float:
    began = time.perf_counter()
    features_of(context, "photos", views=0, seed=0)
    return time.perf_counter() - began


def linear_rows(context: Context) -> Iterator[Row]:
    """Yield what six learning rates cost beside one, with the features and without."""
    views = 2
    looked_at = views * IMAGES["train"] + IMAGES["val"] + IMAGES["test"]
    steps = max(1, round(STEPS_PER_IMAGE * looked_at))
    frozen = Frozen(context)
    pool = pool_of(context, ("photos/train",))

    def evaluation(rates: tuple[float, ...]) -> None:
        copies = [frozen.computed(pool, Copy(0, epoch), None)[0] for epoch in range(views)]
        for split in ("val", "test"):
            frozen.computed(pool_of(context, (f"photos/{split}",)), None, None)
        _fit(torch.stack(copies), rates, steps)

    seconds = seconds_of({"six": lambda: evaluation(SIX), "one": lambda: evaluation(ONE)}, rounds=2)
    note = f"six {statistics.median(seconds['six']):.1f} s, with features and {steps} steps, "
    note += "in the proportion of RESISC"
    yield Row(
        "linear_6_rates_vs_1", paired(seconds["six"], seconds["one"]), 1.3, note, at_most=True
    )
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 5000, 2048, generator=generator)
    alone = seconds_of(
        {"six": lambda: _fit(features, SIX, 40), "one": lambda: _fit(features, ONE, 40)}
    )
    note = ", ".join(f"{who} {statistics.median(s) / 40 * 1e3:.1f} ms" for who, s in alone.items())
    note += " a step of 512 x 2048 features and 45 classes, features given"
    yield Row("linear_6_rates_vs_1_steps_alone", paired(alone["six"], alone["one"]), None, note)


def _fit(features: Tensor, rates: tuple[float, ...], steps: int) -> None:
    labels = torch.arange(features.shape[1]) % 45
    linear.fit(
        Labelled(features, labels),
        num_classes=45,
        learning_rates=rates,
        milestones=(1 / 3, 2 / 3),
        steps=steps,
        batch=512,
        weight_decay=0.0,
        seed=0,
    )


def lbfgs_rows() -> Iterator[Row]:
    """Yield the time of a whole grid of L2 weights against scikit-learn's, and the accuracies."""
    train, val, test = clusters(10_000, 512, 20)
    scaling = logistic.scaling_of(train.features)
    standard = [scaling(one.features).numpy() for one in (train, val, test)]
    labels = [one.labels.numpy() for one in (train, val, test)]
    began = time.perf_counter()
    ours, _ = logistic.choose(train, val, test, num_classes=20, l2=L2)
    our_seconds = time.perf_counter() - began
    began, found = time.perf_counter(), {}
    for l2 in L2:
        model = LogisticRegression(C=1 / (l2 * len(labels[0])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it stops after 100 iterations by default
            model.fit(standard[0], labels[0])
        found[model.score(standard[1], labels[1])] = model.score(standard[2], labels[2])
    their_seconds = time.perf_counter() - began
    note = f"{len(L2)} L2 weights of 10,000 x 512, 20 classes: {our_seconds:.1f} s, scikit-learn's "
    note += f"LogisticRegression {their_seconds:.1f} s"
    yield Row("lbfgs_vs_scikit_learn", their_seconds / our_seconds, 3, note)
    theirs = 100 * found[max(found)]
    mine = 100 * ours["test/top1"]
    note = f"chosen on val, on test: {mine:.2f} %, scikit-learn's {theirs:.2f} %"
    yield Row("lbfgs_accuracy_below_theirs", theirs - mine, 0.3, note, at_most=True)


def clusters(n: int, dim: int, classes: int) -> tuple[Labelled, Labelled, Labelled]:
    """Return splits of features like a network's: not negative, of a spectrum that decays."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(dim, dim, generator=generator) / dim**0.5
    spectrum = torch.arange(1, dim + 1).float() ** -0.5
    centres = 0.15 * torch.randn(classes, dim, generator=generator)

    def split(count: int) -> Labelled:
        labels = torch.randint(0, classes, (count,), generator=generator)
        noise = torch.randn(count, dim, generator=generator)
        return Labelled(torch.relu((centres[labels] + noise) * spectrum @ basis + 0.2), labels)

    return split(n), split(2000), split(5000)


def rows(only: str | None) -> Iterator[Row]:
    """Yield the rows of one part, or of all."""
    if only not in ("lbfgs", "finetune"):
        with tempfile.TemporaryDirectory() as folder:
            context = context_in(Path(folder))
            if only != "linear":
                yield from feature_rows(context)
            if only != "features":
                yield from linear_rows(context)
    if only in (None, "lbfgs"):
        yield from lbfgs_rows()
    if only in (None, "finetune"):
        yield from finetune.rows()


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.evals", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {KEPT.name}")
    parser.add_argument("--only", choices=PARTS, help="one part")
    asked = parser.parse_args()
    keep_freed_memory()  # as in the process of a trial
    torch.set_num_threads(cores())
    kept = KEPT if asked.write and not asked.only else None
    return print_table(rows(asked.only), versions(_MEASURED), kept)


if __name__ == "__main__":
    sys.exit(main())
