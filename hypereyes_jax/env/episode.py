"""One question from its prompt to its answer. The policy is outside: `step` takes what it wrote, gives what it sees."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from PIL import Image

from hypereyes_jax.env import observations
from hypereyes_jax.env.actions import (
    IMAGE_SEARCH,
    TEXT_SEARCH,
    Answer,
    Call,
    ImageSearch,
    Malformed,
    ParsedTurn,
    TextSearch,
    ToolCall,
    parse_turn,
)
from hypereyes_jax.env.concurrent import all_at_once
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.grounded_search import GroundedSearch, SearchOutcome
from hypereyes_jax.env.own_prompt import PromptFunction, written_prompt
from hypereyes_jax.env.tools.calls import Called, call_tool
from hypereyes_jax.env.tools.delegate import Delegate
from hypereyes_jax.env.tools.named import named_tools
from hypereyes_jax.env.tools.types import Tool, ToolError, by_name
from hypereyes_jax.env.types import (
    EpisodeResult,
    FatalSearchError,
    Invocation,
    Part,
    Question,
    SearchBackend,
    StopReason,
    TurnRecord,
)

# Plays an episode to its end with the policy that plays the one that asks.
CopyPlayer = Callable[["Episode"], Awaitable[EpisodeResult]]


class Episode:
    """The state of one rollout. Used once, by one task at a time.

    Drive it with `prompt()`, then `await step(text)` until that returns None; then read `result()`. Searches that fail
    one by one are told to the model; when every search of a turn fails for no fault of the request, the episode ends
    with StopReason.INFRASTRUCTURE, which says nothing about the policy and must be masked.

    Args:
      tools: further tools that the model may call beside image_search and text_search.
      prompt: writes the system prompt; None = as the rules say.
    """

    def __init__(
        self,
        question: Question,
        backend: SearchBackend,
        config: EpisodeConfig | None = None,
        tools: Sequence[Tool] = (),
        prompt: PromptFunction | None = None,
    ):
        self.question, self.backend = question, backend
        self._prompt, self._own_tools = prompt, tuple(tools)
        self.copies: CopyPlayer | None = None
        """What plays sub-questions; set by whoever plays this episode."""
        self.config = config or EpisodeConfig()
        self.stop_reason: StopReason | None = None
        delegation: list[Tool] = [Delegate()] if self.config.delegate_rounds else []
        further = [*delegation, *named_tools(self.config.tool_names), *tools]
        self._tools = by_name(further, (IMAGE_SEARCH, TEXT_SEARCH))
        self._searching = {name: tool.is_search for name, tool in self._tools.items()}
        images = {f"img_{i}": image for i, image in enumerate(question.images)}
        self._search = GroundedSearch(images, backend, self.config)
        self._shown = len(images)
        self._turns: list[TurnRecord] = []
        self._rounds = 0
        self._answer: str | None = None
        self._why = ""

    @property
    def system(self) -> str:
        """The system prompt. Raises UserError where a user's own can't be written."""
        return written_prompt(self.question, self.config, tuple(self._tools.values()), self._prompt)

    @property
    def last_turn(self) -> TurnRecord:
        """What the latest turn asked for and got. Raises IndexError before the first."""
        return self._turns[-1]

    def prompt(self) -> tuple[Part, ...]:
        """The first user message: the images, then the question."""
        return self.question.parts

    def image(self, image_id: str) -> Image.Image:
        """An image of the question or a crop, by its id. Raises KeyError for an id that was never given."""
        return self._search.images[image_id]

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        """Plays one turn of the model.

        Args:
          text: the turn as sampled, without its stop token.
          truncated: the turn was cut, by its token limit or by the end of the context. It is answered all the same if
            it already holds a closed answer; no search of it is made.

        Returns:
          The observation's user message (crops, then text), or None when the episode is over.

        Raises:
          FatalSearchError: no search can work any more (no credit left); the whole run should stop.
          Exception: whatever else a plugged-in backend or tool raises, which is a defect of it.
        """
        if self.stop_reason is not None:
            raise RuntimeError(f"step() on an episode that ended: {self.stop_reason}")
        turn = self._parsed(text)
        malformed = "; ".join(call.why for call in turn.calls if isinstance(call, Malformed))
        stop = self._stop_of(turn, truncated)
        if stop is not None:
            if stop is StopReason.ANSWERED and isinstance(turn.action, Answer) and turn.action.closed:
                self._answer = turn.action.text
            self._turns.append(TurnRecord(text, turn.reason, (), is_round=False, malformed=malformed))
            self.stop_reason = stop
            return None

        self._rounds += 1
        start = time.perf_counter()
        try:
            outcome = await self._run_calls(turn)
        except FatalSearchError as error:
            self.fail_infrastructure(str(error))
            raise
        parts = () if outcome.outage else self._observation(outcome)
        record = TurnRecord(
            text=text,
            reason=turn.reason,
            invocations=outcome.invocations,
            is_round=any(invocation.sent for invocation in outcome.invocations),
            malformed=malformed,
            seconds=time.perf_counter() - start,
            observation=str(parts[-1]) if parts else "",
            skipped=outcome.skipped,
        )
        self._turns.append(record)
        if outcome.outage:
            self.fail_infrastructure(f"every search of a turn failed: {outcome.outage}")
            return None
        return parts

    async def search(self, calls: Sequence[Call]) -> SearchOutcome:
        """Runs searches without a turn: for tools that search by themselves. Raises as `step` does."""
        return await self._search.search(calls)

    async def ask_copy(self, question: Question) -> EpisodeResult:
        """Has a copy of the policy play a question, with the rounds that the rules give it and no copies of its own.

        Raises ToolError if nobody can play it.
        """
        if self.copies is None:
            raise ToolError("no copy can be asked here")
        rounds = self.config.delegate_rounds
        rules = replace(self.config, delegate_rounds=0, max_rounds=rounds, max_turns=rounds + 1)
        return await self.copies(Episode(question, self.backend, rules, self._own_tools, self._prompt))

    def answers(self, text: str) -> bool:
        """Whether a turn holds a closed answer, so that nothing that could follow it matters."""
        action = self._parsed(text).action
        return isinstance(action, Answer) and action.closed

    def _parsed(self, text: str) -> ParsedTurn:
        return parse_turn(text, tools=self._searching, plain_answers=self.config.prompt_style == "native")

    def end(self, stop: StopReason, why: str = "") -> None:
        """Ends the episode from outside (the context is full, say). The first reason given stays."""
        if self.stop_reason is None:
            self.stop_reason, self._why = stop, why

    def fail_infrastructure(self, why: str) -> None:
        """Ends the episode for a failure that is not the policy's."""
        self.end(StopReason.INFRASTRUCTURE, why)

    def result(self) -> EpisodeResult:
        """What happened. Raises RuntimeError while the episode goes on."""
        if self.stop_reason is None:
            raise RuntimeError("the episode has not ended; step() it on, or end() it")
        return EpisodeResult(self.question, tuple(self._turns), self.stop_reason, self._answer, self._why)

    def _stop_of(self, turn: ParsedTurn, truncated: bool) -> StopReason | None:
        if truncated and not (isinstance(turn.action, Answer) and turn.action.closed):
            return StopReason.TRUNCATED
        if isinstance(turn.action, Answer):
            return StopReason.ANSWERED
        if isinstance(turn.action, Malformed):
            ends = turn.action.broken_json and self.config.broken_json_ends
            if ends or not turn.action.is_call:
                return StopReason.NO_ACTION
        return StopReason.TURN_LIMIT if len(self._turns) + 1 >= self.config.max_turns else None

    async def _run_calls(self, turn: ParsedTurn) -> SearchOutcome:
        if self._rounds > self.config.max_rounds:
            return SearchOutcome((), {}, ("no search was made: none was left",), skipped=turn.invocations)
        calls = turn.calls[:1] if self.config.one_call else turn.calls
        others = [call for call in calls if isinstance(call, ToolCall)]
        if not others:
            return await self._search.search(calls)
        entries = sum(call.entries for call in calls if isinstance(call, ImageSearch | TextSearch))
        room = max(0, self.config.width - entries)
        outcome, *replies = await all_at_once(
            [self._search.search(calls), *(call_tool(self._tools[call.name], call, self) for call in others[:room])]
        )
        assert isinstance(outcome, SearchOutcome)
        return self._with_tools(outcome, [each for each in replies if isinstance(each, Called)], len(others))

    def _with_tools(self, outcome: SearchOutcome, called: Sequence[Called], requested: int) -> SearchOutcome:
        """What the searches came to and what the other tools said, whose images get ids as crops do."""
        images: dict[str, Image.Image] = {}
        calls: list[Invocation] = []
        for each in called:
            ids = [self._search.add(image) for image in each.images]
            images |= dict(zip(ids, each.images, strict=True))
            calls += _with_ids(each.invocations, ids)
        notes = outcome.notes
        if len(called) < requested:
            notes = (*notes, f"only the first {len(called)} of {requested} calls of other tools were run")
        return replace(
            outcome,
            invocations=(*outcome.invocations, *calls),
            crops={**outcome.crops, **images},
            notes=notes,
            skipped=outcome.skipped + requested - len(called),
            failures=(*outcome.failures, *(failure for each in called for failure in each.failures)),
        )

    def _observation(self, outcome: SearchOutcome) -> tuple[Part, ...]:
        config = self.config
        text = observations.response(outcome.invocations, outcome.notes, config.content_limit)
        if config.repeat_question and outcome.invocations:
            text += f"\nQuestion: {self.question.text}"
        hint = observations.budget_hint(config.max_rounds - self._rounds)
        if hint:
            text += f"\n{hint}"
        parts: list[Part] = []
        if config.show_crops:
            parts.extend(list(outcome.crops.values())[: max(0, config.max_images - self._shown)])
            self._shown += len(parts)
        return (*parts, text)


def _with_ids(invocations: Sequence[Invocation], ids: Sequence[str]) -> list[Invocation]:
    """The record of a tool's call, which tells the ids of the images it gave as a search takes them: "img_1|img_2"."""
    if not ids or not invocations or invocations[0].hits:
        return list(invocations)
    first, *others = invocations
    return [replace(first, text=f"{first.text}\n{'|'.join(ids)}".strip()), *others]
