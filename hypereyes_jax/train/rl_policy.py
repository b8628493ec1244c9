"""The policy of an RL run: the loaded weights, and what samples from them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.replicas.layout import replica_groups
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.adapters import adapter_rules, fresh_adapters
from hypereyes_jax.train.rollout_source import check_replicas_ahead, check_routing_replay
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.server_engines import ServerEngines
from hypereyes_jax.train.settings import RlSettings, SamplerServerConfig
from hypereyes_jax.train.sizes import TrainingSizes


class RlPolicy(NamedTuple):
    """What an RL run trains."""

    model: Qwen3VLConfig
    params: Params  # on the mesh, where there is one
    rollouts: RolloutEngines
    processes: Processes  # which know their replica groups by now


def load_rl_policy(
    checkpoint: str | os.PathLike[str],
    sizes: TrainingSizes,
    settings: RlSettings,
    processes: Processes,
    *,
    directory: RunDirectory,
    server: SamplerServerConfig = SamplerServerConfig(),  # noqa: B008 - frozen
    exact: bool = False,
) -> RlPolicy:
    """Loads a checkpoint and opens what plays the rollouts: a server, one device's engine, or the engines of a mesh.

    Args:
      directory: where a server reads adapters from.
      exact: one shape for each device program, so that a run can be repeated to the bit.

    Raises:
      UserError: the checkpoint, or what is asked of the engines, can't be had.
    """
    model, params, chat = load_model(checkpoint, sizes.weights_dtype(), processes.mesh)
    check_routing_replay(settings, model, bool(server.url))
    records = settings.routing_replay == "sampler"
    lora = None
    if sizes.learner.train == "lora":
        lora = fresh_adapters(model, params, adapter_rules(settings.lora_rank, settings.lora_alpha), processes)
    if server.url:
        rollouts = RolloutEngines(ServerEngines(server, model, sizes, directory, processes), chat, sizes)
    elif processes.mesh is None:
        engine = replace(sizes.engine(), record_routes=records)
        engines = (
            Engines.on_one_device(model, params, engine.exact(), count=1, lora=lora)
            if exact
            else Engines.on_one_device(model, params, engine, lora=lora)
        )
        rollouts = RolloutEngines(engines, chat, sizes)
    elif exact:
        raise UserError("--exact needs a single device: over several, sums are made in other orders")
    else:
        copies = ReplicaWeights(
            model, processes.mesh, sizes.learner.compute_dtype, sizes.replica_devices, processes.samplers
        )
        processes = processes.sharing_replicas(replica_groups(copies.grid))
        check_replicas_ahead(settings, processes.replicas)
        at_once = settings.prompts * settings.group
        rollouts = RolloutEngines.on_mesh(model, params, chat, sizes, copies, processes, at_once, lora, records)
    return RlPolicy(model, params, rollouts, processes)
