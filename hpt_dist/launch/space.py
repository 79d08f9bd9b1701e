"""What a dataset and the trials of a recipe take of a store's disk, before anything is written."""

from __future__ import annotations

import shutil

from hpt_dist.errors import HptError, StoreError
from hpt_dist.images.formats import AS_IT_IS
from hpt_dist.launch.sharding import ShardingRequest
from hpt_dist.launch.survey import Planned
from hpt_dist.sources import Source
from hpt_dist.store import Store
from hpt_dist.weights import source as weights_source

_MB = 1_000_000
# Of a training, each of about four times its weights: moments, a second encoder, projectors.
_STATES, _OF_WEIGHTS = 2, 4


def check(request: ShardingRequest, source: Source, store: Store) -> None:
    """Refuse to begin what surely does not fit. Of images that are encoded anew nobody knows.

    Args:
        request: what will be sharded.
        source: its images.
        store: where to.

    Raises:
        StoreError: the images are larger than what is free.
    """
    if store.folder is None or request.encoding != AS_IT_IS:
        return
    there = next(one for one in (store.folder, *store.folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    images = sum(sample.size_bytes for sample in source.samples())
    written = sum(info.bytes for info in store.list(f"datasets/{request.name}/"))
    if images - written > free:
        raise StoreError(
            f"the images take {images / _MB:,.0f} MB, and {free / _MB:,.0f} MB are free",
            where=store.uri,
            fix="free some space, shrink the images with --resize, or name another --store",
        )


def estimate(prepared: Planned) -> tuple[int, int] | None:
    """Return about how many bytes the trials that are left leave, and how many their states take.

    Both follow from the size of the imported file: an estimate for where no like trial has run.

    Returns:
        (results, states of one training); None where the size of the weights is not known here.
    """
    left = [one for one in prepared.trials if prepared.states[one.key].name != "cached"]
    leaving = sum(one.spec.LEAVES != "" for one in left)
    size = max((_bytes_of(one, prepared.store) for one in prepared.facts.weights), default=0)
    if not size:
        return None
    trains = any(one.spec.TRAINS for one in left)
    return leaving * size, trains * _STATES * _OF_WEIGHTS * size


def _bytes_of(source: str, store: Store) -> int:
    """Return the size of a file of weights; 0 if it is not known before it is downloaded."""
    parsed = weights_source.parse(source)
    if parsed.kind not in ("package", "file"):
        return 0
    try:
        return weights_source.locate(parsed, store)[1].bytes
    except HptError:
        return 0
