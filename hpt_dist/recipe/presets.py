"""Named sets of settings that stand for what a recipe leaves open: whose experiment it repeats.

`paper` is the text of HPT (arXiv 2103.12718) and of the methods that it builds on; the defaults of
the kinds' settings are part of it. `authors-code` is what its authors' public code does where
that differs. The values are plain settings of a stage, so a recipe overrides any single one of
them, and a sweep over `preset` attributes a difference of results to all of them at once.
`docs/presets.md` compares the two, point by point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpt_dist.recipe.kinds import KINDS
from hpt_dist.recipe.settings import POLICIES, Augment

Settings = Mapping[str, Any]

# Of BYOL and SimCLR at a batch of 256; both scale it with the batch.
_LARS: Settings = {
    "optimizer": {"name": "lars", "lr": 0.3, "momentum": 0.9, "weight_decay": 1e-6, "trust": 1e-3},
    "lr_scaling": "linear",
    "schedule": "cosine",
    "warmup_steps": 10,
}
_BYOL_VIEW: Settings = {
    "crop_area": [0.08, 1.0],
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "gray": 0.2,
}
_BYOL: Settings = {
    **_LARS,
    "byol": {"hidden": 4096, "dim": 256, "momentum": 0.99},
    "augment": {**_BYOL_VIEW, "blur": 1.0, "solarize": 0.0},
    "augment_other": {**_BYOL_VIEW, "blur": 0.1, "solarize": 0.2},
}
_SIMCLR: Settings = {
    **_LARS,
    "simclr": {"temperature": 0.1, "dim": 128},
    "augment": {
        "crop_area": [0.08, 1.0],
        "jitter": 0.8,
        "brightness": 0.8,
        "contrast": 0.8,
        "saturation": 0.8,
        "hue": 0.2,
        "gray": 0.2,
        "blur": 0.5,
    },
}

# By preset, then by kind of stage, for pretraining with its method. An empty one is the defaults.
PRESETS: dict[str, dict[str, Settings]] = {
    "paper": {
        "pretrain moco_v2": {},
        "pretrain byol": _BYOL,
        "pretrain simclr": _SIMCLR,
        "linear": {},
        "finetune": {},
    },
    "authors-code": {
        "pretrain moco_v2": {"augment": {"hue": 0.4}},
        # Their counting of gradient accumulation makes 10,000 updates of what is called 5,000.
        "pretrain byol": {**_BYOL, "steps": 10_000},
        "pretrain simclr": _SIMCLR,  # which they did not train
        "linear": {"learning_rates": [30.0], "milestones": [1651 / 5000, 3333 / 5000]},
        # They count drops at 833 and 1667 by passes, of which an update accumulates four.
        "finetune": {"head_lr_scale": 100.0, "milestones": [833 / 10_000, 1667 / 10_000]},
    },
}
# Into how many parts a batch falls for batch norm: MoCo's 4 GPUs, BYOL's 2 accumulated passes and
# the 4 of fine-tuning.
BN_GROUPS: dict[str, dict[str, int]] = {
    "authors-code": {"pretrain moco_v2": 4, "pretrain byol": 2, "finetune": 4},
}


def filled(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's settings with its preset's values in the gaps.

    What the recipe wrote stays, inside groups too. Where it names another optimizer, the preset's
    optimizer goes as a whole; where it gives a learning rate, that is the rate and is not scaled;
    its `augment` counts for both views, unless `augment_other` says otherwise. A
    preset's warm-up goes where it is no shorter than the training.

    Args:
        kind: of the stage.
        settings: plain data as it was written, not validated; it is not changed. What is wrong in
            it stays for the validation to find.
    """
    name, entry = _entry(kind, settings)
    preset = dict(PRESETS.get(name, {}).get(entry, {}))
    _leave_rates_alone(preset, settings)
    if "warmup_steps" in preset and not preset["warmup_steps"] < _number(kind, settings, "steps"):
        del preset["warmup_steps"]
    batch, parts = _number(kind, settings, "batch"), BN_GROUPS.get(name, {}).get(entry, 1)
    if parts > 1 and batch % parts == 0 and batch // parts > 1:
        preset["bn_group"] = batch // parts
    if kind == "finetune" and _in_epochs(settings):
        preset.pop("milestones", None)  # these are counted in epochs, and rightly
    both_views = settings.get("augment")
    if "augment_other" in preset and isinstance(both_views, dict):
        known = {key: value for key, value in both_views.items() if key in Augment.model_fields}
        preset["augment_other"] = _merged(preset["augment_other"], known)
    for views in ("augment", "augment_other"):
        if views in preset:
            preset[views] = _left(preset[views], settings.get(views), both_views)
    found: dict[str, Any] = _merged(preset, settings)
    return found


def _left(views: Settings, *written: Any) -> Settings:
    """Return a preset's views without what the policy that is written leaves out.

    Args:
        views: of the preset.
        written: settings of these views; the first that names a policy counts.
    """
    named = [one["policy"] for one in written if isinstance(one, dict) and "policy" in one]
    left_out = POLICIES.get(named[0], ()) if named and isinstance(named[0], str) else ()
    return {key: value for key, value in views.items() if key not in left_out}


def _entry(kind: str, settings: dict[str, Any]) -> tuple[str, str]:
    """Return the preset's name and which of its entries is meant; unknown ones are in no dict."""
    fields = KINDS[kind].model_fields
    if "preset" not in fields:
        return "", ""
    name = str(settings.get("preset", fields["preset"].default))
    if "solver" in fields and settings.get("solver", fields["solver"].default) != "sgd":
        return name, ""  # whoever else solves has none of what a preset fills in
    if kind == "select":
        return name, "linear"  # by which it judges
    if "method" not in fields:
        return name, kind
    return name, f"{kind} {settings.get('method', fields['method'].default)}"


def _leave_rates_alone(preset: dict[str, Any], settings: dict[str, Any]) -> None:
    """Take out of a preset what would give a wrong meaning to the optimizer that was written."""
    own = settings.get("optimizer")
    if not isinstance(own, dict) or "optimizer" not in preset:
        return
    is_another = own.get("name", preset["optimizer"]["name"]) != preset["optimizer"]["name"]
    if is_another:
        del preset["optimizer"]
    if is_another or "lr" in own:
        preset.pop("lr_scaling", None)


def _in_epochs(settings: dict[str, Any]) -> bool:
    """Return whether fine-tuning is to last a number of epochs."""
    schedule = settings.get("schedule")
    return settings.get("epochs") is not None or str(schedule).endswith("epochs")


def _number(kind: str, settings: dict[str, Any], name: str) -> int:
    """Return a whole number as it was written, or its default; 0 where it is none."""
    field = KINDS[kind].model_fields.get(name)
    value = settings.get(name, field.default if field else 0)
    return value if isinstance(value, int) else 0


def _merged(under: Any, over: Any) -> Any:
    """Return plain data with another's values in its gaps: `over` where both have one."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    both = {key: _merged(under[key], over[key]) for key in under if key in over}
    return {**under, **over, **both}
