"""A trial: one concrete point of one stage, and the key of its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpt_dist.recipe.differences import word
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.stage import CANDIDATES, StageSpec
from hpt_dist.recipe.numerics import DeviceKind, Numerics
from hpt_dist.recipe.sweeps import Axis


@dataclass(frozen=True)
class Trial:
    """One concrete point of one stage.

    Args:
        name: `stage/axis=value,...`, for people.
        stage: name of its stage.
        axes: the swept settings, those inherited from parents included.
        inherited: the names of the inherited axes, `stage.axis`.
        spec: its resolved settings; `init` names the parent stage.
        init: key of the trial whose weights it starts from; empty for imports.
        datasets: the datasets it reads, by the recipe's names.
        backbone: model name.
        document: what is hashed.
        key: SHA-256 of the document.
        device: what it computes on; a process that has no such device refuses it.
        is_candidate: whether validation chooses it, or another: it reads no test.
        candidates: those that it chooses from, in the order that breaks ties; its spec is that of
            the first. Empty where it computes its own result.
        compared: keys by name of the finished trials that it looks at; see `StageSpec.compared`.
        starts: those whose backbones its candidates judge, in their order; empty where all of them
            start from the same one, as it does itself.
        base: key of the trial that all of `starts` go back to; empty where there is none.
    """

    name: str
    stage: str
    axes: Mapping[str, Axis]
    inherited: frozenset[str]
    spec: StageSpec
    init: str
    datasets: Mapping[str, DatasetFacts]
    backbone: str
    document: Mapping[str, Any]
    key: str
    device: DeviceKind = "cpu"
    is_candidate: bool = False
    candidates: tuple[Trial, ...] = ()
    compared: Mapping[str, str] = field(default_factory=dict)
    starts: tuple[Trial, ...] = ()
    base: str = ""

    @property
    def recipe_stage(self) -> str:
        """The stage of the recipe that it belongs to, which a candidate's own name is not."""
        return self.stage.removesuffix(CANDIDATES)

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the trials that must be done before it starts."""
        started = (self.init,) if self.init else ()
        return (*started, *(one.key for one in self.candidates), *self.compared.values())

    @property
    def choices(self) -> tuple[str, ...]:
        """What tells its candidates apart, in words."""
        return tuple(
            axes_text({name: value for name, value in one.axes.items() if name not in self.axes})
            for one in self.candidates
        )

    @property
    def numerics(self) -> Numerics | None:
        """How it trains; None where nothing is trained step by step."""
        return self.spec.numerics

    @property
    def steps(self) -> int:
        """The optimizer steps of its training; 0 where nothing is trained step by step."""
        return 0 if self.candidates else self.spec.steps_on(self.datasets)

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return 0 if self.candidates else self.spec.images_on(self.datasets)


def key_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a document in canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def axes_text(axes: Mapping[str, Axis]) -> str:
    """Return swept settings as they stand in a trial's name."""
    return ",".join(f"{axis}={word(value)}" for axis, value in axes.items())
