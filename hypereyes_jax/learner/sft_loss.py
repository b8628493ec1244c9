"""The loss of supervised fine-tuning on one micro-batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.learner.forward import Forward
from hypereyes_jax.learner.metrics import Metrics, mean, total
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.state import Params
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad, load_balancing_loss


def sft_loss(
    params: Params,
    lora: Lora | None,
    micro: PackedBatch,
    total_weight: jax.Array,
    forward: Forward,
    dropout_key: jax.Array | None = None,
    step_load: RouterLoad | None = None,
) -> tuple[jax.Array, Metrics]:
    """Weighted negative log-likelihood of the trained tokens, `-sum(weight * logp) / total_weight`.

    The losses of a step's micro-batches add up to that of the step. A mixture of experts adds
    `router_aux_loss_coef * load_balancing_loss`.

    Args:
      params, lora: the model's weights, and adapters beside them.
      micro: one micro-batch, fields [B, T]. Its weights decide what is averaged: see `PackConfig.weighting`.
      total_weight: float32 scalar, sum of the weights of the whole step, over all processes.
      forward: how the pass is made.
      dropout_key: of the adapters' dropout; None = without.
      step_load: the router's load over the whole step. None = each micro-batch is balanced in itself.

    Returns:
      (float32 scalar, figures: loss, logp, entropy, tokens, and router_balance of a mixture of experts: the mean over
      layers, 1 when perfectly even).
    """
    hidden_BTD, load = forward.hidden(params, lora, micro.inputs, dropout_key)
    logp_BT, entropy_BT = forward.logprobs(hidden_BTD, forward.head(params), micro.targets_MBT)
    loss = -jnp.sum(micro.weight_MBT * logp_BT) / total_weight
    mask_BT = micro.weight_MBT > 0
    metrics = {
        "loss": total(loss),
        "tokens": total(jnp.sum(mask_BT)),
        "logp": mean(logp_BT, mask_BT),
        "entropy": mean(entropy_BT, mask_BT),
    }
    if load is not None:
        if step_load is None:
            # Each micro-batch is balanced in itself; they share the coefficient by their weight in the loss.
            balance = load_balancing_loss(load) * jnp.sum(micro.weight_MBT) / total_weight
        else:
            # The shares of tokens have no gradient, and in the probabilities the loss is linear: with the whole step's
            # shares, the terms of the micro-batches add up to the loss of the whole step.
            balance = load_balancing_loss(step_load.replace(probability_E=load.probability_E))
        loss += forward.config.text.router_aux_loss_coef * balance
        metrics["router_balance"] = total(balance / forward.config.text.num_hidden_layers)
    return loss, metrics
