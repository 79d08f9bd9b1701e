"""MoCo v2 with ResNet-50 at 224 pixels in bfloat16 on one GPU: `python -m benchmarks.gpu --write`.

The step of `loop.fit` is compared with the bare passes in it (queries both ways, keys forwards),
with torch.compile, with a CUDA graph of the whole step, and with images that come from the host.
The table is kept in `benchmarks/gpu-DEVICE.txt`. Exits 1 when the goal is missed, 2 without CUDA.
`--device cpu --tiny` runs the same code on a tiny network, to see that it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engine_step import OURS, Setting, Step, bare, interleaved, moco
from benchmarks.measure import Row, paired, print_table, versions
from hpt_dist.methods import MoCoV2
from hpt_dist.networks.precision import autocast, torch_format
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.train import optim
from hpt_dist.trial.memory import keep_freed_memory

FULL = Setting(
    "resnet50",
    size=224,
    batch=256,
    queue=65536,
    numerics=Numerics("bfloat16", "channels_last"),
)
TINY = Setting(
    "timm/test_resnet",
    size=32,
    batch=4,
    queue=16,
    numerics=Numerics("bfloat16", "channels_last"),
)
GOAL = 0.9
_MEASURED = ("torch", "torchvision", "timm", "accelerate")
_GIB = 2**30

Views = tuple[Tensor, Tensor]


class Variants:
    """The contestants beside hpt-dist's own loop, and what memory each took.

    Args:
        setting: what is trained.
        backend: of torch.compile.
    """

    def __init__(self, setting: Setting, backend: str) -> None:
        self._setting = setting
        self._backend = backend
        self.memory_gib: dict[str, float] = {}

    def build(self, method: MoCoV2, views: Views) -> Mapping[str, Step]:
        """Return the contestants; one that there is not on this device is left out."""
        numerics, device = self._setting.numerics, views[0].device
        makers: dict[str, Callable[[], Step]] = {
            "passes": lambda: bare(method, views, numerics),
            "step": lambda: self._step(lambda: views),
            "compiled": lambda: self._step(lambda: views, compiled=True),
            "copied in the step": lambda: self._step(self._from_host(device, ahead=False)),
            "copied ahead": lambda: self._step(self._from_host(device, ahead=True)),
        }
        if device.type == "cuda":
            makers["CUDA graph"] = lambda: self._graph(views)
        return {name: self._watched(name, make, device) for name, make in makers.items()}

    def _watched(self, name: str, make: Callable[[], Step], device: torch.device) -> Step:
        """Build a contestant, take two steps, and note the most memory that it had at once."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        step = make()
        for _ in range(2):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self.memory_gib[name] = (torch.cuda.max_memory_allocated(device) - before) / _GIB
        return step

    def _step(self, inputs: Callable[[], Views], *, compiled: bool = False) -> Step:
        """Return what the loop does in a step, and nothing of the loop."""
        setting = self._setting
        views = inputs()
        method = moco(setting, views[0].device)
        if compiled:
            method.backbone.compile(backend=self._backend)
            method.key_backbone.compile(backend=self._backend)
        optimizer = optim.build(method, method.backbone, **setting.optimizer.model_dump())

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            views = inputs()
            with autocast(setting.numerics, views[0].device):
                loss = method(views, 0)
            loss.total.backward()
            optimizer.step()
            method.after_step(1)

        return step

    def _graph(self, views: Views) -> Step:
        """Return the replay of a whole step, with the learning rate that it was recorded at."""
        step = self._step(lambda: views)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()

        def replay() -> object:
            graph.replay()
            return step  # alive as long as the graph, with all that it was recorded on

        return replay

    def _from_host(self, device: torch.device, *, ahead: bool) -> Callable[[], Views]:
        """Return what gives views that lie as bytes in the host's memory.

        Args:
            device: where they are wanted.
            ahead: whether the next ones are copied while this step computes, from pinned memory.
        """
        setting, cuda = self._setting, device.type == "cuda"
        layout = torch_format(setting.numerics)
        shape = (setting.batch, 3, setting.size, setting.size)
        host = [
            torch.randint(256, shape, dtype=torch.uint8).contiguous(memory_format=layout)
            for _ in range(2)
        ]
        if ahead and cuda:
            host = [view.pin_memory() for view in host]
        stream = torch.cuda.Stream() if ahead and cuda else None

        def copied() -> list[Tensor]:
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                return [view.to(device, non_blocking=ahead) for view in host]

        waiting = [copied()] if ahead else []

        def inputs() -> Views:
            if stream:
                torch.cuda.current_stream().wait_stream(stream)
            here = waiting.pop() if ahead else copied()
            first, second = (view.float().div_(255) for view in here)
            if stream:  # their memory is used again only after this step has read them
                for view in here:
                    view.record_stream(torch.cuda.current_stream())
            if ahead:
                waiting.append(copied())
            return first, second

        return inputs


def rows(
    setting: Setting, *, goal: float | None, backend: str, rounds: int, steps: int
) -> Iterator[Row]:
    """Yield the rows of the table.

    Args:
        setting: what is trained.
        goal: the least share of the passes' speed that a step should have.
        backend: of torch.compile.
        rounds: see `interleaved`.
        steps: see `interleaved`.
    """
    variants = Variants(setting, backend)
    seconds = interleaved(setting, variants.build, rounds=rounds, steps=steps)
    texts = {name: _in_words(name, seconds[name], setting, variants.memory_gib) for name in seconds}
    passes = seconds["passes"]
    note = f"{texts[OURS]}; passes {texts['passes']}"
    yield Row("gpu_step_share_of_passes", paired(passes, seconds[OURS]), goal, note)
    yield _share("gpu_step_without_the_loop", passes, seconds["step"], texts["step"])
    yield _share("gpu_step_compiled", passes, seconds["compiled"], texts["compiled"])
    if "CUDA graph" in seconds:
        yield _share("gpu_step_cuda_graph", passes, seconds["CUDA graph"], texts["CUDA graph"])
    else:
        yield Row("gpu_step_cuda_graph", float("nan"), None, "left out: there is no CUDA here")
    resident = seconds["step"]
    for name in ("copied in the step", "copied ahead"):
        row = f"gpu_{name.replace(' ', '_')}_vs_resident"
        yield Row(row, paired(resident, seconds[name]), None, f"uint8 views; {texts[name]}")


def _share(name: str, passes: list[float], seconds: list[float], texts: str) -> Row:
    return Row(f"{name}_share_of_passes", paired(passes, seconds), None, texts)


def _in_words(
    name: str, seconds: list[float], setting: Setting, memory_gib: Mapping[str, float]
) -> str:
    """Return the speed of a contestant, both views counted, and its memory where it is known."""
    middle = statistics.median(seconds)
    said = f"{2 * setting.batch / middle:,.0f} images/s, {middle * 1e3:.1f} ms a step"
    gib = memory_gib.get(name)
    return said if gib is None else f"{said}, {gib:.1f} GiB"


def header(setting: Setting, device: torch.device) -> str:
    """Return what was measured, on what."""
    what = f"# {setting.backbone}, {setting.size} px, batch {setting.batch}, {setting.numerics}"
    if device.type == "cuda":
        what += f"; {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
        what += f", cuDNN {torch.backends.cudnn.version()}"
    return f"{versions(_MEASURED)}\n{what}"


def kept_path(device_name: str) -> Path:
    """Return where the table of a device is kept."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in device_name.lower()).split())
    return Path(__file__).with_name(f"gpu-{slug}.txt")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--batch", type=int, default=0, help="images of each view")
    parser.add_argument("--write", action="store_true", help="keep the table")
    asked = parser.parse_args(arguments)
    cuda = torch.cuda.is_available()
    if asked.device == "cuda" and not cuda:
        print(
            "benchmarks.gpu: torch finds no CUDA device here; run it on a machine with a GPU, or "
            "see that the code runs with --device cpu --tiny",
            file=sys.stderr,
        )
        return 2
    if asked.device == "cpu" and (cuda or not asked.tiny):
        print(
            "benchmarks.gpu: --device cpu is for --tiny, on a machine without a GPU",
            file=sys.stderr,
        )
        return 2
    keep_freed_memory()
    setting = TINY if asked.tiny else FULL
    if asked.batch:
        setting = Setting(**{**vars(setting), "batch": asked.batch})
    device = torch.device(asked.device)
    table = rows(
        setting,
        goal=None if asked.tiny else GOAL,
        # What compiles to C++ or Triton is not worth its minute on a tiny network.
        backend="aot_eager" if asked.tiny else "inductor",
        rounds=1 if asked.tiny else 7,
        steps=1 if asked.tiny else 10,
    )
    kept = kept_path(torch.cuda.get_device_name()) if asked.write and cuda else None
    return print_table(table, header(setting, device), kept)


if __name__ == "__main__":
    sys.exit(main())
