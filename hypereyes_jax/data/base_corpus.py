"""The corpus of base training: wasteful demonstrations in worlds whose names and facts are drawn anew all the time.

With fixed names a small model memorises which flag goes with which name and never learns to read what a search
returned. In varied worlds there is nothing to memorise, so it learns to look, to ask and to copy, and that carries over
to countries it has never seen. Held-out countries are in none of these worlds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from hypereyes_jax.data.demonstration import Demonstration
from hypereyes_jax.data.questions import SynthesisConfig, draw_question
from hypereyes_jax.data.searcher import WASTEFUL, Habits, demonstrate
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.world import World, WorldBackend


@dataclass(frozen=True)
class BaseCorpusConfig:
    """What the base model's training texts are made of."""

    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    habits: Habits = WASTEFUL
    questions_a_world: int = 32  # a varied world costs as much to build as a few questions
    clean: bool = False  # without waste, and with few entities: looking and copying are learnt sooner from those
    clean_entities: int = 4


def seen_world() -> World:
    """The real world without its held-out countries: all that any training may touch."""
    world = World.load(passages=False)
    return world.restrict(world.split()[0])


def base_corpus(config: BaseCorpusConfig, seed: int, rounds: int | None = None) -> Iterator[Demonstration]:
    """Endless; the same for the same arguments. `rounds` bounds an episode; None = its own limit."""
    budget = config.episode.max_rounds if rounds is None else rounds
    rng = np.random.default_rng(seed)
    real = seen_world()
    habits, synthesis = config.habits, config.synthesis
    if config.clean:
        habits, synthesis = Habits(), replace(synthesis, max_entities=config.clean_entities)
    while True:
        world = real.varied(rng)
        backend = WorldBackend(world)
        for _ in range(config.questions_a_world):
            question = draw_question(world, rng, synthesis)
            yield asyncio.run(demonstrate(question, backend, habits, rng, config.episode, budget))
