"""Where each question fell out: counts by stage and pool, with examples of each reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypereyes_jax.data.collection.attempts import AttemptLog
from hypereyes_jax.data.collection.outcome import TWICE, UNDECIDED, fate, selected
from hypereyes_jax.data.collection.types import CollectConfig, CollectionStage
from hypereyes_jax.data.question_digest import attempt_key
from hypereyes_jax.data.selection import LeftOut
from hypereyes_jax.env.types import Question

EXAMPLES = 3  # of each reason, shown on the page
POOLS, NECESSITY, DIFFICULTY, SAMPLING, FILTERS = (
    "pools", "tool necessity", "difficulty", "progressive rejection sampling", "quality filters",
)  # fmt: skip
_OF_STAGE = {
    CollectionStage.NECESSITY: NECESSITY,
    CollectionStage.DIFFICULTY: DIFFICULTY,
    CollectionStage.SAMPLING: SAMPLING,
}


@dataclass
class FunnelStage:
    """What went into a stage and what became of it."""

    name: str
    entered: int = 0
    by_pool: Counter[str] = field(default_factory=Counter)  # that entered
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, list[int]] = field(default_factory=dict)  # by reason: places of questions

    @property
    def left(self) -> int:
        return self.entered - self.dropped.total()

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "in": self.entered,
            "out": self.left,
            "by_pool": dict(self.by_pool),
            "dropped": dict(self.dropped),
        }


@dataclass
class Funnel:
    """The stages of the SFT set in order, and that of the RL set, which begins after the filters of questions."""

    sft: list[FunnelStage]
    rl: FunnelStage | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "sft": [stage.to_json() for stage in self.sft],
            "rl": None if self.rl is None else self.rl.to_json(),
        }


def sft_funnel(questions: Sequence[Question], log: AttemptLog, config: CollectConfig) -> tuple[Funnel, list[int]]:
    """(the funnel to the SFT set, places of the questions that passed the filters of questions).

    One question is decoded at a time.
    """
    names = [name for name, is_on in ((NECESSITY, config.necessity), (DIFFICULTY, config.difficulty)) if is_on]
    stages = {name: FunnelStage(name) for name in (*names, SAMPLING, FILTERS)}
    hard: list[int] = []
    keys: set[str] = set()
    for place, question in enumerate(questions):
        key = attempt_key(question)
        where, why = fate(key, log, config)
        last_stage = None if where is None else FILTERS if why.startswith("filter: ") else _OF_STAGE[where]
        if key in keys:
            last_stage, why = next(iter(stages)), TWICE
        keys.add(key)
        pool = question.id.partition("/")[0]
        for name, stage in stages.items():
            stage.entered += 1
            stage.by_pool[pool] += 1
            if name == last_stage:
                reason = why.removeprefix("filter: ")
                stage.dropped[reason] += 1
                _example(stage, reason, place)
                break
        if last_stage not in (NECESSITY, DIFFICULTY) and why != TWICE:
            hard.append(place)
    return Funnel(list(stages.values())), hard


def rl_funnel(
    questions: Sequence[Question], places: Sequence[int], log: AttemptLog, config: CollectConfig
) -> tuple[FunnelStage, dict[int, tuple[int, int]]]:
    """(the stage of selection, references of the chosen questions by their places)."""
    stage = FunnelStage(f"pass@1 / pass@{config.selection}")
    references: dict[int, tuple[int, int]] = {}
    for place in places:
        question = questions[place]
        stage.entered += 1
        stage.by_pool[question.id.partition("/")[0]] += 1
        reference = selected(attempt_key(question), log, config)
        if isinstance(reference, LeftOut):
            reason = UNDECIDED if reference is LeftOut.UNDECIDED else reference.value
            stage.dropped[reason] += 1
            _example(stage, reason, place)
        else:
            references[place] = reference
    return stage, references


def _example(stage: FunnelStage, reason: str, place: int) -> None:
    places = stage.examples.setdefault(reason, [])
    if len(places) < EXAMPLES:
        places.append(place)
