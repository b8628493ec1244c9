"""One question after the other through the stages, many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hypereyes_jax.data.collection.attempts import AttemptLog
from hypereyes_jax.data.collection.types import (
    Attempt,
    CapturedEpisode,
    CollectConfig,
    CollectionStage,
    Player,
    PlayerError,
    Spent,
)
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.filters import fault
from hypereyes_jax.data.grounding_judge import Grounding, judged_fault
from hypereyes_jax.data.question_digest import attempt_key
from hypereyes_jax.data.sources.turn_checks import REASONS
from hypereyes_jax.env.actions import Answer, parse_turn
from hypereyes_jax.env.chat.client import ChatError
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.types import EpisodeResult, Question, SearchBackend, StopReason
from hypereyes_jax.errors import UserError

_OF_FILTER = (CollectionStage.NECESSITY, CollectionStage.DIFFICULTY)
_STAGE_NUMBERS = {stage: number for number, stage in enumerate(CollectionStage)}


class OutOfBudget(Exception):
    """The spending cap is reached: no further attempt is begun."""


class Collection:
    """The stages over all questions.

    Args:
      log: attempts so far; those it has are not made again.
      player: the policy that is sampled, and tried for RL.
      filter_player: answers in the filters of necessity and difficulty; the paper's is a large open model.
      dollars: what models and searches have cost so far, given the tokens of this collection.
      filter_dollars: what the filters' model has cost, given its tokens; None = they cost what the player's do.
      grounding: says whether a success's reasoning rests on what was found; None = the filters' own rule.
    """

    def __init__(
        self,
        log: AttemptLog,
        player: Player,
        judge: Judge,
        backend: SearchBackend,
        config: CollectConfig,
        *,
        filter_player: Player | None = None,
        dollars: Callable[[Spent], float] = lambda spent: 0.0,
        filter_dollars: Callable[[Spent], float] | None = None,
        grounding: Grounding | None = None,
    ):
        self._log, self._player, self._judge, self._backend, self._config = log, player, judge, backend, config
        self._filter = filter_player or player
        self._dollars, self._filter_dollars, self._grounding = dollars, filter_dollars, grounding
        self._slots = asyncio.Semaphore(config.in_flight)
        self._spent = {True: Spent(), False: Spent()}  # by the filters' model, and by the player
        for attempt in log:
            self._add_spent(attempt.stage, Spent(attempt.read, attempt.written))
        self._keys: set[str] = set()  # of the questions begun
        self._failed_in_a_row = 0
        self._made = 0  # attempts of this run that told something
        self._why = ""  # the last one could not be made
        self.undecided = 0  # attempts of this run that told nothing
        self.uncounted = 0  # attempts of this run of whose tokens the model told no number

    @property
    def dollars(self) -> float:
        """What all attempts have cost."""
        of_filter, of_player = self._spent[True], self._spent[False]
        if self._filter_dollars is None:
            return self._dollars(of_filter + of_player)
        return self._filter_dollars(of_filter) + self._dollars(of_player)

    @property
    def has_token_price(self) -> bool:
        """Whether tokens cost anything."""
        return self._dollars(Spent(1 << 20, 1 << 20)) > self._dollars(Spent())

    async def run(self, questions: Sequence[Question], advance: Callable[[], None] = lambda: None) -> bool:
        """Every question through every stage. Returns whether the spending cap ended it early.

        A question is decoded when its turn comes, and let go when it is done: memory does not grow with their number.

        Raises:
          UserError: no attempt can be made any more, in the words of who refused.
        """
        numbers = iter(range(len(questions)))
        capped = False

        async def work() -> None:
            nonlocal capped
            for number in numbers:
                try:
                    await self._question(questions[number])
                except OutOfBudget:
                    capped = True
                    return
                advance()

        # A question has one attempt under way at a time, so as many questions as attempts may be.
        workers = min(self._config.in_flight, max(1, len(questions)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if self.undecided and not self._made:
            raise self._refusal()
        return capped

    async def _question(self, question: Question) -> None:
        config, key = self._config, attempt_key(question)
        if key in self._keys:
            return  # the same question stands before, perhaps in another pool
        self._keys.add(key)
        for number in range(config.necessity):
            attempt = await self._attempt(question, key, CollectionStage.NECESSITY, number)
            if attempt is None or attempt.correct:
                return
        for number in range(config.difficulty):
            attempt = await self._attempt(question, key, CollectionStage.DIFFICULTY, number)
            if attempt is None or attempt.correct:
                return
        await self._sample(question, key)
        for number in range(config.selection):
            attempt = await self._attempt(question, key, CollectionStage.SELECTION, number)
            if attempt is None or (
                number == 0 and attempt.correct
            ):  # nothing to learn: the other tries cost for nothing
                return

    async def _sample(self, question: Question, key: str) -> None:
        for number in range(len(self._config.budgets) * self._config.trials):
            attempt = await self._attempt(question, key, CollectionStage.SAMPLING, number)
            if attempt is None or attempt.correct:
                return

    async def _attempt(self, question: Question, key: str, stage: CollectionStage, number: int) -> Attempt | None:
        """What the attempt told, made now or earlier; None if it told nothing, which is not written down."""
        attempt = self._log.made(key, stage, number)
        if attempt is not None:
            return attempt
        async with self._slots:
            if self._config.most_dollars is not None and self.dollars >= self._config.most_dollars:
                raise OutOfBudget
            began = time.perf_counter()
            try:
                attempt, example = await self._make(question, key, stage, number)
            except PlayerError as error:
                self._add_spent(stage, error.spent)
                self._failed(str(error))
                return None
            self._add_spent(stage, Spent(attempt.read, attempt.written))
            self._failed_in_a_row = 0
            self._made += 1
            self.uncounted += not attempt.read
            attempt = replace(attempt, seconds=time.perf_counter() - began)
            self._log.add(attempt, example)
            return attempt

    async def _make(
        self, question: Question, key: str, stage: CollectionStage, number: int
    ) -> tuple[Attempt, Example | None]:
        seed = self._seed(key, stage, number)
        if stage is CollectionStage.NECESSITY:
            direct = await self._filter.answer(question, seed)
            correct = await self._verdict(question, _answer_in(direct.text), direct.spent)
            return Attempt(key, stage, number, correct, read=direct.spent.read, written=direct.spent.written), None
        rules = self._config.episode
        if stage is CollectionStage.SAMPLING:
            budget = self._config.budgets[number // self._config.trials]
            rules = replace(rules, max_rounds=budget, max_turns=budget + 1)
        episode = CapturedEpisode(question, self._backend, rules)
        player = self._filter if stage in _OF_FILTER else self._player
        cost = await player.play(episode, seed)
        result = episode.result()
        if result.stop is StopReason.INFRASTRUCTURE:
            raise PlayerError(result.why, cost)
        correct = await self._verdict(question, result.answer, cost)
        attempt = Attempt(key, stage, number, correct, result.rounds, result.invocations)
        attempt = replace(attempt, read=cost.read, written=cost.written)
        if stage is not CollectionStage.SAMPLING or not correct:
            return attempt, None
        filters = self._config.filters
        if self._grounding is None:
            why = fault(result, filters)
        else:
            try:
                why = await judged_fault(result, self._grounding, filters)
            except ChatError as error:
                if error.fatal:
                    raise
                raise PlayerError(f"the judge of groundedness failed: {error}", cost) from None
        attempt = replace(attempt, fault=why or "")
        return attempt, self._example(episode, result)

    async def _verdict(self, question: Question, answer: str | None, spent: Spent) -> bool:
        if answer is None:
            return False
        verdict = await self._judge.judge(question, answer)
        if verdict is None:
            raise PlayerError(f"the judge {self._judge.name} gave no verdict", spent)
        return verdict

    def _add_spent(self, stage: CollectionStage, spent: Spent) -> None:
        """Counts what an attempt took, which is paid whether it told something or not."""
        self._spent[stage in _OF_FILTER] += spent

    def _example(self, episode: CapturedEpisode, result: EpisodeResult) -> Example:
        rules = self._config.episode
        system = CapturedEpisode(result.question, self._backend, rules).system
        turns = tuple(turn.text for turn in result.turns)
        return Example(result.question.id, system, tuple(episode.shown[: len(turns)]), turns)

    def _failed(self, why: str) -> None:
        self.undecided += 1
        self._failed_in_a_row += 1
        self._why = why
        if self._failed_in_a_row >= self._config.failures:
            raise self._refusal()

    def _refusal(self) -> UserError:
        count = self._failed_in_a_row
        what = f"{count} attempts in a row" if count > 1 else "the only attempt"
        return UserError(
            f"{what} could not be made; the last one: {self._why}. Nothing is lost: the same command continues when "
            "the service works again."
        )

    def _seed(self, key: str, stage: CollectionStage, number: int) -> int:
        words = [self._config.seed, int(key[:8], 16), _STAGE_NUMBERS[stage], number]
        return int(np.random.default_rng(words).integers(2**62))


def _answer_in(reply: str | None) -> str | None:
    """What a reply answers: what stands in its <answer>, else all that it says after its reasoning; None if nothing."""
    text = reply or ""
    for tag in REASONS:
        text = text.rpartition(f"</{tag}>")[2]
    if any(f"<{tag}>" in text for tag in REASONS):  # cut off while it was thinking
        return None
    action = parse_turn(text).action
    return (action.text if isinstance(action, Answer) else text).strip() or None
