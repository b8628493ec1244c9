"""Rewards, advantages and losses as pure functions, and the reference store.

To use them in another trainer, copy this folder and `configs/trace.py` into a package of your own, at the same places,
and write its name in place of `hypereyes_jax`: they import nothing else of this library.
"""

from hypereyes_jax.configs.trace import TraceConfig
from hypereyes_jax.rl.advantages import group_centred_advantage, group_relative_advantage
from hypereyes_jax.rl.aggregate import aggregate
from hypereyes_jax.rl.budget import spending_cost, updated_prices
from hypereyes_jax.rl.cispo import cispo_loss
from hypereyes_jax.rl.cost_weighted import cost_weighted_reward
from hypereyes_jax.rl.distill import opd_advantage, reverse_kl, reverse_kl_topk
from hypereyes_jax.rl.dynamic_sampling import informative_groups
from hypereyes_jax.rl.gspo import gspo_loss
from hypereyes_jax.rl.importance import truncated_importance_weight
from hypereyes_jax.rl.kl_penalty import kl_penalty
from hypereyes_jax.rl.logprobs import token_logprobs
from hypereyes_jax.rl.overlong import overlong_penalty
from hypereyes_jax.rl.policy_loss import policy_loss
from hypereyes_jax.rl.references import NO_REFERENCE, Reference, ReferenceFileError, ReferenceStore
from hypereyes_jax.rl.trace import trace_reward

__all__ = [
    "NO_REFERENCE",
    "Reference",
    "ReferenceFileError",
    "ReferenceStore",
    "TraceConfig",
    "aggregate",
    "cispo_loss",
    "cost_weighted_reward",
    "group_centred_advantage",
    "group_relative_advantage",
    "gspo_loss",
    "informative_groups",
    "kl_penalty",
    "opd_advantage",
    "overlong_penalty",
    "policy_loss",
    "reverse_kl",
    "reverse_kl_topk",
    "spending_cost",
    "token_logprobs",
    "trace_reward",
    "truncated_importance_weight",
    "updated_prices",
]
