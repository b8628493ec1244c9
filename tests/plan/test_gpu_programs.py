"""What the real programs launch on a GPU that is not here: bounds on kernels, and no loop that waits for the host.

The counts are of compiled programs, so they hold whatever the machine does meanwhile. Layers are unrolled in the
engine's programs and scanned in training's, so a model of few layers bounds a layer of any.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="the extra `plan` is not installed"
)

SCRIPT = """
import dataclasses, json, sys
from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import HYPEREYES_30B_RL, HYPEREYES_30B_SFT
from hypereyes_jax.plan.platform import prepare
device, layers, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
mesh = MeshConfig("one host", "gpu", fsdp=2, expert=2, device=device, topology="1x1x4")
prepare(mesh)
from hypereyes_jax.models.sharding import make_mesh
from hypereyes_jax.plan import topology
from hypereyes_jax.plan.compile import compile_program, in_turn
from hypereyes_jax.plan.programs import abstract_batch, engine_programs, train_step
from hypereyes_jax.rollout.replicas.layout import replica_grid, replica_mesh
from hypereyes_jax.train.sizes import sizes_of
model = PRESETS["30b-a3b"]
model = dataclasses.replace(model, text=dataclasses.replace(model.text, num_hidden_layers=layers))
recipe = dataclasses.replace(HYPEREYES_30B_SFT if what == "sft" else HYPEREYES_30B_RL, batch=8)
devices = topology.devices(mesh)
if what in ("train", "sft"):
    step = train_step(recipe, model, make_mesh(mesh, devices))
    batch = abstract_batch(recipe, model, 2, 4, recipe.context)
    program = in_turn(
        what, [(compile_program(part.name, part.trace, mesh), part.times, 0.0) for part in step.parts(batch)]
    )
else:
    replica = mesh.sampler_replica(1, 4)
    grid = replica_mesh(replica_grid(model.text, devices, 4))
    settings = dataclasses.replace(sizes_of(recipe), slots=16).engine()
    found = next(each for each in engine_programs(recipe, model, grid, settings) if each.name.startswith(what))
    program = compile_program(what, found.trace, replica)
print(json.dumps(dataclasses.asdict(program.launches) | {"temporaries": program.temporaries_gib}))
"""


def launched(what, layers, device="h20"):
    """Of one run of a program, which a decode call makes of 16 tokens."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, device, str(layers), what],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["host_synced_loops"] == found["host_synced_branches"] == 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("device", ["h20", "h100"])
def test_a_token_takes_at_most_1500_kernels_in_all_48_layers(device):
    found = launched("decode", 48, device)
    assert found["kernels"] / 16 <= 1500
    assert found["temporaries"] < 1  # no second copy of the slots, nor of the weights


@pytest.mark.slow
def test_reading_tokens_takes_at_most_4000_kernels_in_all_48_layers():
    assert launched("extend", 48)["kernels"] <= 4000


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "sft"])
def test_a_layer_of_training_takes_at_most_3000_kernels_a_pass(what):
    """Of RL of all weights, and of SFT of adapters with dropout."""
    three, four = (launched(what, layers)["kernels"] for layers in (3, 4))
    micro_batches, passes = 2, 3  # forward, forward again, backward
    assert 0 < four - three <= 3000 * passes * micro_batches


@pytest.mark.slow
def test_a_layer_of_a_token_takes_at_most_30_kernels():
    """The quick form of the bound on all layers: by what one more layer adds."""
    three, four = (launched("decode", layers)["kernels"] / 16 for layers in (3, 4))
    assert 0 < four - three <= 30
    assert three <= 3 * 30 + 120  # the sampler's draw, and what is done once a call, beside a layer
