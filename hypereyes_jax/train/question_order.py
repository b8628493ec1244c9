"""Which questions a step plays, and with which seeds: a function of the run's seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypereyes_jax.env.types import Question
from hypereyes_jax.train.question_selection import rollout_seeds
from hypereyes_jax.train.rl_ahead import GroupPlan
from hypereyes_jax.train.settings import RlSettings


class QuestionOrder:
    """Epochs over the questions: each is a new permutation, whose incomplete last batch is dropped."""

    def __init__(self, questions: Sequence[Question], settings: RlSettings):
        self._questions, self._settings = questions, settings

    def plan(self, number: int) -> GroupPlan:
        """The group of a number: question `number % count` of step `number // count`, with that step's seeds."""
        settings = self._settings
        step, place = divmod(number, settings.questions_played)
        seeds = rollout_seeds(settings.seed, step + 1, settings.questions_played * settings.group)
        own = seeds[place * settings.group : (place + 1) * settings.group]
        return GroupPlan(self._questions[self.of_step(step)[place]], [int(seed) for seed in own])

    def of_step(self, step: int) -> list[int]:
        """Indices of a step's questions."""
        epoch, place = divmod(step, self._steps_of_an_epoch())
        order = np.random.default_rng([self._settings.seed, epoch]).permutation(len(self._questions))
        count = self._settings.questions_played
        return [int(i) for i in order[place * count : (place + 1) * count]]

    def ends_epoch(self, step: int) -> bool:
        """Whether the step is the last one of its epoch."""
        return (step + 1) % self._steps_of_an_epoch() == 0

    def _steps_of_an_epoch(self) -> int:
        return len(self._questions) // self._settings.questions_played
