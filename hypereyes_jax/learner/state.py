"""The state of training: what trains, what is frozen beside it, and how both make a model."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

Params = Any  # nested dict of arrays

TRAIN_MODES = ("full", "language", "lora")


class TrainState(struct.PyTreeNode):
    """All that changes in training, and the frozen weights beside it."""

    step: jax.Array  # int32 scalar, optimiser steps made
    trainable: Params  # the weights that train: the model's, or the adapters
    frozen: Params  # the weights that don't: {}, or the vision tower, or the whole base model
    opt_state: Any
    key: jax.Array  # uint32 [2], for dropout; folded with the step, never advanced


def split(params: Params, train: str, lora: Params | None = None) -> tuple[Params, Params]:
    """-> (trainable, frozen). `train`: "full"; "language" (vision tower frozen); "lora" (only `lora` trains)."""
    if train == "full":
        return params, {}
    if train == "language":
        return {k: v for k, v in params.items() if k != "vision"}, {"vision": params["vision"]}
    if train == "lora":
        return lora, params
    raise ValueError(f"train={train!r}: expected one of {TRAIN_MODES}")


def join(trainable: Params, frozen: Params, train: str) -> tuple[Params, Params | None]:
    """-> (params, lora), as the functions of `models.qwen3_vl` take them. The reverse of `split`."""
    return (frozen, trainable) if train == "lora" else ({**frozen, **trainable}, None)


def weights(state: TrainState, train: str) -> tuple[Params, Params | None]:
    """-> (params, lora) of a state: what a rollout engine, an evaluation or an export needs."""
    return join(state.trainable, state.frozen, train)
