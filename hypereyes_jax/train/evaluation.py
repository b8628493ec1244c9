"""The sizes and rules under which a policy is evaluated. Nothing here brings jax along: bad ones are told at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypereyes_jax import miniature
from hypereyes_jax.env.config import EpisodeConfig, Manner
from hypereyes_jax.env.manner import in_manner
from hypereyes_jax.errors import UserError
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes, known_recipe, sizes_of

_MINIATURE = replace(MINIATURE_RL, slots=32)


def evaluation_sizes(
    recipe: str,
    episode: EpisodeConfig,
    *,
    slots: int | None = None,
    context: int | None = None,
    turn_tokens: int | None = None,
    dtype: str = "",
) -> TrainingSizes:
    """A recipe's sizes of the engine and rules of episodes, with those numbers that are given in their place.

    Args:
      recipe: the miniature, or one of RL.
      episode: rules that differ from the defaults take the place of the recipe's.
      dtype: of weights and caches; "" takes the recipe's.

    Raises:
      UserError: there is no such recipe, or a number is one there can't be.
    """
    sizes = _MINIATURE if recipe == "miniature" else sizes_of(known_recipe(recipe, "rl"))
    options: dict[str, Any] = {"slots": slots, "context": context, "turn_tokens": turn_tokens}
    sizes = replace(sizes, **{name: value for name, value in options.items() if value is not None})
    if dtype and dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {dtype}: it must be float32 or bfloat16")
    learner = replace(sizes.learner, compute_dtype=dtype or sizes.learner.compute_dtype)
    prompt = min(sizes.prompt_tokens, sizes.context)
    return replace(sizes, learner=learner, episode=episode.over(sizes.episode), prompt_tokens=prompt)


def benchmark_rules(rules: EpisodeConfig, manner: Manner, budget: int | None, distractors: int) -> EpisodeConfig:
    """The rules of a benchmark's episodes.

    Args:
      rules: those of other episodes.
      budget: search rounds that an episode may take; None = the rules' number.
      distractors: so many results more are shown of each search.

    Raises:
      UserError: the manner fixes the rounds, it can't be added to the prompt, or a number is negative.
    """
    if rules == miniature.EPISODE and (manner == "llm-crop" or manner == "code-crop"):
        rules = miniature.episode(manner)
    rules = in_manner(rules, manner)
    if budget is not None:
        if budget < 0 or manner in ("direct", "workflow"):
            raise UserError("--budget must be at least 0 rounds, of a manner whose rounds are not fixed.")
        rules = replace(rules, max_rounds=budget, max_turns=budget + 1)
    if distractors < 0:
        raise UserError("--distractors must be at least 0.")
    return replace(rules, text_k=rules.text_k + distractors, image_k=rules.image_k + distractors)
