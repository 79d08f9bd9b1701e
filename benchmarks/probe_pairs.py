"""The pairs of `benchmarks.probes`: a base and what pretraining made of it, more or less of it.

One pretraining on drawings helps, if anything, and one with moving batch-norm statistics and a high
rate does harm. From the base to each of them, and beyond, lie more backbones, base + share *
(trained - base) in every weight and statistic: pairs with a graded difference for a pass each.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from small import hpt
from torch import Tensor

import hpt_dist
from hpt_dist.evals.features import Labelled

DOMAINS = ("color", "paint")
CLASSES, SIZE = 38, 64
# How far from the base to what each stage leaves.
SHARES: dict[str, tuple[float, ...]] = {"long": (1, 2, 4), "harm": (0.25, 0.5, 1)}
BASE = "base"
_LEAST_VARIANCE = 1e-6  # beyond what is trained a variance may fall below 0
_BACKBONE = "timm/tf_efficientnet_lite0"

RECIPE = """\
name: probes_{domain}
store: ${{HPT_STORE}}
datasets: {{data: openmoji/{domain}}}
backbone: timm/tf_efficientnet_lite0
image: {{size: 64, normalize: imagenet}}
stages:
  base: {{kind: import, weights: package/efficientnet-lite0}}
  long:
    kind: pretrain
    init: base
    data: [data/train, data/unlabeled]
    moco: {{queue: 512, momentum: 0.99}}
    steps: 60
    batch: 32
    batch_norm: frozen
    head_warmup_steps: 15
    optimizer: {{name: adamw, lr: 1e-3, backbone_lr_scale: 0.3}}
    augment: {{crop_area: [0.4, 1.0], blur: 0}}
    monitor: null
  harm:
    kind: pretrain
    init: base
    data: [data/train, data/unlabeled]
    moco: {{queue: 512, momentum: 0.99}}
    steps: 30
    batch: 32
    batch_norm: train
    head_warmup_steps: 10
    optimizer: {{name: adamw, lr: 3e-3, backbone_lr_scale: 1}}
    augment: {{crop_area: [0.4, 1.0], blur: 0}}
    monitor: null
"""


class Network(NamedTuple):
    """What a backbone makes of the labelled images: of train, and of those that none learned."""

    train: Labelled
    unseen: Labelled


def networks(store: str, domain: str) -> dict[str, Network]:
    """Shard a domain, pretrain, and return what each backbone makes of its images, by its name.

    Args:
        store: a folder, which keeps all of it.
        domain: of `DOMAINS`.
    """
    name = f"openmoji/{domain}"
    hpt("shard", name, f"{store}/datasets/{name}", store=store)
    recipe = Path(store) / f"probes_{domain}.yaml"
    recipe.write_text(RECIPE.format(domain=domain), encoding="utf-8")
    hpt("launch", str(recipe), store=store)
    dataset = hpt_dist.open_dataset(store, name)
    keys = {trial.name: trial.key for trial in hpt_dist.finished(recipe.stem, store=store)}
    wanted = {BASE: (BASE, 0.0)} | {
        f"{stage} x {share:g}": (stage, share)
        for stage, shares in SHARES.items()
        for share in shares
    }
    found = {}
    for title, (stage, share) in wanted.items():
        kept = Path(store) / f"probes-{domain}-{keys[stage]}-{share:g}.pt"
        if not kept.exists():
            backbone = _between(store, keys[BASE], keys[stage], share)
            torch.save(
                {
                    split: _features(backbone, dataset, split)
                    for split in dataset.splits
                    if split != "unlabeled"
                },
                kept,
            )
        splits = torch.load(kept)
        unseen = (torch.cat(parts) for parts in zip(splits["val"], splits["test"], strict=True))
        found[title] = Network(Labelled(*splits["train"]), Labelled(*unseen))
    return found


def _between(store: str, base: str, trained: str, share: float) -> torch.nn.Module:
    """Return the backbone that lies a share of the way from one trial's to another's."""
    backbone, other = (
        hpt_dist.load_backbone(_BACKBONE, weights=f"trial/{key}", store=store)
        for key in (base, trained)
    )
    there = other.state_dict()
    moved = {}
    for name, value in backbone.state_dict().items():
        moved[name] = value
        if value.is_floating_point():
            moved[name] = value + share * (there[name] - value)
        if name.endswith("running_var"):
            moved[name] = moved[name].clamp(min=_LEAST_VARIANCE)
    backbone.load_state_dict(moved)
    return backbone.eval().to(memory_format=torch.channels_last)


def _features(
    backbone: torch.nn.Module, dataset: hpt_dist.Dataset, split: str
) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), hpt_dist.eval_loader(dataset, split, batch=128, size=SIZE) as loader:
        batches = [(backbone(one.images), torch.as_tensor(one.labels)) for one in loader]
    features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return features, labels
