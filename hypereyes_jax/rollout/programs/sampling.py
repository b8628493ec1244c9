"""Draws tokens from truncated distributions without sorting the vocabulary.

A sort of [64, 2048] takes XLA 13 ms on a CPU core, which is more than a decode step of a small model. Top-k and top-p
both keep every token whose probability is at or above some threshold, so the threshold is found by bisection on the
bits of a float32: exact, 0.5 ms, and friendly to a vocabulary that is sharded over devices.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BLOCK = 64  # weights that `_drawn` looks at one by one
_ONE = 0x3F800000  # bits of 1.0: positive floats are ordered like their bits


class Draw(NamedTuple):
    """One token for each row."""

    tokens_R: jax.Array  # int32
    logp_truncated_R: jax.Array  # float32, under the truncated distribution the token was drawn from
    logp_full_R: jax.Array  # float32, at the sampling temperature over the full vocabulary


def sample(
    logits_RV: jax.Array,
    uniform_R: jax.Array,
    temperature_R: jax.Array,
    top_p_R: jax.Array,
    top_k_R: jax.Array,
    min_p_R: jax.Array,
    forbidden: tuple[int, ...] = (),
    *,
    branchless: bool = False,
) -> Draw:
    """Temperature, then top-k, then top-p of what is left, then min-p (relative to the most likely token).

    Tokens exactly as likely as the last one kept are kept, too. A temperature of 0 is greedy: the first token of
    greatest logit, truncated log-prob 0, and full log-prob at temperature 1.

    Args:
      logits_RV: float [R, V].
      uniform_R: float32 in [0, 1); a row's token depends on its own logits and its own number only.
      temperature_R, top_p_R, min_p_R: float32; top_p >= 1 and min_p = 0 are off.
      top_k_R: int32; 0 is off.
      forbidden: ids that are never drawn (they still count in logp_full).
      branchless: look for both thresholds whether anyone asks for them or not, in a few wide steps: for GPUs, where
        each branch and each of many small steps costs more than what it saves.
    """
    greedy_R = temperature_R <= 0
    scaled_RV = logits_RV.astype(jnp.float32) / jnp.where(greedy_R, 1.0, temperature_R)[:, None]
    full_R = jax.nn.logsumexp(scaled_RV, axis=-1)
    closed_V = jnp.any(jnp.arange(scaled_RV.shape[1])[:, None] == jnp.array(forbidden, jnp.int32), axis=1)
    open_RV = jnp.where(closed_V, -jnp.inf, scaled_RV) if forbidden else scaled_RV
    top_R = open_RV.max(-1)
    weight_RV = jnp.exp(open_RV - top_R[:, None])  # the most likely token has weight 1

    largest_threshold = _largest_threshold_by_digits if branchless else _largest_threshold

    def by_count(_: None) -> jax.Array:
        limit_R = jnp.where(top_k_R > 0, top_k_R, weight_RV.shape[1])
        return largest_threshold(lambda t_R: (weight_RV >= t_R[:, None]).sum(-1) >= limit_R, top_R)

    # Conditionals, not flags of the program: a setting that nobody uses costs nothing, and needs no other program.
    off_R = jnp.zeros_like(top_R)
    threshold_R = by_count(None) if branchless else jax.lax.cond(jnp.any(top_k_R > 0), by_count, lambda _: off_R, None)
    mass_R = _mass(weight_RV, threshold_R)

    def by_mass(_: None) -> jax.Array:
        return largest_threshold(lambda t_R: _mass(weight_RV, t_R) >= top_p_R * mass_R, top_R)

    some = jnp.any((top_p_R < 1) & ~greedy_R)
    nucleus_R = by_mass(None) if branchless else jax.lax.cond(some, by_mass, lambda _: off_R, None)
    threshold_R = jnp.maximum(threshold_R, jnp.where(top_p_R < 1, nucleus_R, 0.0))
    threshold_R = jnp.where(greedy_R, 1.0, jnp.maximum(threshold_R, min_p_R))

    kept_RV = jnp.where(weight_RV >= threshold_R[:, None], weight_RV, 0.0)
    tokens_R, total_R = _drawn(kept_RV, jnp.where(greedy_R, 0.0, uniform_R))
    chosen_R = jnp.take_along_axis(scaled_RV, tokens_R[:, None], axis=-1)[:, 0]
    truncated_R = jnp.where(greedy_R, 0.0, chosen_R - top_R - jnp.log(total_R))
    return Draw(tokens_R, truncated_R, chosen_R - full_R)


def uniforms(keys_R2: jax.Array, index_R: jax.Array) -> jax.Array:
    """float32 [R] in [0, 1): number `index` of each request's own stream.

    Args:
      keys_R2: uint32, raw threefry keys of the requests.
      index_R: int32, how many tokens each request has sampled before.
    """

    def one(key_2: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(key_2, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(key, index))

    return jax.vmap(one)(keys_R2, index_R)


def _drawn(weight_RV: jax.Array, uniform_R: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index, total): the first place where the running sum of a row's weights exceeds its share of their total.

    In two steps, first which block, then where in it, so that no running sum of the whole row is made.
    """
    rows, size = weight_RV.shape
    blocks_RNB = jnp.pad(weight_RV, ((0, 0), (0, -size % _BLOCK))).reshape(rows, -1, _BLOCK)
    sum_RN = jnp.cumsum(blocks_RNB.sum(-1), axis=-1)
    total_R = sum_RN[:, -1]
    # below the total even where the product rounds up, so that some block always ends above the target
    target_R = jnp.minimum(uniform_R, 1 - 2**-23) * total_R
    block_R = (sum_RN <= target_R[:, None]).sum(-1)
    before_R = jnp.where(block_R > 0, jnp.take_along_axis(sum_RN, jnp.maximum(block_R - 1, 0)[:, None], 1)[:, 0], 0.0)
    weight_RB = jnp.take_along_axis(blocks_RNB, block_R[:, None, None], axis=1)[:, 0]
    inside_R = (before_R[:, None] + jnp.cumsum(weight_RB, axis=-1) <= target_R[:, None]).sum(-1)
    # The weights of a block one by one can add up to a little less than its sum: then it is the last one that counts.
    last_R = _BLOCK - 1 - jnp.argmax(weight_RB[:, ::-1] > 0, axis=-1)
    return (block_R * _BLOCK + jnp.minimum(inside_R, last_R)).astype(jnp.int32), total_R


def _mass(weight_RV: jax.Array, threshold_R: jax.Array) -> jax.Array:
    return jnp.where(weight_RV >= threshold_R[:, None], weight_RV, 0.0).sum(-1)


def _largest_threshold(holds, like_R: jax.Array) -> jax.Array:
    """The largest float in [0, 1] for which a condition holds that is true at 0 and, once false, stays false."""

    def body(i: jax.Array, bits_R: jax.Array) -> jax.Array:
        candidate_R = bits_R | (1 << (29 - i))
        threshold_R = jax.lax.bitcast_convert_type(candidate_R, jnp.float32)
        return jnp.where((candidate_R <= _ONE) & holds(threshold_R), candidate_R, bits_R)

    bits_R = jax.lax.fori_loop(0, 30, body, jnp.zeros(like_R.shape, jnp.int32))
    return jax.lax.bitcast_convert_type(bits_R, jnp.float32)


def _largest_threshold_by_digits(holds, like_R: jax.Array) -> jax.Array:
    """Does what `_largest_threshold` does, five bits at a time: one pass over the weights tries all 31 digits."""
    digits = jnp.arange(1, 32, dtype=jnp.int32)
    bits_R = jnp.zeros(like_R.shape, jnp.int32)
    for shift in range(25, -1, -5):
        candidate_CR = bits_R | (digits[:, None] << shift)
        holds_CR = jax.vmap(holds)(jax.lax.bitcast_convert_type(candidate_CR, jnp.float32))
        bits_R |= jnp.sum((candidate_CR <= _ONE) & holds_CR, axis=0, dtype=jnp.int32) << shift
    return jax.lax.bitcast_convert_type(bits_R, jnp.float32)
