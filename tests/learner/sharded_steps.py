"""Run in a process of 8 forced devices by `test_sharded.py`: steps on meshes against the same steps on one device.

Prints a JSON line for each case: the largest difference of gradients, of new weights and of metrics, relative to their
largest value; or what became of a checkpoint on another mesh. The single device takes micro-batches of one row, a mesh
as many rows at once as it has room for: the split must not matter either.
"""

import dataclasses
import functools
import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig, PackConfig
from hypereyes_jax.learner.checkpoint import Checkpoints
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack
from hypereyes_jax.models.lora import init_lora
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.sharding import make_mesh
from tests.learner.small import CONFIG, samples
from tests.random_weights import random_params

TEXT = dataclasses.replace(CONFIG.text, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16)
MODELS = {"dense": CONFIG, "moe": dataclasses.replace(CONFIG, text=TEXT)}
MESHES = {
    "replica": dict(replica=4),
    "fsdp": dict(fsdp=4),
    "expert": dict(expert=4),
    "tensor": dict(tensor=2),  # the model has two key-value heads
    "all": dict(fsdp=2, expert=2, tensor=2),
}
PLAIN = OptimizerConfig(learning_rate=1e-3, schedule="constant", clip_norm=1e9, weight_decay=0.0, eps=1e-3)


def mesh_of(name):
    config = MeshConfig(name, "cpu", **MESHES[name])
    return make_mesh(config, jax.devices()[: config.size])


@functools.cache
def setup(model, train):
    config = MODELS[model]
    params = random_params(config, scale=3)
    lora = None
    if train == "lora":
        lora = init_lora(jax.random.key(1), params, config)
        lora = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(2), x.shape), lora)
    learn = LearnerConfig(optimizer=PLAIN, train=train, tis_cap=0, router_balance="step")
    return config, learn, params, lora


def packed(config, shards, rows):
    settings = PackConfig(row_lengths=(64,), rows=rows, shards=shards, min_pixels=64, max_pixels=64 * 64)
    return pack(config, samples(10), settings)


def difference(tree, wanted):
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True))
    scale = max(float(np.abs(np.asarray(b)).max()) for _, b in pairs)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs) / scale


@functools.cache
def single(model, kind, train):
    """The step on one device: (new state, metrics)."""
    config, learn, *weights = setup(model, train)
    learner = make_learner(config, learn)
    start = learner.init(jax.random.key(3), *jax.tree.map(jnp.array, weights))  # a step consumes its state
    batch = packed(config, 1, rows=1)
    assert batch.count > 4
    return getattr(learner, kind)(start, batch)


def run(mesh_name, model, kind, train, kernels="cpu", moments="device"):
    config, learn, params, lora = setup(model, train)
    state, metrics = single(model, kind, train)
    mesh = mesh_of(mesh_name)
    optimizer = dataclasses.replace(PLAIN, moments_on_host=moments == "host")
    learn = dataclasses.replace(learn, optimizer=optimizer)
    # What a GPU runs must give what the CPU's own kernels give on one device.
    sharded = make_learner(config, learn, mesh, Kernels.for_platform(kernels))
    start = sharded.init(jax.random.key(3), *jax.tree.map(jnp.array, (params, lora)))
    start = jax.device_put(start, sharded.shardings(start))
    shards = mesh.shape["replica"] * mesh.shape["fsdp"] * mesh.shape["expert"]
    there, found = getattr(sharded, kind)(start, packed(config, shards, rows=8))
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(there.opt_state) if leaf.ndim}
    assert kinds == {"pinned_host" if moments == "host" else "device"}, kinds
    split_leaves = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(there.trainable))
    return {
        "gradient": difference(there.opt_state[1].mu, state.opt_state[1].mu),
        "weights": difference(there.trainable, state.trainable),
        "metrics": max(abs(float(found[n]) - float(metrics[n])) / max(1, abs(float(metrics[n]))) for n in metrics),
        "split_leaves": split_leaves,
    }


def restored(before, after, model):
    """A state saved on one mesh and restored on another: leaves that differ in a bit, and that lie elsewhere."""
    config, learn, params, _ = setup(model, "full")

    def state_on(mesh_name, seed):
        learner = make_learner(config, learn, mesh_of(mesh_name))
        # moments like a trained state's: not zeros
        state = learner.init(jax.random.key(seed), params)
        state = jax.tree.map(lambda x: np.asarray(x) + seed if x.dtype == jnp.float32 else x, state)
        return jax.device_put(state, learner.shardings(state)), learner.shardings(state)

    saved, _ = state_on(before, 3)
    like, where = state_on(after, 0)
    with tempfile.TemporaryDirectory() as directory, Checkpoints(Path(directory)) as checkpoints:
        checkpoints.save(saved, {"place": 7})
        found, cursor = checkpoints.restore(like)
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True))
    places = zip(jax.tree.leaves(found), jax.tree.leaves(where), strict=True)
    return {
        "leaves": len(pairs),
        "changed": sum(not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs),
        "elsewhere": sum(not a.sharding.is_equivalent_to(place, a.ndim) for a, place in places),
        "moved": sum(not a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in pairs),
        "cursor": cursor,
    }


if __name__ == "__main__":
    for case in sys.argv[1:]:
        kind, *rest = case.split("/")
        result = restored(*rest) if kind == "restored" else run(kind, *rest)
        print(json.dumps({"case": case, **result}), flush=True)
