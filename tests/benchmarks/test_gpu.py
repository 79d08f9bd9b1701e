"""The GPU's benchmark runs on the CPU in a tiny configuration; without a GPU it says so."""

import pytest
import torch

from benchmarks import gpu

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="it is about having no GPU")


@without_gpu
def test_without_a_gpu_it_says_so_and_measures_nothing(capsys):
    assert gpu.main([]) == 2
    printed = capsys.readouterr()
    assert "no CUDA device" in printed.err
    assert printed.out == ""
    assert gpu.main(["--device", "cpu"]) == 2
    assert "--tiny" in capsys.readouterr().err


@pytest.mark.deep  # compiling takes half a minute
@without_gpu
def test_every_variant_but_the_graph_runs_on_a_cpu(capsys):
    assert gpu.main(["--device", "cpu", "--tiny", "--write"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("# timm/test_resnet, 32 px, batch 4, bfloat16, channels_last")
    names = [line.split()[0] for line in lines[2:]]
    assert names == [
        "gpu_step_share_of_passes",
        "gpu_step_without_the_loop_share_of_passes",
        "gpu_step_compiled_share_of_passes",
        "gpu_step_cuda_graph",
        "gpu_copied_in_the_step_vs_resident",
        "gpu_copied_ahead_vs_resident",
    ]
    ratios = [float(line.split()[1].removeprefix("ratio=")) for line in lines[2:]]
    assert all(ratio > 0 for k, ratio in enumerate(ratios) if k != 3)
    assert "left out" in lines[5]
    assert not gpu.kept_path("cpu").exists()


def test_a_table_is_kept_under_the_devices_name():
    assert gpu.kept_path("NVIDIA H100 80GB HBM3").name == "gpu-nvidia-h100-80gb-hbm3.txt"


def test_views_copied_ahead_are_those_copied_in_the_step():
    variants = gpu.Variants(gpu.TINY, "aot_eager")
    for ahead in (False, True):
        torch.manual_seed(0)
        inputs = variants._from_host(torch.device("cpu"), ahead=ahead)
        first, again = inputs(), inputs()
        assert first[0].shape == (4, 3, 32, 32)
        assert first[0].is_contiguous(memory_format=torch.channels_last)
        assert first[0].min() >= 0
        assert first[0].max() <= 1
        assert not torch.equal(*first)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
