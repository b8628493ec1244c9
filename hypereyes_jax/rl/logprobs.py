"""Log-probs and entropies of given tokens, straight from hidden states, without the [B, T, V] logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hypereyes_jax.rl.shape_checks import check_arrays

# Columns of the head per step. The logits of a step are [B, T, chunk]; wide enough for full matmul speed.
_CHUNK = 4096


def token_logprobs(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    temperature: float | jax.Array = 1.0,
    chunk: int = _CHUNK,
    vocab_shards: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Computes log softmax(hidden @ head / temperature)[target] and the entropy of that distribution, for each token.

    The vocabulary is walked in chunks with a running log-sum-exp, forwards and (recomputing the chunk's logits)
    backwards, so that memory grows with B * T * chunk and never with B * T * V. Differentiable in `hidden_BTD` and
    `head_DV`, through both results. Matmuls run in the inputs' dtype with float32 accumulation; everything else is
    float32.

    The chunks run over the vocabulary, not over tokens, because then a chunk of the head's gradient is complete after
    one matmul over all tokens: it is written once (a token-chunked form would add up the whole [D, V] again and again),
    and on a mesh it is reduced over the batch axes once. The head may be sharded over D freely; when it is sharded over
    V, pass the number of shards, and each step takes its columns from every shard, so that no shard moves.

    Args:
      hidden_BTD: [B, T, D] floating, after the final norm.
      head_DV: [D, V] floating.
      targets_BT: [B, T] integer in [0, V). Elsewhere (padding ids) the result is finite but meaningless: mask it.
      temperature: scalar > 0, the logits' divisor; may be traced, is not differentiated.
      chunk: columns of the head per step, over all shards.
      vocab_shards: number of equal shards of the head's V axis; must divide V.

    Returns:
      (logp_BT, entropy_BT), float32, nats.

    Raises:
      ValueError, TypeError: shapes, dtypes, chunk or vocab_shards do not fit.

    Source: log-probs at the rollout temperature, authors' published code of arXiv 2605.07177; running softmax, arXiv
    1805.02867.
    """
    _, _, targets, _ = check_arrays(
        "token_logprobs",
        hidden_BTD=(hidden_BTD, "BTD", "float"),
        head_DV=(head_DV, "DV", "float"),
        targets_BT=(targets_BT, "BT", "int"),
        temperature=(temperature, "", "real"),
    )
    vocab = head_DV.shape[1]
    if chunk < 1 or vocab_shards < 1 or vocab % vocab_shards:
        raise ValueError(
            f"token_logprobs: chunk must be positive, got {chunk}, and vocab_shards must divide V = {vocab}, "
            f"got {vocab_shards}."
        )
    head = head_DV.reshape(head_DV.shape[0], vocab_shards, vocab // vocab_shards)
    width = max(1, min(chunk // vocab_shards, head.shape[2]))
    scale = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
    return _logprobs(width, hidden_BTD, head, targets, scale)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(width: int, hidden: jax.Array, head: jax.Array, targets: jax.Array, scale: jax.Array) -> Any:
    return _forward(width, hidden, head, targets, scale)[0]


def _forward(width: int, hidden: jax.Array, head: jax.Array, targets: jax.Array, scale: jax.Array) -> Any:
    def step(start: Any, columns: int, carry: Any) -> Any:
        peak, mass, moment, target_logit = carry
        part = jax.lax.dynamic_slice_in_dim(head, start, columns, axis=2)
        logits = _logits(hidden, part, scale)
        new_peak = jnp.maximum(peak, jnp.max(logits, axis=(2, 3)))
        shifted = logits - new_peak[:, :, None, None]
        weights = jnp.exp(shifted)
        # With a new peak, sum(w) and sum(w * (l - peak)) are carried over exactly.
        shift = peak - new_peak
        moment = jnp.exp(shift) * (moment + mass * shift) + jnp.sum(weights * shifted, axis=(2, 3))
        mass = jnp.exp(shift) * mass + jnp.sum(weights, axis=(2, 3))
        hit = _ids(head, start, columns) == targets[:, :, None, None]
        return new_peak, mass, moment, target_logit + jnp.sum(jnp.where(hit, logits, 0.0), axis=(2, 3))

    zeros = jnp.zeros(targets.shape, jnp.float32)
    lowest = jnp.full(targets.shape, jnp.finfo(jnp.float32).min / 2)  # finite: -inf - -inf is NaN
    peak, mass, moment, target_logit = _walk(head.shape[2], width, step, (lowest, zeros, zeros, zeros))
    log_mass = jnp.log(mass)
    entropy = log_mass - moment / mass
    return (target_logit - peak - log_mass, entropy), (hidden, head, targets, scale, peak + log_mass, entropy)


def _backward(width: int, residuals: Any, cotangents: Any) -> Any:
    hidden, head, targets, scale, log_normaliser, entropy = residuals
    d_logp, d_entropy = (g[:, :, None, None] for g in cotangents)
    dtype = jnp.result_type(hidden, head)

    def step(start: Any, columns: int, carry: Any) -> Any:
        d_hidden, d_head = carry
        part = jax.lax.dynamic_slice_in_dim(head, start, columns, axis=2)
        logp = _logits(hidden, part, scale) - log_normaliser[:, :, None, None]
        hit = _ids(head, start, columns) == targets[:, :, None, None]
        # d logp_y / d l_v = [v = y] - p_v ;  d entropy / d l_v = -p_v (log p_v + entropy)
        d_logits = jnp.where(hit, d_logp, 0.0) - jnp.exp(logp) * (
            d_logp + d_entropy * (logp + entropy[:, :, None, None])
        )
        d_logits = (d_logits * scale).astype(dtype)
        d_hidden += jnp.einsum("btsc,dsc->btd", d_logits, part, preferred_element_type=jnp.float32)
        d_part = jnp.einsum("btd,btsc->dsc", hidden, d_logits, preferred_element_type=jnp.float32)
        return d_hidden, jax.lax.dynamic_update_slice_in_dim(d_head, d_part.astype(head.dtype), start, axis=2)

    start_values = (jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, head.dtype))
    d_hidden, d_head = _walk(head.shape[2], width, step, start_values)
    return d_hidden.astype(hidden.dtype), d_head, None, jnp.zeros_like(scale)


_logprobs.defvjp(_forward, _backward)


def _walk(size: int, width: int, step: Callable[[Any, int, Any], Any], carry: Any) -> Any:
    """Runs `step(start, columns, carry)` over [0, size), `width` columns at a time, one narrower step for the rest."""
    full = size // width
    # The rest goes first: with the loop last, XLA builds the head's gradient in the output buffer, without a copy.
    if size % width:
        carry = step(full * width, size % width, carry)
    return jax.lax.fori_loop(0, full, lambda i, c: step(i * width, width, c), carry)


def _logits(hidden: jax.Array, part: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.einsum("btd,dsc->btsc", hidden, part, preferred_element_type=jnp.float32) * scale


def _ids(head: jax.Array, start: Any, columns: int) -> jax.Array:
    """The vocabulary ids [S, columns] of the chunk that begins at `start` in each shard."""
    shards, size = head.shape[1:]
    return jnp.arange(shards)[:, None] * size + start + jnp.arange(columns)
