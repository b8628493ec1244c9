"""Rewards, advantages and losses as pure functions, and the learner built from them."""

from hypereyes_jax.configs.reward import TraceConfig
from hypereyes_jax.rl.advantages import group_relative_advantage
from hypereyes_jax.rl.aggregate import aggregate
from hypereyes_jax.rl.cost_weighted import cost_weighted_reward
from hypereyes_jax.rl.distill import opd_advantage, reverse_kl, reverse_kl_support, reverse_kl_topk
from hypereyes_jax.rl.logprobs import token_logprobs
from hypereyes_jax.rl.policy_loss import policy_loss
from hypereyes_jax.rl.references import (
    NO_REFERENCE,
    Reference,
    ReferenceFileError,
    ReferenceStore,
    best_correct,
)
from hypereyes_jax.rl.trace import trace_reward

__all__ = [
    "NO_REFERENCE",
    "Reference",
    "ReferenceFileError",
    "ReferenceStore",
    "TraceConfig",
    "aggregate",
    "best_correct",
    "cost_weighted_reward",
    "group_relative_advantage",
    "opd_advantage",
    "policy_loss",
    "reverse_kl",
    "reverse_kl_support",
    "reverse_kl_topk",
    "token_logprobs",
    "trace_reward",
]
