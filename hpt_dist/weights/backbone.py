"""A backbone with weights: public ones, or those of a finished trial in a store."""

from __future__ import annotations

import logging

from hpt_dist.errors import RequestError
from hpt_dist.networks import backbones
from hpt_dist.networks.backbones import Backbone
from hpt_dist.store import Store, committed, open_store
from hpt_dist.weights import match
from hpt_dist.weights.files import StateDict, read

log = logging.getLogger(__name__)

_TRIAL = "trial/"


def load_backbone(
    name: str, weights: str = "random", *, store: str = ".", force: bool = False
) -> Backbone:
    """Return a backbone: a module that maps images [b, 3, h, w] to features [b, feature_dim].

    The log (`logging`, level INFO) reports which entries match.

    Args:
        name: as in a recipe: `timm/NAME`, `torchvision/NAME` or NAME.
        weights: as in a recipe, such as `timm/NAME` or a file; or `trial/KEY`, the key of a
            finished trial. Random values come from torch's generator.
        store: URI of the store that holds the trial, or the file of a relative path.
        force: accept weights of which entries are missing, misshapen or of other layers; what the
            backbone lacks stays random.

    Raises:
        RequestError: the model, file or finished trial does not exist.
        WeightsError: the weights cannot be downloaded, are damaged, or do not fit.
        StoreError: the trial's objects are damaged.
    """
    opened = open_store(store)
    if weights.startswith(_TRIAL):
        state = _of_trial(weights.removeprefix(_TRIAL), backbones.resolve(name), opened)
    else:
        state, report = match.load(weights, name, opened, force=force)
        log.info("%s", report)
    backbone = backbones.create(name)
    backbone.load_state_dict(state)
    return backbone


def _of_trial(key: str, full_name: str, store: Store) -> StateDict:
    if not committed.is_done(store, key):
        raise RequestError(f"no finished trial has the key {key} in {store.uri}")
    if committed.WEIGHTS not in committed.digests(store, key):
        raise RequestError(
            f"the trial {key} left no backbone", allowed="a stage of kind import or pretrain"
        )
    state, metadata = read(committed.read(store, key, committed.WEIGHTS))
    if backbones.resolve(metadata["backbone"]) != full_name:
        raise RequestError(
            f"the trial {key} left another backbone", where=full_name, allowed=metadata["backbone"]
        )
    return state
