"""What every kind of stage declares; a kind is one file of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.numerics import Device, Numerics, decide
from hpt_dist.recipe.settings import (
    MAX_BAD,
    OPERATIONAL,
    MaxBad,
    Positive,
    Resources,
    Spec,
    result_fields,
)

# What the name of a stage gets for the trials that validation chooses from.
CANDIDATES = ".candidates"


@dataclass(frozen=True)
class Read:
    """A split that a stage reads.

    Args:
        setting: the setting that names it.
        split: dataset/split, dataset/split@subset or dataset/split@10%, by the recipe's names.
        labelled: whether its labels are needed.
        normalizes: whether its mean and std are among those of `normalize: dataset`.
        several: whether several labels an image will do.
        boxes: whether the labels that are needed are objects in boxes.
    """

    setting: str
    split: str
    labelled: bool = False
    normalizes: bool = True
    several: bool = False
    boxes: bool = False


@dataclass(frozen=True)
class Fault:
    """Why a stage cannot run as it is written.

    Args:
        setting: the one to change.
        what: the fault.
        allowed: what would be right; empty if that does not help.
        fix: what to do; empty if that is plain.
    """

    setting: str
    what: str
    allowed: str = ""
    fix: str = ""


class StageSpec(Spec):
    """The settings of every stage, and what other code asks of any kind.

    A kind sets the constants and answers the questions that differ from these answers; its settings
    are fields, and `kind` is one of them.
    """

    # Raised by hand when a kind's code gives another result for the same settings.
    VERSION: ClassVar[int]
    # A backbone, which another stage can start from; or a whole model; or nothing but a result.
    LEAVES: ClassVar[Literal["weights", "model", ""]] = ""
    # Whether it trains the network step by step, by as many ranks as it is given.
    TRAINS: ClassVar[bool] = False
    # Whether it judges frozen features, so that its results show what a backbone is worth.
    JUDGES: ClassVar[bool] = False
    # Whether validation can choose among its trials; `stages` then says how one reads test.
    CHOOSES: ClassVar[bool] = False
    USES_GPU: ClassVar[bool] = True
    # Whether a report's page shows what a trial leaves beside its metrics; see `launch.exhibited`.
    SHOWS: ClassVar[bool] = False
    # What its trials are measured by, which a report may ask for; empty where that is not known.
    METRICS: ClassVar[tuple[str, ...]] = ()
    # The settings that name a dataset or dataset/split.
    DATA: ClassVar[tuple[str, ...]] = ()

    kind: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    resources: Resources = Field(
        Resources(), description="wishes on a cluster", json_schema_extra=OPERATIONAL
    )

    @property
    def parent(self) -> str:
        """The stage whose backbone it starts from; empty without one."""
        return str(getattr(self, "init", ""))

    @property
    def compared(self) -> tuple[str, ...]:
        """The stages whose finished trials it looks at, each of them; empty for none."""
        return ()

    def compared_faults(
        self,
        trials: Mapping[str, Sequence[StageSpec]],  # noqa: ARG002
    ) -> list[Fault]:
        """Return why it cannot compare what it looks at.

        Args:
            trials: by name, the settings of each, or of all that it chooses from.
        """
        return []

    @property
    def imported(self) -> str:
        """Where it takes somebody else's weights from; empty for none."""
        return ""

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return 0

    def steps_on(self, datasets: Mapping[str, DatasetFacts]) -> int:  # noqa: ARG002
        """Return the optimizer steps of its training on datasets; 0 without any, or unknown."""
        return int(getattr(self, "steps", 0))

    def images_on(self, datasets: Mapping[str, DatasetFacts]) -> int:  # noqa: ARG002
        """Return how many image views of datasets it feeds to the network in training."""
        return self.images

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int | None:  # noqa: ARG002
        """Return the most images that it decodes beside those of training; None if unknown."""
        return 0 if not self.reads() else None

    @property
    def numerics(self) -> Numerics | None:
        """How it trains, once that is decided; None where nothing is trained step by step."""
        return None

    def decided(self, backbone: str, device: Device) -> Self:  # noqa: ARG002 - for who trains
        """Return this spec with its numerics decided: its document then holds how it computes.

        Raises:
            RequestError: the device cannot compute so.
        """
        return self

    def tries(self) -> tuple[StageSpec, ...]:
        """Return the settings of what it chooses from by itself; empty for a kind that does not."""
        return ()

    def reads(self) -> list[Read]:
        """Return every split that it reads."""
        return []

    def result_fields_on(self, datasets: Mapping[str, DatasetFacts]) -> dict[str, Any]:  # noqa: ARG002
        """Return the settings that determine its result on datasets: what its key is made of."""
        return result_fields(self)

    def kept_back(self) -> frozenset[str]:
        """Return the splits that a candidate must not read: the test splits of what judges it.

        One that only a setting names word for word, as a source to learn from, is not among them.
        """
        return frozenset(
            read.split
            for read in self.reads()
            if read.split.partition("/")[2] == "test" and not self._names(read)
        )

    def choice_faults(self) -> list[Fault]:
        """Return why validation cannot choose it: the settings by which it would read a test."""
        return [
            Fault(read.setting, f"{read.split} is what the chosen is judged by in the end")
            for read in self.reads()
            if self._names(read) and read.split.partition("@")[0] in self.kept_back()
        ]

    def _names(self, read: Read) -> bool:
        """Return whether a setting names a split word for word."""
        named = getattr(self, read.setting, None)
        return read.split in named if isinstance(named, tuple) else named == read.split

    def batches(self) -> dict[str, int]:
        """Return the images of each batch that its ranks share out, by the batch's setting."""
        return {}

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:  # noqa: ARG002
        """Return what does not fit the datasets, which have all that `reads` asks for.

        Args:
            datasets: by the recipe's names.
        """
        return []

    def backbone_faults(self, backbone: str) -> list[Fault]:  # noqa: ARG002
        """Return what does not fit the recipe's backbone, as far as its name tells."""
        return []

    def doubts(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:  # noqa: ARG002
        """Return what would run and is hardly meant; see `faults`."""
        return []

    def rank_faults(self, ranks: int) -> list[Fault]:
        """Return why its batches cannot be shared out over a number of ranks."""
        return [
            Fault(
                setting,
                f"a batch of {images} images cannot be shared out over {ranks} ranks",
                fix=f"use ranks that divide {images}",
            )
            for setting, images in self.batches().items()
            if images % ranks
        ]

    def remark(self) -> str:
        """Return what the reader of a plan is to know that the settings do not say plainly."""
        return ""

    def remark_on(self, datasets: Mapping[str, DatasetFacts]) -> str:  # noqa: ARG002
        """Return `remark`, with what only its datasets tell."""
        return self.remark()


class Trained(StageSpec):
    """The settings of every stage that trains by gradients."""

    TRAINS: ClassVar[bool] = True

    init: str = Field(description="the stage whose backbone this one starts from")
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="whether the backbone's batch-norm statistics move"
    )
    head_warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="first steps in which the backbone is frozen and only the head learns"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the network's passes; auto is float32 on a CPU and bfloat16 on a GPU, or "
        "what the profile sets",
    )
    memory_format: Literal["auto", "channels_last", "contiguous"] = Field(
        "auto",
        description="of images and weights; auto is channels_last for convolutional networks",
    )
    max_bad: MaxBad = MAX_BAD
    checkpoint_every: Positive = Field(
        500, description="steps between saved states", json_schema_extra=OPERATIONAL
    )

    @property
    def numerics(self) -> Numerics:
        """How it trains.

        Raises:
            ValueError: this spec is one that a recipe was read into: nothing is decided yet.
        """
        if self.precision == "auto" or self.memory_format == "auto":
            raise ValueError("the numerics of this spec are not decided yet")
        return Numerics(self.precision, self.memory_format)

    def decided(self, backbone: str, device: Device) -> Self:
        """Return this spec with precision and memory format decided; see `numerics.decide`.

        Raises:
            RequestError: the device cannot compute so.
        """
        chosen = decide(self.precision, self.memory_format, backbone, device)
        decided = {"precision": chosen.precision, "memory_format": chosen.memory_format}
        return self.model_copy(update=decided)


def mask_faults(setting: str, dataset: DatasetFacts, allowed: str) -> list[Fault]:
    """Return that the objects of a dataset have no masks, which a stage needs.

    Args:
        setting: the one that asks for masks.
        dataset: a dataset with boxes.
        allowed: what the setting may be, in words.
    """
    if dataset.masks:
        return []
    fix = "shard it again with --boxes, from annotations in which every object has a mask"
    return [Fault(setting, f"the objects of {dataset.name} have no masks", allowed, fix)]


def images_of(datasets: Mapping[str, DatasetFacts], split: str) -> int:
    """Return the images of a dataset/split, which its dataset has."""
    alias, _, name = split.partition("/")
    return datasets[alias].images[name]


def group_faults(
    batch: int, bn_group: int | None, ranks: int, *, interleaved: bool = False
) -> list[Fault]:
    """Return why batch-norm groups do not fit the images that each rank has.

    Args:
        batch: images of a step.
        bn_group: images that share statistics; None is the whole batch.
        ranks: that share the batch; they divide it.
        interleaved: whether every rank holds some images of each group.
    """
    share, size = batch // ranks, bn_group or batch
    fits = size % share == 0 or share % size == 0
    if size == batch or (fits and not (interleaved and share % (batch // size))):
        return []
    what = f"batch-norm groups of {size} do not fit the {share} images that each rank has"
    return [Fault("bn_group", what, fix="use another number of ranks, or another bn_group")]
