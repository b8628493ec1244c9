"""TRACE: the tool-efficiency reward, ranked inside a group against a moving reference."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.trace import TraceConfig
from hypereyes_jax.rl.shape_checks import check_arrays


def trace_reward(
    accuracy_G: jax.Array,
    rounds_G: jax.Array,
    invocations_G: jax.Array,
    ref_rounds: jax.Array | int,
    ref_invocations: jax.Array | int,
    config: TraceConfig = TraceConfig(),
    valid_G: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes the TRACE tool reward and the total reward of one group of rollouts.

    For each rollout, with t_c rounds, t_s invocations and references c, s:

      * format failure (accuracy <= -0.5): tool 0;
      * wrong (accuracy <= 0): `wrong_penalty` if t_c < c or t_c > trunc(band * c), else 0;
      * correct with t_c = 0: tool 0;
      * correct and t_c <= c and t_s <= s (efficient), or correct otherwise (redundant): within each of the two sets the
        distinct keys (t_c, t_s) in lexicographic order have ranks k = 0 .. M-1 and tool = high - (high - low) * k / (M
        - 1); high if M = 1.

    total = accuracy + tool. A reference of -1 means "none": no count is within it, so every correct tool user is
    redundant and every wrong answer leaves the band, as in the authors' published code. Unlike there, nothing is
    rounded to four decimals. A group of one is scored by the same rules; it is `group_relative_advantage` that gives it
    no signal.

    Args:
      accuracy_G: [..., G] real; 1 correct, 0 wrong, -0.5 format failure (a fraction in (0, 1] counts as correct).
      rounds_G: [..., G] integer, turns that called a tool (t_c).
      invocations_G: [..., G] integer, searches really made (t_s).
      ref_rounds: [...] integer, the question's reference t_c; may be traced.
      ref_invocations: [...] integer, the question's reference t_s; may be traced.
      config: constants.
      valid_G: [..., G] mask, optional; a rollout with 0 (padding, or an outage of search or judge) takes no rank and
        gets 0, 0.

    Returns:
      (tool, total), both [..., G] floating.

    Raises:
      ValueError, TypeError: shapes or dtypes do not fit.

    Source: R_tool of TRACE, arXiv 2605.07177; edge rules and constants from the authors' published code.
    """
    accuracy, rounds, invocations, ref_c, ref_s, valid = check_arrays(
        "trace_reward",
        accuracy_G=(accuracy_G, "*G", "real"),
        rounds_G=(rounds_G, "*G", "int"),
        invocations_G=(invocations_G, "*G", "int"),
        ref_rounds=(ref_rounds, "*", "int"),
        ref_invocations=(ref_invocations, "*", "int"),
        valid_G=(valid_G, "*G", "mask"),
    )
    ref_c, ref_s = ref_c[..., None], ref_s[..., None]
    if valid is None:
        valid = jnp.ones(accuracy.shape, bool)

    readable = accuracy > config.format_failure
    correct = accuracy > 0
    uses_tools = valid & correct & (rounds > 0)
    within = (rounds <= ref_c) & (invocations <= ref_s)
    in_band = (rounds >= ref_c) & (rounds <= jnp.trunc(config.band * ref_c))

    efficient = _ranked(uses_tools & within, rounds, invocations, config.efficient_high, config.efficient_low)
    redundant = _ranked(uses_tools & ~within, rounds, invocations, config.redundant_high, config.redundant_low)
    wrong = jnp.where(in_band, 0.0, config.wrong_penalty)

    tool = jnp.where(correct, jnp.where(uses_tools, jnp.where(within, efficient, redundant), 0.0), wrong)
    tool = jnp.where(readable & valid, tool, 0.0).astype(accuracy.dtype)
    if not config.score_without_reference:
        tool = jnp.where((ref_c < 0) | (ref_s < 0), 0.0, tool)
    return tool, jnp.where(valid, accuracy + tool, 0.0)


def _ranked(member_G: jax.Array, rounds_G: jax.Array, invocations_G: jax.Array, high: float, low: float) -> jax.Array:
    """Spreads [high, low] over the members' dense lexicographic ranks by (rounds, invocations); elsewhere unused."""
    group = member_G.shape[-1]
    # Pairwise over [.., i, j]: groups are small, and unlike a sort this has no special case for ties or an empty set.
    c_i, c_j = rounds_G[..., :, None], rounds_G[..., None, :]
    s_i, s_j = invocations_G[..., :, None], invocations_G[..., None, :]
    same = (c_i == c_j) & (s_i == s_j) & member_G[..., None, :]
    earlier = jnp.tril(jnp.ones((group, group), bool), -1)
    first_of_key = member_G & ~jnp.any(same & earlier, axis=-1)
    smaller = ((c_j < c_i) | ((c_j == c_i) & (s_j < s_i))) & first_of_key[..., None, :]
    rank = jnp.sum(smaller, axis=-1)
    steps = jnp.maximum(jnp.sum(first_of_key, axis=-1, keepdims=True) - 1, 1)
    return high - (high - low) * (rank / steps)
