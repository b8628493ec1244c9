"""Steps on 8 forced devices equal the single-device step. The steps run in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Same numbers in another order of summation, in float32.
GRADIENT, METRIC = 2e-5, 1e-4


def run(*cases):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.learner.sharded_steps", *cases],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(result):
    assert result["gradient"] < GRADIENT, result
    assert result["weights"] < GRADIENT, result
    assert result["metrics"] < METRIC, result


AXES = ("replica", "fsdp", "expert", "tensor")


@pytest.fixture(scope="module")
def results():
    """Of both cases below, which share a process."""
    return run("all/moe/rl_step/full/cpu/host", "restored/fsdp/all/moe")


def test_all_axes_together_take_the_single_device_step_of_a_mixture_of_experts(results):
    """With moments in the host's memory."""
    result, _ = results
    check(result)
    assert result["split_leaves"] > 3


@pytest.mark.slow
def test_each_axis_and_the_kernels_of_a_gpu_take_the_single_device_step_of_a_mixture_of_experts():
    # in one process, so that the single-device step is made once
    cases = (*(f"{axis}/moe/rl_step/full" for axis in AXES), "all/moe/rl_step/full/gpu")
    results = run(*cases)
    assert [result["case"] for result in results] == list(cases)
    for result in results:
        check(result)
        # each axis but `replica`, which has whole copies, cuts weights
        assert (result["split_leaves"] > 3) == (not result["case"].startswith("replica")), result


def test_a_checkpoint_restores_on_a_mesh_of_another_shape_bit_for_bit(results):
    _, result = results
    assert result["changed"] == 0
    assert result["elsewhere"] == 0
    assert result["moved"] > 10  # else the other mesh is no other
    assert result["cursor"] == {"place": 7}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [*AXES, "all"])
def test_every_step_of_every_kind_of_training_is_the_single_device_step_on_each_mesh(mesh):
    kinds = [f"{kind}/{train}" for kind in ("rl_step", "sft_step") for train in ("full", "lora")]
    results = run(*(f"{mesh}/{model}/{kind}" for model in ("dense", "moe") for kind in kinds))
    assert len(results) == 8
    for result in results:
        check(result)
