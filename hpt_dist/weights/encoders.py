"""Find the backbone in a file: training saves heads, key encoders and queues beside it.

The names identify it under any prefix: the backbone is where `PREFIX.conv1.weight` and all its
other entries are. Among several candidates, the words in the prefix choose the encoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hpt_dist.errors import RequestError
from hpt_dist.page import one_line
from hpt_dist.weights.dialects import LABELS, Names
from hpt_dist.weights.headers import Entry

# A part of a prefix -> the project, the encoder, and whether it is the default: the one that its
# authors evaluate. Read in public code: moco, moco-v3 and dino of facebookresearch,
# open-mmlab/OpenSelfSup, lucidrains/byol-pytorch, sthalles/PyTorch-BYOL,
# Lightning-Universe/lightning-bolts, vturrisi/solo-learn, lightly-ai/lightly, timm's train script.
_PARTS = {
    "encoder_q": ("MoCo", "query", True),
    "encoder_k": ("MoCo", "key", False),
    "base_encoder": ("MoCo v3", "query", True),
    "momentum_encoder": ("MoCo v3", "key", False),
    "teacher": ("DINO", "teacher", True),
    "student": ("DINO", "student", False),
    "teacher_backbone": ("DINO", "teacher", True),
    "student_backbone": ("DINO", "student", False),
    "online": ("BYOL", "online", True),
    "online_net": ("BYOL", "online", True),
    "online_encoder": ("BYOL", "online", True),
    "online_network": ("BYOL", "online", True),
    "online_network_state_dict": ("BYOL", "online", True),
    "target": ("BYOL", "target", False),
    "target_net": ("BYOL", "target", False),
    "target_encoder": ("BYOL", "target", False),
    "target_network": ("BYOL", "target", False),
    "target_network_state_dict": ("BYOL", "target", False),
    "momentum_backbone": ("solo-learn", "key", False),
    "backbone_momentum": ("lightly", "key", False),
    "model_ema": ("", "average", False),
    "state_dict_ema": ("", "average", False),
}
# The names of modules on top of a backbone: left aside without a warning.
_HEADS = frozenset(
    {
        *("fc", "_fc", "head", "heads", "classifier", "linear", "neck", "prototypes"),
        *("projector", "projection_head", "predictor", "prediction_head"),
        *("momentum_projector", "projection_head_momentum", "prediction_head_momentum"),
        *("queue", "queue_ptr"),
    }
)
# What training and older libraries save inside a network and no forward pass reads.
_HARMLESS = frozenset(
    {
        *("num_batches_tracked", "mask_token", "attn_mask", "total_ops", "total_params"),
        *("relative_position_index", "relative_coords_table", "position_ids"),
    }
)
# The beginnings of the names of layers that stand between the images and the features.
_LAYERS = ("conv", "bn", "norm", "ln_", "layer", "block", "stage", "stem", "pos", "patch")
_CLEARLY = 0.9  # of the best candidate's share
_MOST = 64  # candidates; a checkpoint of any project has less than ten


@dataclass(frozen=True)
class Encoder:
    """A backbone's place in a file.

    Args:
        dialect: the naming of its entries, see `dialects`.
        prefix: of each entry's name, with the last dot; may be empty.
        project: the project that trained it, or empty.
        name: which encoder it is, such as `teacher`, or empty.
        share: of the backbone's entries that are there in their shape.
    """

    dialect: str
    prefix: str
    project: str = ""
    name: str = ""
    share: float = field(default=0.0, compare=False)

    @property
    def place(self) -> str:
        """Its place in the file, which chooses it behind the file's name."""
        return self.prefix.rstrip(".") or "."

    def __str__(self) -> str:
        origin = self.project or ("plain" if not self.name else "")
        words = [origin] if origin else []
        words += [f"{self.name} encoder"] if self.name else []
        words += [LABELS[self.dialect]]
        return ", ".join(words) + (f", under {one_line(self.prefix[:-1])}" if self.prefix else "")


def find(
    entries: Mapping[str, Entry],
    dialects: Mapping[str, Names],
    shapes: Mapping[str, tuple[int, ...]],
    choice: str = "",
) -> tuple[Encoder, tuple[Encoder, ...]]:
    """Return the backbone's place in a file, and the other places that could be chosen.

    Args:
        entries: of the file by full name, such as `state_dict.module.encoder_q.fc.bias`.
        dialects: see `dialects.dialects_of`.
        shapes: of the backbone's entries.
        choice: an encoder's name or a prefix, `.` for no prefix; empty for the default.

    Raises:
        RequestError: the file has no encoder of that name.
    """
    share: dict[tuple[str, str], float] = {}
    for dialect, names in dialects.items():
        for prefix, count in _prefixes(entries, names, shapes).items():
            share[dialect, prefix] = count / len(names)
    best = max(share.values(), default=0.0)
    clear = [place for place, value in share.items() if value >= _CLEARLY * best]
    taken: dict[str, Encoder] = {}  # a prefix has one dialect, the first that fits
    for dialect, prefix in sorted(clear, key=lambda place: (-share[place], place[1])):
        taken.setdefault(prefix, _named(dialect, prefix, share[dialect, prefix]))
    encoders = sorted(
        taken.values(),
        key=lambda at: (_rank(at), -at.share, len(at.prefix), at.prefix),
    )[:_MOST]
    if choice:
        chosen = [at for at in encoders if choice in (at.name, at.place)]
        if not chosen:
            known = dict.fromkeys(at.name or one_line(at.place) for at in encoders)
            one = known.keys() <= {"."}
            raise RequestError(
                f"this file has no encoder {choice!r}",
                allowed="no choice: there is one encoder" if one else ", ".join(known),
            )
        encoders = [*chosen, *(at for at in encoders if at not in chosen)]
    elif not encoders:
        encoders = [Encoder(next(iter(dialects)), "")]
    return encoders[0], tuple(encoders[1:])


def rivals(at: Encoder, others: Iterable[Encoder]) -> list[Encoder]:
    """Return the other places that nothing sets behind the chosen one: neither name nor fit."""
    return [one for one in others if (_rank(one), one.share) == (_rank(at), at.share)]


def split_rest(
    entries: Iterable[str], taken: set[str], at: Encoder, others: Iterable[Encoder], heads: set[str]
) -> tuple[list[str], list[str], list[str]]:
    """Sort a file's other entries into those left aside, unexpected ones, and those of layers.

    An entry of a layer that the backbone has not shows that the file is of another, mostly of a
    deeper network, although all of the backbone's names are in it.

    Args:
        entries: full names of the file's entries.
        taken: the entries that belong to the backbone.
        at: the backbone's place.
        others: the other places that could be chosen.
        heads: modules of the backbone's classifier.

    Returns:
        The entries left aside, as `PLACE (N entries)`; and without prefix the unexpected names, and
        those of layers.
    """
    roots = sorted((other.prefix for other in others if other.prefix), key=len, reverse=True)
    depth = at.prefix.count(".") + 1
    aside: Counter[str] = Counter()
    unexpected, layers = [], []
    tops = {name.removeprefix(at.prefix).split(".")[0] for name in taken}
    for name in entries:
        if name in taken:
            continue
        inside = name.removeprefix(at.prefix)
        root = next((root for root in roots if name.startswith(root)), "")
        is_inside = name.startswith(at.prefix)
        if root and not (is_inside and len(root) <= len(at.prefix)):
            aside[root[:-1]] += 1
        elif not is_inside or _is_head(inside, heads):
            aside[".".join(name.split(".")[:depth])] += 1
        elif _is_layer(inside, tops):
            layers.append(inside)
        else:
            unexpected.append(inside)
    return [f"{place} ({count})" for place, count in aside.items()], unexpected, layers


def _prefixes(
    entries: Mapping[str, Entry], names: Names, shapes: Mapping[str, tuple[int, ...]]
) -> Counter[str]:
    """Count, for each prefix, the backbone's entries that exist under it in their shape."""
    by_name = {parts[0]: (name, len(parts)) for name, parts in names.items()}
    counts: Counter[str] = Counter()
    for name, tensor in entries.items():
        start = 0
        while True:
            if known := by_name.get(name[start:]):
                own_name, parts = known
                shape = tuple(tensor.shape)
                # The parts of one entry have equal shares of its first dimension.
                joined = (parts * shape[0], *shape[1:]) if parts > 1 and shape else shape
                counts[name[:start]] += joined == shapes[own_name]
            start = name.find(".", start) + 1
            if not start:
                break
    return +counts


def _named(dialect: str, prefix: str, share: float) -> Encoder:
    for part in prefix.split("."):
        if part in _PARTS:
            project, name, _ = _PARTS[part]
            return Encoder(dialect, prefix, project, name, share)
    project = {"simclr_v2": "SimCLR v2", "haiku": "BYOL"}.get(dialect, "")
    return Encoder(dialect, prefix, project, share=share)


def _rank(at: Encoder) -> int:
    """Return 0 for a known default, 1 for an unnamed encoder, 2 for a known non-default."""
    defaults = [_PARTS[part][2] for part in at.prefix.split(".") if part in _PARTS]
    if not defaults:
        return 1
    return 0 if defaults[0] else 2


def _is_head(inside: str, heads: set[str]) -> bool:
    first = inside.split(".")[0]
    return first in _HEADS or any(inside.startswith(f"{head}.") for head in heads)


def _is_layer(inside: str, tops: set[str]) -> bool:
    """Return whether an entry is of a layer that changes features, to judge by its name."""
    first, last = inside.split(".")[0], inside.rpartition(".")[2]
    if last in _HARMLESS:
        return False
    return first in tops or first.startswith(_LAYERS) or last.endswith(("_token", "_tokens"))
