"""Trajectories that were recorded elsewhere (`hypereyes ask`, evaluations, rollouts of RL) as demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from hypereyes_jax.data.collection.types import CollectConfig
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.filters import fault
from hypereyes_jax.data.grounding_judge import Grounding, judged_fault
from hypereyes_jax.env.chat.client import ChatError
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.media.crops import crop
from hypereyes_jax.env.own_prompt import written_prompt
from hypereyes_jax.env.tools.named import named_tools
from hypereyes_jax.env.types import EpisodeResult, Part, Question, TurnRecord


class OriginalQuestions:
    """Finds the question that a trajectory answers, by its text and, where several have the same text, by its id."""

    def __init__(self, questions: Sequence[Question]):
        self._questions = questions
        self._ids: dict[str, dict[str, int]] = {}  # text -> id -> place
        for place, question in enumerate(questions):
            self._ids.setdefault(question.text, {})[question.id] = place

    def find(self, text: str, name: str) -> Question | str:
        """The question, or why there is none."""
        places = self._ids.get(text, {})
        if not places:
            return "of another question"
        place = places.get(name, next(iter(places.values())) if len(places) == 1 else None)
        return self._questions[place] if place is not None else "of one of several questions with the same text"


@dataclass(frozen=True)
class RecordedAnswers:
    """Makes demonstrations of recorded episodes.

    judge: judges the answers that nobody judged yet.
    rules: with the filters, and the rules of the episodes.
    grounding: says whether the reasoning rests on what was found; None = the filters' own rule.
    """

    judge: Judge
    rules: CollectConfig
    grounding: Grounding | None = None

    async def demonstration(self, question: Question, result: EpisodeResult, correct: bool | None) -> Example | str:
        """The demonstration that an episode makes, or why it makes none.

        Args:
          question: that the episode answers, with the accepted answers.
          correct: the verdict that was recorded; None = the answer was not judged.
        """
        if correct is None and result.answer is not None:
            correct = await self.judge.judge(question, result.answer)
            if correct is None:
                return "the judge gave no verdict"
        if not correct:
            return "not right"
        filters, rules = self.rules.filters, self.rules.episode
        original = replace(question, images=result.question.images)
        result = replace(result, question=original)
        why = fault(result, filters)
        if self.grounding is not None:
            try:
                why = await judged_fault(result, self.grounding, filters)
            except ChatError as error:
                if error.fatal:
                    raise
                return "the judge gave no verdict"
        if why is not None:
            return why
        system = written_prompt(question, rules, named_tools(rules.tool_names))
        try:
            return example_of(result, system, rules)
        except ValueError:
            return "an image that was cut is not in the record"


def example_of(result: EpisodeResult, system: str, rules: EpisodeConfig) -> Example:
    """The conversation of a finished episode, rebuilt from its record.

    Crops are cut anew from the record's images by their boxes; text is as it was shown.

    Args:
      system: the system prompt that the demonstration shall carry.
      rules: of the episode: whether crops were shown, how many images, and their largest side.

    Raises:
      ValueError: the record lacks an image that a crop was cut from.
    """
    question = result.question
    registry: dict[str, Image.Image] = {f"img_{number}": image for number, image in enumerate(question.images)}
    observations: list[tuple[Part, ...]] = [question.parts]
    count = len(question.images)
    for turn in result.turns[:-1]:
        crops = _crops(turn, registry, rules)
        room = max(0, rules.max_images - count) if rules.show_crops else 0
        count += len(crops[:room])
        observations.append((*crops[:room], turn.observation))
    return Example(question.id, system, tuple(observations), tuple(turn.text for turn in result.turns))


def _crops(turn: TurnRecord, registry: dict[str, Image.Image], rules: EpisodeConfig) -> Sequence[Image.Image]:
    """The crops of a turn, in the order they were made; they join the registry."""
    crops = []
    for call in turn.invocations:
        if call.box is None or not call.crop_id or call.crop_id in registry:
            continue
        if call.source not in registry:
            raise ValueError(f"the record lacks {call.source}, which {call.crop_id} was cut from")
        region = crop(registry[call.source], call.box, rules.crop_max_side)
        if region is not None:
            registry[call.crop_id] = region
            crops.append(region)
    return crops
