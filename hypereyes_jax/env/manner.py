"""The manner in which an evaluation searches, as rules of its episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypereyes_jax.env.config import EpisodeConfig, Manner
from hypereyes_jax.env.own_prompt import prompt_source
from hypereyes_jax.env.prompts import system_prompt
from hypereyes_jax.errors import UserError

_WORKFLOW = """

Work in exactly three turns. First one image_search with a box around every entity that matters. Then one text_search \
with every query that the answer needs. Then the answer."""


def in_manner(episode: EpisodeConfig, manner: Manner) -> EpisodeConfig:
    """The rules of an episode that searches as it likes, one search a turn, by a fixed plan, not at all, or with crops
    cut by a tool before they are searched."""
    if manner == "llm-crop" or manner == "code-crop":
        return replace(episode, paradigm=manner)
    if manner == "direct":
        return replace(episode, max_turns=1, max_rounds=0)
    if manner == "workflow":
        if episode.system is None:
            system: Any = system_prompt(episode.prompt_style, episode.box_units, 2)
        else:
            system = prompt_source(episode.system)
        if not isinstance(system, str):
            raise UserError(
                f"--manner workflow adds its instruction to a prompt, and {episode.system} writes one for each "
                "question: name a text or a file"
            )
        return replace(episode, max_turns=3, max_rounds=2, system=system + _WORKFLOW)
    return replace(episode, serial=manner == "serial")
