"""AdamW as the paper trains: warm-up then cosine or constant, global-norm clipping, moments in a chosen precision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from hypereyes_jax.configs.training import OptimizerConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.optax_pieces import has_own_warmup, named_optimizer, named_schedule


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Step -> learning rate. Warm-up is linear from 1/warmup of the peak, so that the first step already moves.

    Raises UserError for a schedule that there isn't.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    own_schedule = None if config.schedule in ("cosine", "constant") else named_schedule(config)
    if own_schedule is not None and has_own_warmup(config):
        return own_schedule

    def schedule(step: jax.Array) -> jax.Array:
        rising = peak * (step + 1) / max(warmup, 1)
        if own_schedule is not None:
            after = jnp.asarray(own_schedule(step - warmup), jnp.float32)
        elif config.schedule == "constant":
            after = jnp.asarray(peak, jnp.float32)
        else:
            progress = jnp.clip((step - warmup) / max(config.total_steps - warmup, 1), 0.0, 1.0)
            low = config.final_learning_rate
            after = low + 0.5 * (peak - low) * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup, rising, after)

    return schedule


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(getattr(key, "key", getattr(key, "name", key))) for key in path]


def _is_norm_or_bias(names: list[str]) -> bool:
    return "norm" in "/".join(names) or names[-1].endswith("_b")


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay applies to: not norms' scales, not biases (as Megatron does).

    By name, not rank: layers are stacked, so that a norm's scale has two axes.
    """

    return jax.tree_util.tree_map_with_path(lambda path, _: not _is_norm_or_bias(_names(path)), params)


def matrices(params: Any) -> Any:
    """Which axes Muon orthogonalises: (in, out) of every layer's matrices. None for the leaves that Adam trains."""

    def axes(path: tuple[Any, ...], leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        names = _names(path)
        if _is_norm_or_bias(names) or names[-1] in ("embed", "lm_head", "pos", "patch_w"):
            return None
        into = 1 if names[-1] == "qkv_w" else leaf.ndim - 2  # [layer, in, 3, out]
        return optax.contrib.MuonDimensionNumbers((into,), (leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(axes, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, Adam (or Muon), decoupled weight decay, learning rate. Gradients arrive in float32.

    Raises UserError for a schedule or an optimiser that there isn't, or options that it does not take.
    """
    if config.name != "adamw":
        if config.muon_learning_rate is not None:
            raise UserError(f"the optimizer is {config.name}: leave --sizes.learner.optimizer.muon-learning-rate out")
        optimizer = named_optimizer(config, learning_rate(config), decayed)
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if config.options:
        raise UserError("adamw takes its options from the settings: leave --sizes.learner.optimizer.options out")
    if config.schedule_options and config.schedule in ("cosine", "constant"):
        raise UserError(f"the schedule {config.schedule} takes no --sizes.learner.optimizer.schedule-options")
    if config.muon_learning_rate is not None:
        rate, ratio = learning_rate(config), config.muon_learning_rate / config.learning_rate
        return optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.contrib.muon(
                learning_rate=lambda step: ratio * rate(step),
                eps=config.eps,
                mu_dtype=jnp.dtype(config.first_moment_dtype),
                weight_decay=config.weight_decay,
                adam_b1=config.b1,
                adam_b2=config.b2,
                adam_learning_rate=rate,
                muon_weight_dimension_numbers=matrices,
            ),
        )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=jnp.dtype(config.first_moment_dtype)),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
