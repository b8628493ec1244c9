"""Proof that the tokens come from the weights that were sent, and not from those before."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.qwen3_vl import Kernels, forward
from hypereyes_jax.processing import pack_inputs
from hypereyes_jax.rollout.engine import Engine


class EchoError(Exception):
    """An engine samples from other weights than it was given."""


def expected_logps(
    config: Qwen3VLConfig, params: Any, lora: Any, tokens: np.ndarray, kernels: Kernels | None = None
) -> np.ndarray:
    """float32 [n - 1]: log-probs of tokens[1:], each given those before it, at temperature 1."""
    inputs = pack_inputs(config, [(tokens.tolist(), [])])
    logits_TV = forward(params, config, inputs, lora, kernels=kernels or Kernels())[0]
    logp_TV = jax.nn.log_softmax(logits_TV.astype(jnp.float32))
    return np.asarray(logp_TV[np.arange(len(tokens) - 1), tokens[1:]])


def echo_check(
    engine: Engine, params: Any, lora: Any, probe: np.ndarray, *, steps: int = 4, tolerance: float = 1e-3
) -> float:
    """Lets the engine continue a probe greedily, and compares its log-probs with those of these weights.

    It runs in a spare slot, through the programs that sample rollouts. Another update's weights differ by far more than
    rounding does, which `tolerance` covers (raise it for int8 keys and values, see docs/rollout.md).

    Args:
      params, lora: the weights that the engine should have, on the learner's side.
      probe: int32 text tokens, of the kind the model sees.
      steps: tokens to sample.

    Returns:
      The largest difference in log-prob.

    Raises:
      EchoError: it is above `tolerance`.
    """
    sampled = engine.greedy(probe, steps)
    tokens = np.concatenate([np.asarray(probe, np.int32), sampled.tokens])
    expected = expected_logps(engine.config, params, lora, tokens, engine.kernels)[-len(sampled.tokens) :]
    error = float(np.abs(expected - sampled.logp_full).max())
    if not error <= tolerance:
        raise EchoError(
            f"log-probs differ by {error:.3g} (tolerance {tolerance:g}): the engine, at version {engine.version}, "
            "does not sample from the weights it was compared with"
        )
    return error
