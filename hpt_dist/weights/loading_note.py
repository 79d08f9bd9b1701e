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
import hpt_dist

classifier = hpt_dist.load_classifier({folder})
print(classifier.classify("image.jpg"))
```

It prints the name of the class. `classifier.prepared([...])` gives images as the network reads
them, and `classifier(...)` the scores of their classes.
"""

_PLAIN_HEAD = """\
## The classifier without hpt-dist

The features of the backbone below, [b, d], give scores of the classes, [b, classes]:

```python
import json

import torch
from safetensors import safe_open

with safe_open({head}, framework="pt") as file:
    weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    classes = json.loads(file.metadata()["classes"])


def classify(features):
    scores = torch.nn.functional.linear(features, weight, bias)
    return [classes[best] for best in scores.argmax(1).tolist()]
```
"""

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
    "finetune": """\
## The fine-tuned classifier

`{file}` holds the whole network, by the prefix of its names: `backbone.`, then `head.` (a linear
layer on the features). Of one label an image the largest score is the class; of several, an image
has the classes whose scores are above 0. `safetensors.torch.load_file` loads it.
""",
}


def text(
    trial: str,
    launch: str,
    spec: Mapping[str, Any],
    folder: Path,
    names: Sequence[str],
    file_format: str,
) -> str:
    """Return the page for some pulled files; empty where none of them is loaded.

    Args:
        trial: whose files they are.
        launch: of the trial.
        spec: its spec.json.
        folder: where they are.
        names: of the files, below the folder.
        file_format: of the backbone: one of `source.FORMATS`.
    """
    backbone = str(spec["backbone"])
    parts = []
    if HEAD in names:
        parts += [
            _CLASSIFIER.format(folder=_literal(folder)),
            _PLAIN_HEAD.format(head=_literal(folder / HEAD)),
        ]
    for name in names:
        parts += _of_backbone(backbone, folder, name, file_format)
    kind = str(spec.get("spec", {}).get("kind", ""))
    if MODEL in names and kind in _MODELS:
        parts.append(_MODELS[kind].format(file=folder / MODEL))
    if not parts:
        return ""
    title = f"# How to load {trial}\n\nOf the launch `{launch}`, backbone `{backbone}`.\n"
    return "\n".join([title, *parts, _images(spec.get("image", {}))])


def _of_backbone(backbone: str, folder: Path, name: str, file_format: str) -> list[str]:
    """Return the parts for a file of weights; none if it is no backbone."""
    file = _literal(folder / name)
    if name in (WEIGHTS, BACKBONE):
        library, _, model = backbone.rpartition("/")
        own = _OWN.format(name=_literal(backbone), file=file)
        return [own, *_plain(library, model, f"load_file({file})")]
    path = PurePosixPath(name)
    if path.suffix == ".parquet" or path.name in ("config.json", *_NO_WEIGHTS):
        return []
    if file_format in _ELSEWHERE:
        whole = "huggingface" if file_format == "huggingface" else name
        return [_ELSEWHERE[file_format].format(file=folder / whole)]
    load = f"torch.load({file}, weights_only=True)"
    return _plain(file_format, PurePosixPath(name).stem, load)


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


def _images(image: Mapping[str, Any]) -> str:
    if not image:
        return ""
    size, normalize = image["size"], image["normalize"]
    mean, std = NORMALIZE.get(normalize, (None, None))
    by = f"{mean} and {std}" if mean else "those of the datasets (`hpt-dist data show`)"
    return f"""\
## Images

RGB, the short side resized to {round(size * 256 / 224)} pixels, the central square of {size}
pixels, values divided by 255, then normalised by mean and standard deviation: {by}.
"""


def _literal(value: Path | str) -> str:
    """Return a text as Python writes it."""
    return json.dumps(str(value), ensure_ascii=False)
