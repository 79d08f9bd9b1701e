"""Whether pretraining forgot what the weights could do that it started from; it chooses nothing.

Both are measured after the training, as the monitor looks: the start is read again, so a stage that
keeps it needs no look.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from hpt_dist.evals import forgetting
from hpt_dist.recipe import Monitor, Pretrain
from hpt_dist.stages import monitor
from hpt_dist.stages.trained import Training
from hpt_dist.train.selection import Selection

log = logging.getLogger(__name__)

_START, _KEPT = 0, 1  # as steps of a selection that only its verdict is asked for


def is_asked(spec: Pretrain) -> bool:
    """Return whether a stage measures what it forgets."""
    return spec.monitor is not None and spec.monitor.forgetting is not None


def judged(
    training: Training, spec: Pretrain, state: Mapping[str, Tensor], kept: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how much the weights that a stage leaves have forgotten, for the result's details.

    Empty where it is not asked for. A collective call.

    Args:
        training: that has ended.
        spec: its settings.
        state: of the backbone that it leaves.
        kept: the result's details of what is kept.
    """
    if spec.monitor is None or spec.monitor.forgetting is None:
        return {}
    found = forgetting.of_kept_base(spec.monitor.forgetting)
    if kept["kept_step"]:
        found = _measured(training, spec, spec.monitor, state)
    log.info("%s", found.says)
    return {"forgetting": {name: one for name, one in asdict(found).items() if one is not None}}


def _measured(
    training: Training, spec: Pretrain, asked: Monitor, state: Mapping[str, Tensor]
) -> forgetting.Forgetting:
    """Return what the weights that are left have forgotten, by two looks of the monitor."""
    context, network = training.context, training.start()
    watch = asked.model_copy(update={"data": asked.forgetting, "metric": None})
    watched = spec.model_copy(update={"monitor": watch})
    accelerator, replacements = training.accelerator, training.replacements
    evaluation = monitor.evaluation_of(context, watched, network, accelerator, replacements)
    if evaluation is None:
        raise ValueError("no look at what is forgotten")  # there is a monitor
    plan = replace(evaluation, keeps=None)
    selection, metric = Selection(), plan.select_on
    selection.add(_START, plan.run(), plan)
    network.load_state_dict(state)
    selection.add(_KEPT, plan.run(), plan)
    before, after = (found[metric] for _, found in selection.history)
    points = {f"forgetting/start/{metric}": before, f"forgetting/kept/{metric}": after}
    context.metrics(spec.steps, points)
    verdict = monitor.gate_of(selection, _KEPT, _KEPT)
    if verdict is None:
        raise ValueError("a look without a verdict")  # there are labels
    return forgetting.judge(str(asked.forgetting), metric, before, after, verdict)
