"""The pairs of `benchmarks.probes`: backbones before and after short pretrainings of drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from small import hpt
from torch import Tensor

import hpt_dist
from hpt_dist.evals.features import Labelled

DOMAINS = ("color", "paint")
CLASSES, SIZE = 38, 64

HEAD = """\
name: probes_{domain}
store: ${{HPT_STORE}}
datasets: {{data: openmoji/{domain}}}
backbone: timm/tf_efficientnet_lite0
image: {{size: 64, normalize: imagenet}}
stages:
  base: {{kind: import, weights: package/efficientnet-lite0}}
"""
STAGE = """\
  {name}:
    kind: pretrain
    init: base
    data: [data/train, data/unlabeled]
    moco: {{queue: 512, momentum: 0.99}}
    steps: {steps}
    batch: 32
    batch_norm: {batch_norm}
    head_warmup_steps: {warmup}
    optimizer: {{name: adamw, lr: {lr}, backbone_lr_scale: {scale}}}
    augment: {{policy: {policy}, crop_area: [0.4, 1.0], blur: 0}}
    monitor: null
    seed: {seed}
"""
USUAL = {"batch_norm": "frozen", "lr": "1e-3", "scale": 0.3, "policy": "full", "seed": 0}
STAGES: dict[str, dict[str, object]] = {
    "long": {"steps": 150},
    "harm": {"steps": 30, "batch_norm": "train", "lr": "3e-3", "scale": 1},
    "short": {"steps": 40},
    "crops": {"steps": 60, "policy": "crop_only"},
    "moving": {"steps": 40, "batch_norm": "train"},
    "fast": {"steps": 80, "lr": "3e-3", "scale": 1},
    "middle": {"steps": 80, "seed": 1},
}


class Network(NamedTuple):
    """What a backbone makes of the labelled images: of train, and of those that none learned."""

    train: Labelled
    unseen: Labelled


def networks(store: str, domain: str, stages: Sequence[str]) -> dict[str, Network]:
    """Shard a domain, pretrain, and return what each backbone makes of its images."""
    name = f"openmoji/{domain}"
    hpt("shard", name, f"{store}/datasets/{name}", store=store)
    dataset = hpt_dist.open_dataset(store, name)
    text = HEAD.format(domain=domain)
    for stage in stages:
        settings = USUAL | STAGES[stage]
        warmup = min(60, int(str(settings["steps"])) // 3)
        text += STAGE.format(name=stage, warmup=warmup, **settings)
    recipe = Path(store) / f"probes_{domain}.yaml"
    recipe.write_text(text, encoding="utf-8")
    hpt("launch", str(recipe), store=store)
    found = {}
    for trial in hpt_dist.finished(f"probes_{domain}", store=store):
        kept = Path(store) / f"probes-{trial.key}.pt"
        if not kept.exists():
            torch.save(_features(dataset, trial.key, store), kept)
        parts = torch.load(kept)
        unseen = (
            torch.cat([parts[f"{split}/{what}"] for split in ("val", "test")])
            for what in ("features", "labels")
        )
        found[trial.name] = Network(
            Labelled(parts["train/features"], parts["train/labels"]), Labelled(*unseen)
        )
    return found


def _features(dataset: hpt_dist.Dataset, key: str, store: str) -> dict[str, Tensor]:
    backbone = hpt_dist.load_backbone(
        "timm/tf_efficientnet_lite0", weights=f"trial/{key}", store=store
    )
    backbone.eval().to(memory_format=torch.channels_last)
    found = {}
    for split in ("train", "val", "test"):
        with torch.no_grad(), hpt_dist.eval_loader(dataset, split, batch=128, size=SIZE) as loader:
            batches = [(backbone(one.images), torch.as_tensor(one.labels)) for one in loader]
        features, labels = zip(*batches, strict=True)
        found |= {f"{split}/features": torch.cat(features), f"{split}/labels": torch.cat(labels)}
    return found
