"""Averages of the start and the last step, looked at after the training: the gate may keep one.

They are computed anew by whoever comes back after a kill, from the last step's saved state and the
start's committed weights, so they are the same bits.
"""

from __future__ import annotations

import logging

from hpt_dist.recipe import Pretrain
from hpt_dist.stages import monitor
from hpt_dist.stages.trained import Training
from hpt_dist.train.averages import Average, averaged, in_words
from hpt_dist.train.selection import Selection

log = logging.getLogger(__name__)


def choose(training: Training, spec: Pretrain, selection: Selection) -> str:
    """Look at validation with each average; select it where it is better than all before it.

    A collective call.

    Args:
        training: that is at its last step.
        spec: its settings.
        selection: of the looks so far, which gets those at averages.

    Returns:
        Which weights validation chose, in words; empty where there are no averages to choose.
    """
    if not spec.averages:
        return ""
    context, network = training.context, training.start()
    base = {name: value.cpu().clone() for name, value in network.state_dict().items()}
    adapted = {name: value.cpu() for name, value in training.backbone.state_dict().items()}
    evaluation = monitor.evaluation_of(
        context, spec, network, training.accelerator, training.replacements
    )
    if evaluation is None:
        raise ValueError("averages without a monitor")  # the settings refuse them
    for share in spec.averages:
        average = Average(share, spec.steps)
        network.load_state_dict(averaged(base, adapted, share))
        found = evaluation.run()
        metric = evaluation.select_on
        log.info("%s: %s %.4f", average, metric, found.metrics[metric])
        named = {f"averages/{share}/{name}": value for name, value in found.metrics.items()}
        context.metrics(spec.steps, named)
        selection.add(average, found, evaluation)
        context.looked(selection)
    kept = selection.best_step
    numbers = {"kept/step": float(kept.step if isinstance(kept, Average) else kept)}
    if isinstance(kept, Average):
        numbers["kept/average"] = kept.share
    context.metrics(spec.steps, numbers)
    return in_words(kept)
