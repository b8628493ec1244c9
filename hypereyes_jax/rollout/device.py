"""What an engine keeps on its replica's devices, and the few calls that work on it. Knows pages, no sequences.

Every call is one device program on host arrays. Where a replica's devices lie in several processes, each of them has a
`Device` with its part of the same arrays, and makes the same calls in the same order: see `launch.replica_group`.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig
from hypereyes_jax.models.partition import cutting, spec
from hypereyes_jax.models.qwen3_vl import Kernels, VisualFeatures
from hypereyes_jax.models.qwen3_vl.text import unstacked
from hypereyes_jax.models.qwen3_vl.weights import in_int8
from hypereyes_jax.processing.types import VisionInputs
from hypereyes_jax.rollout.cache import kv, page_copies
from hypereyes_jax.rollout.cache.access import DecodeSize, views_cache
from hypereyes_jax.rollout.cache.pages import pages_of_part
from hypereyes_jax.rollout.cache.slot_layout import SlotLayout
from hypereyes_jax.rollout.programs.decode import Decoded, PackedDecodeRows, decode_rows
from hypereyes_jax.rollout.programs.extend import ExtendRows, encode_into, extend_rows

Kept = Any  # what `read` gave: a tree of numpy, or this process's pieces of it


def slot_layout(settings: EngineConfig, mesh: Mesh | None) -> SlotLayout:
    """How a replica's devices share out an engine's slots. Raises UserError if they don't divide."""
    return SlotLayout(
        settings.slots, 1 if mesh is None else math.prod(mesh.shape[each] for each in cutting("batch", mesh))
    )


def store_sharding(mesh: Mesh) -> NamedSharding:
    """The place of all pages on a mesh."""
    return NamedSharding(mesh, spec("pages", kv.STORE_AXES, mesh))


class DeviceCalls(Protocol):
    """The calls that an engine makes while rollouts are under way."""

    def encode(self, vision: VisionInputs, rows_M: np.ndarray) -> None: ...

    def extend(self, batch: ExtendRows, view_length: int) -> np.ndarray | None: ...

    def decode(self, batch: PackedDecodeRows, view_length: int) -> Decoded: ...

    def copy(self, source_part: int, sources_N: np.ndarray, target_part: int, targets_N: np.ndarray) -> None: ...

    def read(self, part: int, pages_P: np.ndarray) -> Kept: ...

    def write(self, kept: Kept, part: int, pages_P: np.ndarray) -> None: ...


class Device:
    """Weights, pages of keys and values, and encoded images on one replica, or on this process's part of it.

    Args:
      config: the model.
      params: its weights; where they are sharded, programs run on their mesh.
      settings: sizes.
      lora: adapters, or None.
      kernels: implementations; None = the best known for the platform.
      mesh: the one that `params` are sharded over, with a "tensor" axis that divides the heads; None = one device. All
        processes that hold a part of it must make a `Device`, and call it alike.
    """

    def __init__(
        self,
        config: Qwen3VLConfig,
        params: Any,
        settings: EngineConfig,
        *,
        lora: Any = None,
        kernels: Kernels | None = None,
        mesh: Mesh | None = None,
    ):
        self.config, self.settings, self.mesh = config, settings, mesh
        platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
        kernels = kernels or Kernels.for_sampling(platform, config.text.num_hidden_layers)
        self.kernels = replace(kernels, record_experts=settings.record_routes)
        # Where pages are read in place, one program serves every length.
        self._views = views_cache(self.kernels, config.text)
        # placeholders of images mean nothing when sampled, and would be taken for images when the record is read back;
        # what no token has can't be read back at all
        self.forbidden = (config.image_token_id, config.video_token_id, *config.unused_token_ids)
        self._shapes = (jax.tree.map(_shape, params), jax.tree.map(_shape, lora))
        self._dtype = params["embed"].dtype
        self.layout = slot_layout(settings, mesh)
        self.params, self.lora = self._placed(params), lora
        self.store: Any = None
        self.pool: Any = None  # of encoded images, a row a visual token
        self._allocate()

    @property
    def spans_processes(self) -> bool:
        return self.mesh is not None and self.mesh.is_multi_process

    def encode(self, vision: VisionInputs, rows_M: np.ndarray) -> None:
        """Encodes images into rows of the pool: `encode_into`."""
        with self._on_mesh():
            self.pool = encode_into(
                self.params, self.lora, self.pool, vision, rows_M, config=self.config, kernels=self.kernels
            )

    def extend(self, batch: ExtendRows, view_length: int) -> np.ndarray | None:
        """Reads given tokens into pages: `extend_rows`. With `record_routes`, waits for the experts taken."""
        with self._on_mesh():
            self.store, experts = extend_rows(
                self.params,
                self.lora,
                self.store,
                self.pool,
                batch,
                config=self.config,
                kernels=self.kernels,
                view_length=view_length if self._views else 0,
            )
        return None if experts is None else np.asarray(experts)

    def decode(self, batch: PackedDecodeRows, view_length: int) -> Decoded:
        """Samples: `decode_rows`. Waits for the device; the result is numpy."""
        with self._on_mesh():
            self.store, decoded = decode_rows(
                self.params,
                self.lora,
                self.store,
                batch,
                config=self.config,
                kernels=self.kernels,
                size=DecodeSize(view_length if self._views else 0, self.settings.max_steps, self.settings.draft_tokens),
                forbidden=self.forbidden,
            )
        return jax.device_get(decoded)

    def copy(self, source_part: int, sources_N: np.ndarray, target_part: int, targets_N: np.ndarray) -> None:
        """Copies pages of a part to pages of a part. A target may occur twice, with the same source."""
        places = (np.int32(source_part), sources_N, np.int32(target_part), targets_N)
        with self._on_mesh():
            self.store = page_copies.copy_pages(self.store, *places)

    def read(self, part: int, pages_P: np.ndarray) -> Kept:
        """A copy on the host of pages of a part, for `write`. Waits for the device.

        On a mesh each process keeps the pieces that its own devices hold: nothing is gathered.
        """
        with self._on_mesh():
            pages = page_copies.read_pages(self.store, np.int32(part), pages_P)
        return jax.device_get(pages) if self.mesh is None else jax.tree.map(_Pieces, pages)

    def write(self, kept: Kept, part: int, pages_P: np.ndarray) -> None:
        """Puts back what `read` gave, into any pages."""
        if self.mesh is not None:
            place = NamedSharding(self.mesh, spec("kept pages", kv.KEPT_AXES, self.mesh))
            kept = jax.tree.map(lambda pieces: pieces.placed(place), kept)
        with self._on_mesh():
            self.store = page_copies.write_pages(self.store, kept, np.int32(part), pages_P)

    def set_weights(self, params: Any, lora: Any) -> None:
        """Swaps the weights, and allocates pages and images if they were given back.

        Raises ValueError if the new weights differ in structure, shape or dtype (they would compile new programs).
        """
        for name, old, new in zip(("params", "lora"), self._shapes, (params, lora), strict=True):
            if old != jax.tree.map(_shape, new):
                raise ValueError(f"the new {name} differ from the engine's in structure, shape or dtype")
        self.params, self.lora = self._placed(params), lora
        if self.store is None:
            self._allocate()

    def set_adapters(self, lora: Any) -> None:
        """Swaps the adapters beside weights that stay, and allocates pages and images if they were given back.

        Raises ValueError if the weights were given back, or the new adapters differ in structure, shape or dtype.
        """
        if self.params is None:
            raise ValueError("the weights were given back: set them, too, with `set_weights`")
        if self._shapes[1] != jax.tree.map(_shape, lora):
            raise ValueError("the new lora differ from the engine's in structure, shape or dtype")
        self.lora = lora
        if self.store is None:
            self._allocate()

    def suspend(self, weights: bool = True) -> None:
        """Gives back the memory of pages, encoded images and adapters, and of the weights unless told not to.

        `set_weights` takes it again; `set_adapters` does where the weights stayed.
        """
        if weights:
            self.params = None
        self.lora = self.store = self.pool = None

    def block_until_ready(self) -> None:
        """Waits until the device has done all it was told."""
        jax.block_until_ready((self.store, self.pool))

    def _allocate(self) -> None:
        settings, width = self.settings, self.config.text.hidden_size
        taps, rows = len(self.config.vision.deepstack_visual_indexes), settings.visual_tokens

        def pages() -> kv.PageStore:
            count = self.layout.parts * pages_of_part(settings, self.layout.parts)
            return kv.init_store(self.config, count, settings.page_tokens, settings.kv)

        def images() -> VisualFeatures:
            return VisualFeatures(jnp.zeros((rows, width), self._dtype), jnp.zeros((taps, rows, width), self._dtype))

        if self.mesh is None:
            self.store, self.pool = pages(), images()
            return
        # made in their places: no device has room for all pages
        self.store = jax.jit(pages, out_shardings=store_sharding(self.mesh))()
        self.pool = jax.jit(images, out_shardings=NamedSharding(self.mesh, PartitionSpec()))()

    def _placed(self, params: Any) -> Any:
        """The weights as the programs take them: in int8 if asked, and layer by layer where they are unrolled."""
        apart = self.kernels.slots == "in_place"
        if self.settings.weights == "given" and not apart:
            return params

        def place(params: Any) -> Any:
            params = in_int8(params, self.config) if self.settings.weights == "int8" else params
            return unstacked(params) if apart else params

        with self._on_mesh():
            return jax.jit(place)(params)

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


class _Pieces:
    """The distinct pieces of an array that this process's devices hold, in host memory."""

    def __init__(self, x: jax.Array):
        self._shape = x.shape
        self._pieces: dict[tuple[tuple[int, int, int], ...], np.ndarray] = {}
        for shard in x.addressable_shards:
            key = self._key(shard.index)
            if key not in self._pieces:
                self._pieces[key] = np.asarray(shard.data)

    def placed(self, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(self._shape, sharding, lambda index: self._pieces[self._key(index)])

    def _key(self, index: Any) -> tuple[tuple[int, int, int], ...]:
        return tuple(part.indices(size) for part, size in zip(index, self._shape, strict=True))


def _shape(leaf: Any) -> tuple[tuple[int, ...], Any]:
    return leaf.shape, leaf.dtype
