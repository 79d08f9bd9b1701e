"""The page beside pulled weights: the lines of Python that load them, and how images go in.

It is text alone: no line of it needs torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.store.committed import HEAD, MODEL, REPLICATES, WEIGHTS

FILE = "loading.md"
# How the weights that an evaluation judged are called beside its classifier.
BACKBONE = "backbone.safetensors"

_CLASSIFIER = """\
## The classifier

```python
{lines}
```

It prints {prints}. `classifier.probabilities("image.jpg")` gives the probability of
each class, `classifier.prepared([...])` images as the network reads them, and `classifier(...)` the
scores of their classes.
"""
_ONE_LABEL = {"call": "classify", "prints": "the name of the class"}
_SEVERAL = {"call": "labels", "prints": "the classes of 0.5 or more (`threshold=`)"}

_PLAIN_HEAD = """\
## The classifier without hpt-dist

{features}, [b, d], give scores of the classes, [b, classes]:

```python
import json

import torch
from safetensors import safe_open

with safe_open({head}, framework="pt") as file:
    {tensors}
    classes = json.loads(file.metadata()["classes"])


{function}```
"""
_OF_LINEAR = 'weight, bias = file.get_tensor("weight"), file.get_tensor("bias")'
# By similarity to prototypes; the temperature changes probabilities, and no answer.
_OF_PROTOTYPES = """\
names = ("embedding.weight", "embedding.bias", "prototypes.weight")
    weight, bias, prototypes = map(file.get_tensor, names)
    temperature = json.loads(file.metadata()["temperature"])"""
_CLASSIFY = """\
def classify(features):
    scores = torch.nn.functional.linear(features, weight, bias)
    return [classes[best] for best in scores.argmax(1).tolist()]
"""
_CLASSIFY_BY_PROTOTYPES = """\
def classify(features):
    embedded = torch.nn.functional.linear(features, weight, bias)
    scores = torch.nn.functional.normalize(embedded, dim=1) @ prototypes.T / temperature
    return [classes[best] for best in scores.argmax(1).tolist()]
"""
_LABELS = """\
def labels(features, threshold=0.5):
    scores = torch.nn.functional.linear(features, weight, bias)
    return [[classes[c] for c in row.nonzero()[:, 0]] for row in scores.sigmoid() >= threshold]
"""
_FEATURES = {
    "pool": "The features of the backbone below",
    "cls": "The last class tokens of the backbone below, a ViT",
    "mean": "The means of the last tokens of the backbone below, without those before the patches",
    "cls+mean": "The last class tokens of the backbone below, then the means of the others",
}

_OWN = """\
## The backbone

```python
import hpt_dist

backbone = hpt_dist.load_backbone({name}, weights={file}).eval()
```
"""

_TIMM = """\
## The backbone in timm

```python
{imports}

backbone = timm.create_model({model}, num_classes=0).eval()
backbone.load_state_dict({load})
```

Transformers for other sizes of images also take `dynamic_img_size=True`.
"""

_TORCHVISION = """\
## The backbone in torchvision

```python
{imports}

backbone = torchvision.models.get_model({model}).eval()
classifier = backbone.load_state_dict({load}, strict=False).missing_keys[0]
backbone.set_submodule(classifier.rpartition(".")[0], torch.nn.Identity())
```

It gives features: the classifier, which these weights do not have, is taken away.
"""

# The entries of a fine-tuned model that are its backbone's.
_FROM_MODEL = """{{
    name.removeprefix("backbone."): value
    for name, value in load_file({file}).items()
    if name.startswith("backbone.")
}}"""

_ELSEWHERE = {
    "detectron2": """\
## The backbone in detectron2

`MODEL.WEIGHTS: {file}`, with `RESNETS.STRIDE_IN_1X1: False` and `INPUT.FORMAT: "RGB"`.
""",
    "moco": """\
## The backbone in MoCo's scripts

`main_lincls.py --pretrained {file}`
""",
    "huggingface": """\
## The backbone in Hugging Face's transformers

`ResNetModel.from_pretrained("{file}")`, or of a transformer
`ViTModel.from_pretrained("{file}", add_pooling_layer=False)`
""",
}

_NO_WEIGHTS = (
    *(HEAD, MODEL, REPLICATES),
    *("spec.json", "result.json", "run.json", "metrics.jsonl"),
)

_MODELS = {
    "mme": """\
## The adapted classifier

`{file}` holds the whole network of Minimax Entropy, by the prefix of its names: `backbone.`, then
`embedding.` (a linear layer) and `prototypes.` (a linear layer without bias, on embeddings of
length 1). The largest score is the class. `safetensors.torch.load_file` loads it.
""",
    "detect": """\
## The detector

`{file}` holds the whole network: `backbone.`, with the names of its library, and the parts of
torchvision that make boxes of it: `rpn.`, `roi_heads.`, and `fpn.` of a pyramid. Class 0 of its
predictors is the background. `hpt-dist pull --format torchvision` (of an fpn) or `detectron2`
writes it under their names, too; docs/detection.md of hpt-dist has the settings beside it.
""",
}


def three_lines(folder: Path, *, several: bool) -> tuple[str, ...]:
    """Return the lines of Python that load a pulled classifier and classify an image by it.

    Args:
        folder: where it is.
        several: whether the labels that it gives are several an image.
    """
    call = (_SEVERAL if several else _ONE_LABEL)["call"]
    load = f"classifier = hpt_dist.load_classifier({_literal(folder)})"
    return "import hpt_dist", load, f'print(classifier.{call}("image.jpg"))'


def text(
    trial: str,
    launch: str,
    spec: Mapping[str, Any],
    folder: Path,
    names: Sequence[str],
    file_format: str,
    *,
    several: bool = False,
    average: str = "",
) -> str:
    """Return the page for some pulled files; empty where none of them is loaded.

    Args:
        trial: whose files they are.
        launch: of the trial.
        spec: its spec.json.
        folder: where they are.
        names: of the files, below the folder.
        file_format: of the backbone: one of `source.FORMATS`.
        several: whether the labels that its classifier gives are several an image.
        average: which average of two weights its backbone is; empty where it is none.
    """
    backbone = str(spec["backbone"])
    settings = spec.get("spec", {})
    parts = []
    kind = str(settings.get("kind", ""))
    if HEAD in names:
        parts += _of_classifier(settings, folder, several=several, by_prototypes=kind in _MODELS)
    for name in names if kind != "detect" else ():
        parts += _of_backbone(backbone, folder, name, file_format)
    if MODEL in names and HEAD in names:
        parts += _plain(*_library(backbone), _FROM_MODEL.format(file=_literal(folder / MODEL)))
    elif MODEL in names and kind in _MODELS:
        parts.append(_MODELS[kind].format(file=folder / MODEL))
    if not parts:
        return ""
    title = f"# How to load {trial}\n\nOf the launch `{launch}`, backbone `{backbone}`.\n"
    if average:
        title += f"\nThese weights are an average, {average}: no step of the training left them.\n"
    squash = bool(settings.get("squash", False))
    images = "" if kind == "detect" else _images(spec.get("image", {}), squash=squash)
    return "\n".join([title, *parts, images])


def _of_classifier(
    settings: Mapping[str, Any], folder: Path, *, several: bool, by_prototypes: bool
) -> list[str]:
    """Return the parts for a head: by hpt-dist, and without it."""
    lines = three_lines(folder, several=several)
    prints = (_SEVERAL if several else _ONE_LABEL)["prints"]
    where = str(settings.get("features", "pool"))
    inner = f"The output of the part `{where}` of the backbone below, its mean over positions"
    plain = _LABELS if several else _CLASSIFY
    return [
        _CLASSIFIER.format(lines="\n".join([lines[0], "", *lines[1:]]), prints=prints),
        _PLAIN_HEAD.format(
            features=_FEATURES.get(where, inner),
            head=_literal(folder / HEAD),
            tensors=_OF_PROTOTYPES if by_prototypes else _OF_LINEAR,
            function=_CLASSIFY_BY_PROTOTYPES if by_prototypes else plain,
        ),
    ]


def _of_backbone(backbone: str, folder: Path, name: str, file_format: str) -> list[str]:
    """Return the parts for a file of weights; none if it is no backbone."""
    file = _literal(folder / name)
    if name in (WEIGHTS, BACKBONE):
        own = _OWN.format(name=_literal(backbone), file=file)
        return [own, *_plain(*_library(backbone), f"load_file({file})")]
    path = PurePosixPath(name)
    if path.suffix == ".parquet" or path.name in ("config.json", *_NO_WEIGHTS):
        return []
    if file_format in _ELSEWHERE:
        whole = "huggingface" if file_format == "huggingface" else name
        return [_ELSEWHERE[file_format].format(file=folder / whole)]
    load = f"torch.load({file}, weights_only=True)"
    return _plain(file_format, PurePosixPath(name).stem, load)


def _library(backbone: str) -> tuple[str, str]:
    """Return the library of a backbone and its name there."""
    library, _, model = backbone.rpartition("/")
    return library, model


def _plain(library: str, model: str, load: str) -> list[str]:
    """Return the part that loads weights by a library's own functions; none of another library."""
    template = {"timm": _TIMM, "torchvision": _TORCHVISION}.get(library)
    if template is None:
        return []
    modules = {library} | ({"torch"} if "torch." in template + load else set())
    imports = [f"import {name}" for name in sorted(modules)]
    if "load_file" in load:
        imports += ["from safetensors.torch import load_file"]
    return [template.format(imports="\n".join(imports), model=_literal(model), load=load)]


def _images(image: Mapping[str, Any], *, squash: bool) -> str:
    if not image:
        return ""
    size, normalize = image["size"], image["normalize"]
    mean, std = NORMALIZE.get(normalize, (None, None))
    by = f"{mean} and {std}" if mean else "those of the datasets (`hpt-dist data show`)"
    middle, lines = _middle(int(size), squash=squash)
    return f"""\
## Images

RGB, upright; {middle}, resized to {size} pixels; values divided by
255, then normalised by mean and standard deviation: {by}.

    # image = PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB")
{lines}
    pixels = image.resize(({size}, {size}), PIL.Image.Resampling.BILINEAR, box=box)
"""


def _middle(size: int, *, squash: bool) -> tuple[str, str]:
    """Return which part of an image is taken, in words and as lines of Python."""
    if not squash:
        return (
            "the central square, 7/8 of the short side",
            """\
    side = min(image.size) * 7 / 8
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = left, top, left + side, top + side""",
        )
    from hpt_dist.images.crops import squashed_box  # it imports NumPy

    left, _, right, _ = squashed_box(1, 1, size, 0.5, 0.5)
    return (
        "the middle, about 7/8 of both sides and squashed to a square",
        f"""\
    left, right = {left!r}, {right!r}
    box = left * image.width, left * image.height, right * image.width, right * image.height""",
    )


def _literal(value: Path | str) -> str:
    """Return a text as Python writes it."""
    return json.dumps(str(value), ensure_ascii=False)
