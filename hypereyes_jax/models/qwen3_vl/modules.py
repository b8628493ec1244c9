"""Qwen3-VL as Flax Linen modules, for those who embed, tabulate, partition or bridge it.

The modules hold no computation of their own: they declare the parameters that the weight table lists, under the same
names, and call the pure functions. So `Qwen3VL(config).apply({"params": params}, inputs)` works on exactly the tree
that `load_hf` returns, and gives what `forward` gives. Each parameter carries its logical axes as Flax metadata, which
`nn.get_partition_spec` reads; with a mesh it carries that mesh's axes instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.partition import RULES, spec
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.model import decode, hidden_states, lm_head
from hypereyes_jax.models.qwen3_vl.vision import VisualFeatures, encode_images
from hypereyes_jax.models.qwen3_vl.weights import Params, Weight, initial, weights
from hypereyes_jax.processing.types import ModelInputs, VisionInputs


class Parameters(nn.Module):
    """A part of the weight table as parameters; calling it gives the part's tree of arrays."""

    table: Mapping[str, Any]
    path: str = ""
    dtype: Any = jnp.float32
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self) -> Params:
        return declared(self, self.table, self.path, self.dtype, self.mesh)


def declared(
    module: nn.Module, table: Mapping[str, Any], path: str, dtype: Any, mesh: Mesh | None, skip: tuple[str, ...] = ()
) -> Params:
    """Declares a part of the weight table in `module`, whose method must be compact: the part's tree of arrays."""
    tree: Params = {}
    for name, entry in table.items():
        own = f"{path}/{name}".strip("/")
        if name in skip:
            continue
        if isinstance(entry, Weight):
            tree[name] = module.param(name, _init(entry, own, dtype, mesh))
        else:
            tree[name] = Parameters(entry, own, dtype, mesh, name=name)()
    return tree


def _init(weight: Weight, path: str, dtype: Any, mesh: Mesh | None) -> Callable[..., Any]:
    def init(key: jax.Array) -> jax.Array:
        return initial(key, weight, dtype)

    if mesh is None:
        return lambda key: LogicalAxes(init(key), weight.axes)
    return nn.with_partitioning(init, tuple(spec(path, weight.axes, mesh)), mesh)


class LogicalAxes(nn.LogicallyPartitioned):
    """The logical axes of a parameter.

    NNX shards a variable with axes as soon as it is made, and asks for a mesh. Without one these stay a note, under the
    name `logical_axes`.
    """

    def to_nnx_metadata(self) -> dict[str, Any]:
        return {"value": self.value, "logical_axes": self.names}

    @classmethod
    def from_nnx_metadata(cls, metadata: dict[str, Any]) -> LogicalAxes:
        return cls(metadata["value"], metadata["logical_axes"])


def logical_rules(mesh: Mesh) -> list[tuple[str, Any]]:
    """The sharding table for one mesh, as `nn.logical_axis_rules` and `nn.logical_to_mesh_sharding` take it."""
    names = {axis: tuple(name for name in mesh_axes if name in mesh.axis_names) for axis, mesh_axes in RULES.items()}
    return [(axis, own if len(own) > 1 else (own[0] if own else None)) for axis, own in names.items()]


class VisionTower(nn.Module):
    """The vision tower: pictures to visual tokens, ready to be embedded in a module of one's own.

    Its parameters are `params["vision"]` of a whole model.

    Attributes:
      config: of the whole model, for the tower writes tokens of the decoder's width.
      dtype: of fresh parameters; computation is in the parameters' dtype.
      mesh: names its axes in the parameters' metadata in place of the logical ones.
      remat: what the backward pass keeps: "none" (everything), "dots", "attention", "full" (least).
    """

    config: Qwen3VLConfig
    dtype: Any = jnp.float32
    mesh: Mesh | None = None
    kernels: Kernels = Kernels()
    remat: str = "none"

    @nn.compact
    def parameters(self) -> Params:
        """The tree of arrays."""
        return declared(self, weights(self.config)["vision"], "vision", self.dtype, self.mesh)

    def __call__(self, vision: VisionInputs) -> VisualFeatures:
        """Visual tokens [M, D] and DeepStack features [taps, M, D] of `hypereyes_jax.processing.vision_inputs`."""
        params = {"vision": self.parameters()}
        return encode_images(params, self.config, vision, remat=self.remat, kernels=self.kernels)


class Decoder(nn.Module):
    """The decoder with its embedding and final norm (and its head, where that is not the embedding).

    Its parameters are those of a whole model without "vision". Attributes are those of `VisionTower`.
    """

    config: Qwen3VLConfig
    dtype: Any = jnp.float32
    mesh: Mesh | None = None
    kernels: Kernels = Kernels()
    remat: str = "none"

    @nn.compact
    def parameters(self) -> Params:
        """The tree of arrays."""
        return declared(self, weights(self.config), "", self.dtype, self.mesh, skip=("vision",))

    def __call__(self, inputs: ModelInputs, visual: VisualFeatures | None = None) -> jax.Array:
        """Hidden states [B, T, D] after the final norm.

        Args:
          visual: what the vision tower made of the inputs' images; None without images.
        """
        x, _ = decode(self.parameters(), self.config, inputs, visual, remat=self.remat, kernels=self.kernels)
        return x


class Qwen3VL(nn.Module):
    """The whole model. Attributes are those of `VisionTower`."""

    config: Qwen3VLConfig
    dtype: Any = jnp.float32
    mesh: Mesh | None = None
    kernels: Kernels = Kernels()
    remat: str = "none"

    def setup(self) -> None:
        options = (self.config, self.dtype, self.mesh, self.kernels, self.remat)
        self.vision = VisionTower(*options)
        self.decoder = Decoder(*options)
        nn.share_scope(self, self.decoder)  # its parameters lie at the top of the tree, as in `init_params`

    def parameters(self) -> Params:
        """The tree of arrays, as `load_hf` gives it."""
        return {**self.decoder.parameters(), "vision": self.vision.parameters()}

    def hidden_states(self, inputs: ModelInputs, lora: Lora | None = None) -> jax.Array:
        """[B, T, D] after the final norm."""
        return hidden_states(self.parameters(), self.config, inputs, lora, remat=self.remat, kernels=self.kernels)

    def __call__(self, inputs: ModelInputs, lora: Lora | None = None) -> jax.Array:
        """Logits [B, T, V].

        Args:
          inputs: see `hypereyes_jax.processing.pack_inputs`.
          lora: adapters added to the linear maps they name.
        """
        params = self.parameters()
        x = hidden_states(params, self.config, inputs, lora, remat=self.remat, kernels=self.kernels)
        return x @ lm_head(params, self.config)
