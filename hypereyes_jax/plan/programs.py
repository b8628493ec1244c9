"""The programs that `hypereyes plan` compiles, as shapes: a recipe's training step, its teacher's scoring, and the
rollout engine's three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.recipes import Recipe
from hypereyes_jax.configs.rollout import EngineConfig, WeightsKind
from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.programs import StepPart, micro_shardings
from hypereyes_jax.learner.step_batch import abstract_micro
from hypereyes_jax.models.lora import LoraConfig, LoraRule, init_lora
from hypereyes_jax.models.qwen3_vl import Kernels, VisualFeatures, init_params
from hypereyes_jax.models.qwen3_vl.weights import in_int8
from hypereyes_jax.models.sharding import lora_shardings, param_shardings, sampler_shardings
from hypereyes_jax.processing.types import ModelInputs, VisionInputs
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import DecodeSize
from hypereyes_jax.rollout.cache.pages import pages_of_part
from hypereyes_jax.rollout.cache.slot_layout import SlotLayout
from hypereyes_jax.rollout.device import slot_layout, store_sharding
from hypereyes_jax.rollout.programs.decode import PackedDecodeRows, decode_rows
from hypereyes_jax.rollout.programs.drafts import RecentTokens
from hypereyes_jax.rollout.programs.extend import ExtendRows, encode_into, extend_rows


class TrainStep(NamedTuple):
    """The training step of a plan, and the bytes that it keeps on a device."""

    parts: Callable[[PackedBatch], tuple[StepPart, ...]]  # of a batch as shapes
    micro_batch: Callable[[PackedBatch], float]  # bytes a device of one micro-batch of it
    weights: float  # bytes a device
    optimizer: float
    gradients: float  # their sums over micro-batches, float32
    host: float  # moments that rest in the host's memory, a device's share


def train_step(recipe: Recipe, model: Qwen3VLConfig, mesh: Mesh) -> TrainStep:
    """The step that `make_learner` makes. Raises ShardingError if the mesh does not divide the model."""
    learner = make_learner(model, recipe.learner, mesh)
    adapters = recipe.lora

    def make(key: jax.Array) -> Any:
        if adapters is None:
            return learner.init(key, init_params(key, model))
        params = init_params(key, model, recipe.learner.compute_dtype)
        rules = LoraConfig((LoraRule("layers/.*", adapters.rank, adapters.alpha),), adapters.dropout)
        return learner.init(key, params, init_lora(key, params, model, rules))

    state = jax.eval_shape(make, jax.random.key(0))
    assert learner.shardings is not None
    where = learner.shardings(state)
    step = learner.sft_step if recipe.stage == "sft" else learner.rl_step

    on_host, moments = recipe.learner.optimizer.moments_on_host, _bytes(state.opt_state, where.opt_state)
    return TrainStep(
        parts=lambda batch: step.parts(state, batch),
        micro_batch=lambda batch: _micro_bytes(batch, mesh),
        weights=_bytes((state.trainable, state.frozen), (where.trainable, where.frozen)),
        optimizer=0.0 if on_host else moments,
        host=moments if on_host else 0.0,
        gradients=_bytes(state.trainable, where.trainable, itemsize=4),
    )


class Scoring(NamedTuple):
    """The scoring of a teacher, and the bytes of its weights."""

    trace: Callable[[PackedBatch], Any]  # of a micro-batch of a batch as shapes
    micro_batch: Callable[[PackedBatch], float]  # as `TrainStep.micro_batch`
    weights: float  # bytes a device


def teacher_scoring(model: Qwen3VLConfig, compute_dtype: str, mesh: Mesh) -> Scoring:
    """What `learner.teacher.LocalTeacher` runs, with its weights in the precision that training computes in.

    Raises ShardingError if the mesh does not divide the model.
    """
    learner = make_learner(model, LearnerConfig(compute_dtype=compute_dtype), mesh)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), model, compute_dtype))
    return Scoring(
        trace=lambda batch: learner.score_logprobs.trace(params, batch),
        micro_batch=lambda batch: _micro_bytes(batch, mesh),
        weights=_bytes(params, param_shardings(model, mesh)),
    )


def _micro_bytes(batch: PackedBatch, mesh: Mesh) -> float:
    micro = abstract_micro(batch)
    return _bytes(micro, micro_shardings(micro, mesh))


def _bytes(tree: Any, places: Any, itemsize: int | None = None) -> float:
    """A device's share of arrays in their places; `itemsize`: of every value, instead of its own."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(places), strict=True)
    return float(sum(math.prod(p.shard_shape(x.shape)) * (itemsize or x.dtype.itemsize) for x, p in pairs))


def _abstract_images(
    model: Qwen3VLConfig, shape: Callable[..., Any], rows: int, length: int, dtype: Any = np.float32
) -> VisionInputs:
    """`rows` rows of `length` patches of a dtype. `shape` makes one array of the given sizes, int32 unless told."""
    patches = rows * length
    return VisionInputs(
        patches_NP=shape(patches, model.vision.patch_values, dtype=dtype),
        pos_index_N4=shape(patches, 4),
        pos_weight_N4=shape(patches, 4, dtype=np.float32),
        row_N=shape(patches),
        col_N=shape(patches),
        segment_RL=shape(rows, length),
        token_place_M=shape(patches // model.vision.merge_unit),
    )


def abstract_batch(recipe: Recipe, model: Qwen3VLConfig, micro_batches: int, rows: int, context: int) -> PackedBatch:
    """A step's data, as shapes. Every row is planned with the recipe's number of images, each of the largest size."""

    def shape(*sizes: int, dtype: Any = np.int32) -> Any:
        return jax.ShapeDtypeStruct((micro_batches, *sizes), dtype)

    length = recipe.image_tokens * model.vision.merge_unit
    # as `TrainingSizes.pack` gives them
    patch_dtype = np.uint8 if recipe.learner.compute_dtype == "bfloat16" else np.float32
    vision = _abstract_images(model, shape, rows * recipe.row_images, length, patch_dtype)
    integers, floats = shape(rows, context), shape(rows, context, dtype=np.float32)
    inputs = ModelInputs(integers, shape(3, rows, context), integers, integers, vision)
    return PackedBatch(
        inputs, integers, floats, floats, floats, floats, floats, integers, np.int32(micro_batches),
        teacher_logp_MBT=floats if recipe.distill else None,
    )  # fmt: skip


def _layer_by_layer(params: Any, mesh: Mesh) -> Any:
    """`unstacked` of weights as shapes: each layer lies as its place in the stack does."""

    def layer(leaf: Any) -> Any:
        place = NamedSharding(mesh, PartitionSpec(*leaf.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=place)

    count = jax.tree.leaves(params["layers"])[0].shape[0]
    return params | {"layers": (jax.tree.map(layer, params["layers"]),) * count}


class EngineProgram(NamedTuple):
    """A program of the rollout engine."""

    name: str
    trace: Callable[[], Any]


def replica_config(
    mesh: MeshConfig, recipe: Recipe, model: Qwen3VLConfig, room: float, kind: WeightsKind = "given"
) -> MeshConfig | None:
    """The devices that share one copy of the sampler's weights: the smallest power of two that leaves room for slots.

    KV heads are cut first (each device keeps whole heads), experts beyond that.

    Args:
      room: bytes of a device.

    Returns None if not even all the mesh's devices hold the weights.
    """
    text = model.text
    size = weight_bytes(recipe, model, kind)
    count = math.gcd(mesh.size // mesh.hosts, text.num_key_value_heads)
    while size / count > 0.6 * room:
        count *= 2
        if count > mesh.size:
            return None
    tensor = math.gcd(count, text.num_key_value_heads)
    if count > tensor and not text.moe:
        return None
    return mesh.sampler_replica(count // tensor, tensor)


def sampler_params(recipe: Recipe, model: Qwen3VLConfig, kind: WeightsKind) -> Any:
    """The sampler's copy of the weights, as shapes: in the precision that training computes in, or in int8."""

    def make() -> Any:
        params = init_params(jax.random.key(0), model, recipe.learner.compute_dtype)
        return in_int8(params, model) if kind == "int8" else params

    return jax.eval_shape(make)


def replica_weight_bytes(recipe: Recipe, model: Qwen3VLConfig, mesh: Mesh, kind: WeightsKind) -> float:
    """A device's share of the sampler's copy: what no axis cuts is whole on each."""
    return _bytes(sampler_params(recipe, model, kind), sampler_shardings(model, mesh, kind))


def weight_bytes(recipe: Recipe, model: Qwen3VLConfig, kind: WeightsKind) -> int:
    """Bytes of the sampler's copy of the weights."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(sampler_params(recipe, model, kind)))


def extended_rows(settings: EngineConfig, parts: int) -> int:
    """Rows of the largest extend call on a replica that shares out its rows into so many parts."""
    sizes = SlotLayout(settings.slots, parts).row_sizes(settings.extend_rows)
    return min((rows for rows in sizes if rows >= settings.slots), default=sizes[-1])


def engine_programs(
    recipe: Recipe, model: Qwen3VLConfig, mesh: Mesh, settings: EngineConfig
) -> Iterator[EngineProgram]:
    """What a `rollout.device.Device` runs on one replica: encode an image, extend all rows it may, decode all slots.

    Views are as long as the slots, the worst case.

    Args:
      mesh: `rollout.replicas.layout.replica_mesh`.
      settings: of the run's engine, `train.sizes.TrainingSizes.engine`.
    """
    slots, view = settings.slots, settings.view_buckets[-1]
    kernels = Kernels.for_sampling(mesh.devices.flat[0].platform, model.text.num_hidden_layers)
    dtype, image_tokens = jnp.dtype(recipe.learner.compute_dtype), recipe.image_tokens
    weights = sampler_params(recipe, model, "given")
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(tree: Any, where: Any) -> Any:
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, where)

    def host(*sizes: int, dtype: Any = np.int32) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=everywhere)

    params = put(sampler_params(recipe, model, settings.weights), sampler_shardings(model, mesh, settings.weights))
    lora = None
    if recipe.lora is not None:
        rules = LoraConfig((LoraRule("layers/.*", recipe.lora.rank, recipe.lora.alpha),))
        lora = jax.eval_shape(lambda key: init_lora(key, weights, model, rules), jax.random.key(0))
        lora = put(lora, lora_shardings(model, lora, mesh))
    if kernels.slots == "in_place":  # as `rollout.device.Device` keeps them
        params = _layer_by_layer(params, mesh)
    layout = slot_layout(settings, mesh)
    pages = layout.parts * pages_of_part(settings, layout.parts)
    store = jax.eval_shape(lambda: kv.init_store(model, pages, settings.page_tokens, settings.kv))
    store = put(store, jax.tree.map(lambda _: store_sharding(mesh), store))
    width, taps = model.text.hidden_size, len(model.vision.deepstack_visual_indexes)
    pool = VisualFeatures(host(settings.visual_tokens, width, dtype=dtype), host(taps, settings.visual_tokens, width,
                                                                                dtype=dtype))  # fmt: skip
    vision = _abstract_images(model, host, 1, image_tokens * model.vision.merge_unit)
    chunk = settings.extend_tokens[-1]
    count = extended_rows(settings, layout.parts)
    rows = ExtendRows(
        tokens_RT=host(count, chunk),
        positions_3RT=host(3, count, chunk),
        visual_index_RT=host(count, chunk),
        pages_RP=host(count, settings.slot_pages),
        offset_R=host(count),
        length_R=host(count),
    )
    arrays = jax.tree.map(
        lambda x: host(*np.shape(x), dtype=x.dtype),
        PackedDecodeRows.padding(slots, settings.max_steps, settings.slot_pages),
    )
    if settings.draft_tokens:
        arrays = arrays._replace(known_RN=host(*RecentTokens().beside((), (), slots, view + 1).shape))
    steps = f"steps of {settings.draft_tokens} drafts" if settings.draft_tokens else "tokens"
    static: dict[str, Any] = {"config": model, "kernels": kernels}

    def traced(function: Any, *arguments: Any, **options: Any) -> Callable[[], Any]:
        def trace() -> Any:
            with jax.set_mesh(mesh):
                return function.trace(*arguments, **static, **options)

        return trace

    yield EngineProgram(
        f"encode an image of {image_tokens} tokens",
        traced(encode_into, params, lora, pool, vision, host(image_tokens)),
    )
    yield EngineProgram(
        f"extend {count} x {chunk} tokens",
        traced(extend_rows, params, lora, store, pool, rows, view_length=view),
    )
    yield EngineProgram(
        f"decode {settings.max_steps} {steps} in {slots} slots",
        traced(
            decode_rows, params, lora, store, arrays,
            size=DecodeSize(view, settings.max_steps, settings.draft_tokens),
            forbidden=(model.image_token_id, model.video_token_id),
        ),
    )  # fmt: skip
