"""Attention is chosen by platform and compiled for it, on machines that have no such device."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hypereyes_jax.models.qwen3_vl import Kernels

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("platform", "form"), [("tpu", "splash"), ("gpu", "triton"), ("cuda", "triton"), ("cpu", "xla")]
)
def test_the_platform_decides_the_form(platform, form):
    assert Kernels.for_platform(platform).attention == Kernels.for_sampling(platform, 48).attention == form


def test_an_unknown_platform_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"platform 'metal' \(expected cpu, tpu, gpu, cuda or rocm\)"):
        Kernels.for_platform("metal")


def temporaries(device, form):
    """MiB and kernels of the gradient at 2,048 and at 4,096 tokens."""
    command = [sys.executable, "benchmarks/attention.py", "--device", device, "--lengths", "2048", "4096"]
    done = subprocess.run(
        [*command, "--forms", form], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])[form]
    return [found[length]["gradient"] for length in ("2048", "4096")], found["4096"]["calls"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "compiler", "kernel"), [("v5p", "libtpu", "tpu_custom_call"), ("h20", "jax_cuda13_plugin", None)]
)
def test_the_form_of_a_platform_compiles_for_it_and_needs_memory_linear_in_the_length(device, compiler, kernel):
    if importlib.util.find_spec(compiler) is None:
        pytest.skip("the extra `plan` is not installed")
    form = Kernels.for_platform("tpu" if compiler == "libtpu" else "gpu").attention
    (short, long), calls = temporaries(device, form)
    assert long < 2.2 * short
    assert kernel is None or kernel in calls


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None or importlib.util.find_spec("nvidia") is None,
    reason="the extra `plan` or nvidia-cudnn-cu13 is not installed",
)
def test_cudnn_compiles_for_an_absent_card_and_its_mask_takes_the_square_of_the_length():
    """The square is why it is not what `for_platform` takes: should it go, that choice is to be made again."""
    (short, long), calls = temporaries("h100", "cudnn")
    assert {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"} <= set(calls)
    mask = 2 / 2**20  # MiB of a bfloat16
    assert long - short > (4096**2 - 2048**2) * mask
