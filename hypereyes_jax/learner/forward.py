"""One pass of a model over a packed micro-batch, as every loss makes it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import RoutingReplay
from hypereyes_jax.learner.state import Params
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.qwen3_vl import Kernels, lm_head
from hypereyes_jax.models.qwen3_vl.model import hidden_states_and_load
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad, Routing
from hypereyes_jax.processing.types import ModelInputs
from hypereyes_jax.rl.logprobs import token_logprobs


@dataclass(frozen=True)
class Forward:
    """A model, and how its passes are computed. The same for every batch, so a program is compiled for it."""

    config: Qwen3VLConfig
    kernels: Kernels
    compute_dtype: str = "float32"
    """Weights are cast to it for the pass."""
    remat: str = "none"
    """What the backward pass computes again: "none", "dots" or "full"."""
    vocab_shards: int = 1
    """Devices that share the vocabulary of the head."""

    def hidden(
        self,
        params: Params,
        lora: Lora | None,
        inputs: ModelInputs,
        dropout_key: jax.Array | None = None,
        routing: Routing = Routing(),  # noqa: B008 - holds nothing that changes
    ) -> tuple[jax.Array, RouterLoad | None]:
        """([B, T, D] after the final norm, the router's load of each layer; None for a dense model).

        Args:
          dropout_key: of the adapters' dropout; None = without.
          routing: which experts the tokens are sent to, where that is not the router's choice.
        """
        return hidden_states_and_load(
            cast(params, self.compute_dtype),
            self.config,
            inputs,
            cast(lora, self.compute_dtype),
            remat=self.remat,
            dropout_key=dropout_key,
            kernels=self.kernels,
            routing=routing,
        )

    def routing(self, replay: RoutingReplay, experts_BCT: jax.Array | None) -> Routing:
        """What `hidden` takes for a batch that brings the sampler's choices along, as `PackedBatch.experts_MBCT`.

        Raises ValueError if they are to be replayed and are not there.
        """
        if replay == "off":
            return Routing()
        if replay == "trainer":
            return Routing(keep=True)
        if experts_BCT is None:
            raise ValueError(
                'routing_replay="sampler" needs batches that hold the sampler\'s experts: PackConfig.routes'
            )
        rows, _, tokens = experts_BCT.shape
        each = self.config.text.num_experts_per_tok
        experts_LBTK = experts_BCT.reshape(rows, -1, each, tokens).transpose(1, 0, 3, 2)
        return Routing(experts_LBTK, keep=True)

    def head(self, params: Params) -> jax.Array:
        """[D, V], of the language model."""
        return lm_head(cast(params, self.compute_dtype), self.config)

    def logprobs(
        self,
        hidden_BTD: jax.Array,
        head_DV: jax.Array,
        targets_BT: jax.Array,
        temperature: float | jax.Array = 1.0,
    ) -> tuple[jax.Array, jax.Array]:
        """(log-probs of the targets, entropies), float32 [B, T], in nats."""
        return token_logprobs(hidden_BTD, head_DV, targets_BT, temperature, vocab_shards=self.vocab_shards)


def cast(tree: Params, dtype: str) -> Params:
    """The tree with its floating-point leaves in `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def reads_alike(one: Qwen3VLConfig, other: Qwen3VLConfig) -> bool:
    """Whether one batch serves both models: the same image tokens, patches and position table, and vocabulary size."""

    def of(config: Qwen3VLConfig) -> tuple[int, ...]:
        vision = config.vision
        images = (config.image_token_id, config.video_token_id, config.vision_start_token_id)
        patches = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size, vision.in_channels)
        return (*images, *patches, vision.num_position_embeddings, config.text.vocab_size)

    return of(one) == of(other)
