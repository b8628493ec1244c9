"""How rewards of a group become advantages: the paper's way, Dr. GRPO's, or a user's own by `module:object`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hypereyes_jax.configs.objects import NamedObject, in_words, instance, named_object, refuse_coroutine
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.reward import numbers, read_only
from hypereyes_jax.rl.advantages import group_centred_advantage, group_relative_advantage

# A function of rewards [G] and valid [G] (bool), which gives [G].
Advantage = Callable[[Any, Any], Any]

_SHIPPED: dict[str, Advantage] = {
    "group-relative": group_relative_advantage,
    "group-centred": group_centred_advantage,
}


def chosen_advantage(name: str) -> Advantage:
    """The advantage that `RewardConfig.advantage` names, one of those shipped or a user's.

    Raises:
      UserError: there is none of this name, or as `load_advantage`.
    """
    if ":" in name:
        return load_advantage(name)[0]
    if name not in _SHIPPED:
        names = ", ".join(_SHIPPED)
        raise UserError(f"there is no advantage {name!r}: name {names}, or one of your own as module:object")
    return _SHIPPED[name]


def load_advantage(own: str | Advantage | NamedObject) -> tuple[Advantage, NamedObject]:
    """A user's advantage, by name or as a function, and where it came from.

    It is called once on a made-up group of four rollouts, one of them masked.

    Raises:
      UserError: it can't be loaded, or does not give one finite number a rollout.
    """
    source = named_object(own, "advantage")
    function = instance(source)

    def advantage(rewards_G: Any, valid_G: Any) -> np.ndarray:
        """Float32 [G], 0 where masked. Raises ValueError for what are not advantages of these rewards."""
        valid = np.asarray(valid_G, bool)
        given = function(read_only(rewards_G), read_only(valid))
        refuse_coroutine(given, source.name)
        values = numbers(given)
        if values.shape != valid.shape:
            raise ValueError(f"the advantage {source.name} gave shape {values.shape} for {len(valid)} rollouts")
        if not np.all(np.isfinite(values[valid])):
            raise ValueError(f"the advantage {source.name} gave numbers that are not finite: {values.tolist()}")
        return np.where(valid, values, np.float32(0))

    try:
        advantage(np.array([1.2, 0.9, 0.0, 0.0], np.float32), np.array([True, True, True, False]))
    except Exception as error:
        raise UserError(
            f"the advantage {source.name} failed on a made-up group of four rollouts: {in_words(error)}. It must take "
            "rewards [G] and valid [G] (bool), and return an array of one number a rollout"
        ) from error
    return advantage, source
