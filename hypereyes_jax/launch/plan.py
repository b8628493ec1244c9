"""`hypereyes plan RECIPE --mesh PRESET`: will it fit, how fast could it be, and what bounds it, before paying for it.

The real training step, and the rollout engine's model programs, are compiled ahead of time for the real target. Memory
is what that compiler reports; the split of it into kinds is exact for weights, moments and gradients (their shapes on
the mesh are known), and what remains is activations.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from hypereyes_jax.configs.mesh import DEVICES, MESHES, MeshConfig
from hypereyes_jax.configs.model import PRESETS, Qwen3VLConfig, TextConfig
from hypereyes_jax.configs.recipes import RECIPES, Recipe
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import target
from hypereyes_jax.launch.hlo import collective_bytes

GIB = 2**30
# Left to the runtime: XLA's own reserve on GPUs, the system's on TPUs.
_USABLE = 0.94


@dataclass(frozen=True)
class PlanConfig:
    """Compile a recipe for a mesh that is not there, and say whether it fits."""

    recipe: Annotated[str, tyro.conf.Positional]
    mesh: str
    rows: int | None = None
    """Rows of a micro-batch over all devices; default: one a data shard."""
    row_tokens: int | None = None
    """Default: the recipe's."""
    search: bool = False
    """Also look for the longest row and the most rows that fit, by compiling again and again."""
    rollout: bool = True
    """Also compile the rollout engine's programs for one host."""
    out: Path | None = None
    """Where to write the plan as JSON."""


@dataclass(frozen=True)
class ProgramPlan:
    """One compiled program, per device."""

    name: str
    compile_seconds: float
    arguments_gib: float
    outputs_gib: float  # not counting those that take over a donated argument's place
    temporaries_gib: float
    sent_gib: dict[str, dict[str, float]]  # mesh axes -> kind of collective -> GiB sent a run
    compiler_flops: float | None  # as the compiler counts them, a loop's body once; None where it does not say
    error: str = ""  # the compiler's own, where it refused

    @property
    def peak_gib(self) -> float:
        return self.arguments_gib + self.outputs_gib + self.temporaries_gib


@dataclass(frozen=True)
class Plan:
    recipe: str
    mesh: str
    devices: int
    rows: int
    row_tokens: int
    fits: bool
    capacity_gib: float  # of a device, usable
    weights_gib: float
    optimizer_gib: float
    gradients_gib: float
    activations_gib: float
    kv_gib_a_slot: float  # at row_tokens, on a rollout replica of one host
    programs: list[ProgramPlan]
    useful_tflops: float  # a device and micro-batch: forward and backward of the active weights, no recomputation
    roofline_seconds: dict[str, float]  # of a micro-batch: compute, memory, links, network
    bound: str
    micro_batches: int  # a step, if every trajectory fills its row
    step_seconds: float  # at the roofline
    useful_share: float  # of the device's peak, at the roofline
    largest: dict[str, int] = field(default_factory=dict)  # `search`


def active_parameters(text: TextConfig) -> int:
    """Weights that multiply one token in the decoder, without the head."""
    attention = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    if text.moe:
        inner = text.num_experts_per_tok * text.moe_intermediate_size
        feed_forward = 3 * text.hidden_size * inner + text.hidden_size * text.num_experts
    else:
        feed_forward = 3 * text.hidden_size * text.intermediate_size
    return text.num_hidden_layers * (attention + feed_forward)


def useful_flops(config: Qwen3VLConfig, tokens: int, row_tokens: int, patches: int, trains_all: bool) -> float:
    """Of one training pass over `tokens`: 2 a weight and token forward, as much again for each gradient.

    Adapters need no weight gradients of the base: 4 a weight instead of 6. Attention counts half the score matrix.
    """
    text, vision = config.text, config.vision
    weights = active_parameters(text) + text.hidden_size * text.vocab_size
    attention = text.num_hidden_layers * text.num_attention_heads * text.head_dim * row_tokens  # 2 * 2 / 2 a token
    tower = vision.depth * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    factor = 3 if trains_all else 2
    forward_vision = 2 * tower * patches
    return factor * tokens * (2 * weights + 2 * attention) + forward_vision * (3 if trains_all else 1)


def abstract_batch(config: Qwen3VLConfig, rows: int, row_tokens: int, image_tokens: int, row_images: int) -> Any:
    """One micro-batch of a step, as shapes."""
    import jax
    import numpy as np

    from hypereyes_jax.processing.types import ModelInputs, VisionInputs
    from hypereyes_jax.rl.pack import PackedBatch

    def shape(*sizes: int, dtype: Any = np.int32) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    length = image_tokens * config.vision.merge_unit
    vision_rows = rows * row_images
    patches = vision_rows * length
    vision = VisionInputs(
        patches_NP=shape(1, patches, config.vision.patch_values, dtype=np.float32),
        pos_index_N4=shape(1, patches, 4),
        pos_weight_N4=shape(1, patches, 4, dtype=np.float32),
        row_N=shape(1, patches),
        col_N=shape(1, patches),
        segment_RL=shape(1, vision_rows, length),
        token_place_M=shape(1, patches // config.vision.merge_unit),
    )
    integers, floats = shape(1, rows, row_tokens), shape(1, rows, row_tokens, dtype=np.float32)
    inputs = ModelInputs(integers, shape(1, 3, rows, row_tokens), integers, integers, vision)
    return PackedBatch(
        inputs, integers, floats, floats, floats, floats, floats, integers, shape(), teacher_logp_MBT=floats
    )


def plan(config: PlanConfig) -> Plan:
    """Compile and measure. `target.prepare` must have run, before jax was imported.

    Raises UserError for an unknown recipe or mesh, a mesh that does not divide the model, or a missing compiler.
    """
    recipe, mesh_config = _known(config.recipe, RECIPES, "recipe"), _known(config.mesh, MESHES, "mesh")
    import jax

    from hypereyes_jax.models.sharding import ShardingError, make_mesh

    model = PRESETS[recipe.model]
    try:
        mesh = make_mesh(mesh_config, target.devices(mesh_config)[: mesh_config.size])
        step, state = _train_step(recipe, model, mesh)
    except ShardingError as error:
        raise UserError(f"{recipe.name} can't run on mesh {mesh_config.name}: {error}") from error
    shards = mesh_config.replica * mesh_config.fsdp * mesh_config.expert
    rows, row_tokens = config.rows or shards, config.row_tokens or recipe.row_tokens
    if rows % shards:
        raise UserError(f"--rows {rows} must be a multiple of the mesh's {shards} data shards")

    def compiled(rows: int, row_tokens: int) -> ProgramPlan:
        batch = abstract_batch(model, rows, row_tokens, recipe.image_tokens, recipe.row_images)
        return _compile("train step", lambda: step.lower(state, batch), mesh_config, mesh.shape)

    train = compiled(rows, row_tokens)
    programs = [train]
    if config.rollout and recipe.rollout is not None:
        programs += _rollout_programs(model, mesh_config, mesh, row_tokens)
    capacity = _capacity(mesh_config)
    sizes = _bytes_a_device(recipe, model, mesh, state)
    fits = all(not each.error and each.peak_gib <= capacity for each in programs)
    patches = rows * recipe.row_images * recipe.image_tokens * model.vision.merge_unit
    flops = (
        useful_flops(model, rows * row_tokens, row_tokens, patches, recipe.learner.train == "full") / mesh_config.size
    )
    roofline = _roofline(mesh_config, flops, sizes["weights"], train)
    bound = max(roofline, key=lambda name: roofline[name])
    micro_batches = math.ceil(recipe.batch / rows)
    kind = DEVICES.get(mesh_config.device)
    largest = {}
    if config.search:
        largest = {
            "row_tokens": _largest(lambda n: compiled(rows, n), capacity, start=row_tokens, unit=1024),
            "rows": _largest(lambda n: compiled(n, row_tokens), capacity, start=rows, unit=shards),
        }
    del jax
    return Plan(
        recipe=recipe.name,
        mesh=mesh_config.name,
        devices=mesh_config.size,
        rows=rows,
        row_tokens=row_tokens,
        fits=fits,
        capacity_gib=capacity,
        weights_gib=sizes["weights"] / GIB,
        optimizer_gib=sizes["optimizer"] / GIB,
        gradients_gib=sizes["gradients"] / GIB,
        activations_gib=max(train.temporaries_gib - sizes["gradients"] / GIB, 0.0),
        kv_gib_a_slot=_kv_bytes(model, row_tokens) / _host_tensor(mesh_config, model) / GIB,
        programs=programs,
        useful_tflops=flops / 1e12,
        roofline_seconds=roofline,
        bound=bound,
        micro_batches=micro_batches,
        step_seconds=micro_batches * roofline[bound],
        useful_share=flops / 1e12 / kind.bf16_tflops / roofline[bound] if kind and roofline[bound] else 0.0,
        largest=largest,
    )


def run(config: PlanConfig) -> int:
    """Print the plan, write it as JSON if asked to; the exit code is 0 if it fits and 1 if it does not."""
    target.prepare(_known(config.mesh, MESHES, "mesh"))
    found = plan(config)
    print(render(found))
    if config.out is not None:
        from hypereyes_jax.files import write_json

        write_json(config.out, dataclasses.asdict(found))
    return 0 if found.fits else 1


def render(found: Plan) -> str:
    """The plan as text."""
    lines = [
        f"{found.recipe} on {found.mesh}: {found.devices} devices of {found.capacity_gib:.1f} GiB usable, "
        f"{found.rows} rows of {found.row_tokens:,} tokens a micro-batch",
        f"  weights {found.weights_gib:.2f}  optimiser {found.optimizer_gib:.2f}  gradients {found.gradients_gib:.2f}"
        f"  activations {found.activations_gib:.2f} GiB a device; KV {found.kv_gib_a_slot:.2f} GiB a slot",
    ]
    for each in found.programs:
        sent = "; ".join(f"{axes} {sum(kinds.values()):.2f}" for axes, kinds in each.sent_gib.items()) or "nothing"
        detail = each.error or f"peak {each.peak_gib:.2f} GiB, sends (GiB by axis) {sent}"
        lines.append(f"  {each.name}: {detail}  [compiled in {each.compile_seconds:.0f} s]")
    times = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.roofline_seconds.items())
    lines.append(f"  micro-batch at the roofline: {times} s; bound by {found.bound}")
    lines.append(
        f"  step of {found.micro_batches} micro-batches >= {found.step_seconds:.1f} s, "
        f"useful FLOPs {100 * found.useful_share:.0f} % of peak at best"
    )
    if found.largest:
        lines.append("  largest that fits: " + json.dumps(found.largest))
    lines.append("  FITS" if found.fits else "  DOES NOT FIT")
    return "\n".join(lines)


def _known(name: str, table: dict[str, Any], what: str) -> Any:
    if name not in table:
        raise UserError(f"there is no {what} {name!r}. Known: {', '.join(table)}")
    return table[name]


def _capacity(mesh: MeshConfig) -> float:
    return DEVICES[mesh.device].memory_gib * _USABLE if mesh.device else math.inf


def _train_step(recipe: Recipe, model: Qwen3VLConfig, mesh: Any) -> tuple[Any, Any]:
    """(the jitted step, the abstract state)."""
    import jax
    import jax.numpy as jnp

    from hypereyes_jax.models.lora import LoraConfig, LoraRule, init_lora
    from hypereyes_jax.models.qwen3_vl import init_params
    from hypereyes_jax.rl.learner import make_learner

    learner = make_learner(model, recipe.learner, mesh)
    adapters = recipe.lora

    def make(key: jax.Array) -> Any:
        if adapters is None:
            return learner.init(key, init_params(key, model))
        params = init_params(key, model, jnp.bfloat16)
        rules = LoraConfig((LoraRule("layers/.*", adapters.rank, adapters.alpha),), adapters.dropout)
        return learner.init(key, params, init_lora(key, params, model, rules))

    state = jax.eval_shape(make, jax.random.key(0))
    return (learner.sft_step if recipe.stage == "sft" else learner.rl_step), state


def _compile(name: str, lower: Any, mesh_config: MeshConfig, mesh_shape: Any) -> ProgramPlan:
    import jax

    started = time.perf_counter()
    try:
        program = lower().compile(compiler_options=target.compiler_options(mesh_config))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - started
        return ProgramPlan(name, seconds, 0, 0, 0, {}, None, error=str(error).splitlines()[0])
    memory = program.memory_analysis()
    sent = collective_bytes(program.as_text(), dict(mesh_shape))
    cost = program.cost_analysis() or {}
    return ProgramPlan(
        name=name,
        compile_seconds=time.perf_counter() - started,
        arguments_gib=memory.argument_size_in_bytes / GIB,
        outputs_gib=(memory.output_size_in_bytes - memory.alias_size_in_bytes) / GIB,
        temporaries_gib=memory.temp_size_in_bytes / GIB,
        sent_gib={axes: {kind: size / GIB for kind, size in kinds.items()} for axes, kinds in sent.items()},
        compiler_flops=cost.get("flops"),
    )


def _bytes_a_device(recipe: Recipe, model: Qwen3VLConfig, mesh: Any, state: Any) -> dict[str, float]:
    import jax

    from hypereyes_jax.rl.learner import make_learner

    places = make_learner(model, recipe.learner, mesh).shardings
    assert places is not None

    def total(tree: Any, where: Any, itemsize: int | None = None) -> float:
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True)
        return float(
            sum(math.prod(spot.shard_shape(leaf.shape)) * (itemsize or leaf.dtype.itemsize) for leaf, spot in pairs)
        )

    where = places(state)
    return {
        "weights": total((state.trainable, state.frozen), (where.trainable, where.frozen)),
        "optimizer": total(state.opt_state, where.opt_state),
        "gradients": total(state.trainable, where.trainable, itemsize=4),
    }


def _host_tensor(mesh: MeshConfig, model: Qwen3VLConfig) -> int:
    """Devices of a host that share a rollout replica: as many as cut the KV heads evenly."""
    return math.gcd(mesh.size // mesh.hosts, model.text.num_key_value_heads)


def _kv_bytes(model: Qwen3VLConfig, tokens: int) -> int:
    text = model.text
    return 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * tokens


def _rollout_programs(model: Qwen3VLConfig, mesh_config: MeshConfig, mesh: Any, context: int) -> list[ProgramPlan]:
    """The engine's `extend` of 1,024 tokens and one decode step, for 8 slots on a replica of one host."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from hypereyes_jax.models.qwen3_vl import Kernels, extend, init_cache, init_params, lm_head
    from hypereyes_jax.models.sharding import make_mesh, param_shardings

    tensor = _host_tensor(mesh_config, model)
    replica_config = dataclasses.replace(
        mesh_config, name=f"{mesh_config.name} replica", replica=1, fsdp=1, expert=1, tensor=tensor, slices=1, hosts=1
    )
    host = mesh.devices.flat[0].process_index
    own = [device for device in mesh.devices.flat if device.process_index == host][:tensor]
    replica = make_mesh(replica_config, own)
    kernels = Kernels.for_platform(own[0].platform)
    weights = jax.eval_shape(lambda: init_params(jax.random.key(0), model, jnp.bfloat16))
    slots = 8
    cache = jax.eval_shape(lambda: init_cache(model, slots, context, jnp.bfloat16))
    heads = NamedSharding(replica, PartitionSpec(None, None, None, "tensor", None))
    everywhere = NamedSharding(replica, PartitionSpec())
    found = []
    for name, length in (("extend", 1024), ("decode", 1)):

        def program(params: Any, tokens: Any, positions: Any, visual: Any, cache: Any, offset: Any, count: Any) -> Any:
            hidden, cache = extend(
                params, model, tokens, positions, visual, None, cache, offset, count, kernels=kernels
            )
            return hidden[:, -1] @ lm_head(params, model), cache

        def integers(*shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, np.int32)

        arguments = (
            weights, integers(slots, length), integers(3, slots, length), integers(slots, length), cache,
            integers(slots), integers(slots),
        )  # fmt: skip
        places = (param_shardings(model, replica), *[everywhere] * 3, jax.tree.map(lambda _: heads, cache),
                  *[everywhere] * 2)  # fmt: skip
        jitted = jax.jit(program, in_shardings=places, donate_argnums=4)

        def lower(jitted: Any = jitted, arguments: Any = arguments) -> Any:
            with jax.set_mesh(replica):
                return jitted.lower(*arguments)

        found.append(_compile(f"{name} ({slots} slots)", lower, replica_config, replica.shape))
    return found


def _roofline(mesh: MeshConfig, flops: float, weight_bytes: float, train: ProgramPlan) -> dict[str, float]:
    """Seconds of a micro-batch, if each resource alone were the limit."""
    if not mesh.device:
        return {"compute": 0.0}
    kind = DEVICES[mesh.device]
    network = {"replica"} if mesh.slices > 1 else set()
    if mesh.platform == "gpu" and mesh.hosts > 1:
        # The innermost axes that fill a host stay on its links; all others leave it.
        inside, local = 1, mesh.size // mesh.hosts
        for name, size in reversed(list(zip(("replica", "fsdp", "expert", "tensor"), mesh.shape, strict=True))):
            inside *= size
            if inside > local:
                network.add(name)
    sent = {"links": 0.0, "network": 0.0}
    for axes, kinds in train.sent_gib.items():
        sent["network" if network & set(axes.split("+")) else "links"] += sum(kinds.values()) * GIB
    # A lower bound: forward, recomputation and backward each read the weights' shards, and temporaries are used once.
    read = 3 * weight_bytes + (train.temporaries_gib + train.outputs_gib) * GIB
    return {
        "compute": flops / (kind.bf16_tflops * 1e12),
        "memory": read / (kind.memory_gbps * 1e9),
        "links": sent["links"] / (kind.link_gbps * 1e9),
        "network": sent["network"] / (kind.network_gbps * 1e9),
    }


def _largest(compiled: Any, capacity: float, start: int, unit: int) -> int:
    """The largest size that fits, to `unit`, or 0: doubling, then halving the gap."""

    def fits(size: int) -> bool:
        program = compiled(size)
        return not program.error and program.peak_gib <= capacity

    low, high = 0, start
    while fits(high):
        low, high = high, high * 2
    while high - low > max(unit, low // 8):
        middle = (low + high) // 2 // unit * unit
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
