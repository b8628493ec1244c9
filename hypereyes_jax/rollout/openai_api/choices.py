"""The choices of one reply: sampled side by side, given out as deltas, and at the end as whole messages."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.types import SearchBackend, StopReason
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout.episodes import Generator, GeneratorError
from hypereyes_jax.rollout.openai_api.agent import AgentTurn, answer, finish_reason, question_of, trajectory_record
from hypereyes_jax.rollout.openai_api.completion import Completion, TextPiece, complete, logprob_entries
from hypereyes_jax.rollout.openai_api.conversation import render, tool_calls
from hypereyes_jax.rollout.openai_api.requests import ChatRequest
from hypereyes_jax.rollout.types import Trajectory

Deltas = AsyncIterator[dict[str, Any]]


@dataclass
class Choice:
    """One choice as a message, filled in when it is done."""

    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": None})
    finish_reason: str = ""
    logprobs: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Choices:
    """Some choices that come about at the same time.

    Args:
      make: plays choice `number`: yields its deltas, and fills in what it is given.
    """

    def __init__(self, count: int, make: Callable[[int, Choice], Deltas]):
        self._choices = [Choice() for _ in range(count)]
        self._make = make

    async def deltas(self) -> Deltas:
        """Entries of `choices` of a stream's chunks, of all choices as they come."""
        news: asyncio.Queue[tuple[int, dict[str, Any] | None]] = asyncio.Queue(maxsize=64)

        async def play(number: int, choice: Choice) -> None:
            async with contextlib.aclosing(self._make(number, choice)) as parts:  # type: ignore[type-var]
                async for part in parts:
                    await news.put((number, part))
            await news.put((number, None))

        tasks = [asyncio.create_task(play(number, choice)) for number, choice in enumerate(self._choices)]
        running = len(tasks)
        try:
            while running:
                getting = asyncio.create_task(news.get())
                await asyncio.wait([getting, *tasks], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    failure = next((t for t in tasks if t.done() and t.exception() is not None), None)
                    if failure is not None:
                        getting.cancel()
                        failure.result()
                    await asyncio.wait([getting])
                number, part = getting.result()
                if part is None:
                    running -= 1
                    choice = self._choices[number]
                    yield {"index": number, "delta": {}, "finish_reason": choice.finish_reason, **choice.extra}
                else:
                    yield {"index": number, "finish_reason": None, **part}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def whole(self) -> list[dict[str, Any]]:
        """`choices` of a reply that is not streamed."""
        return [
            {
                "index": number,
                "message": choice.message,
                "finish_reason": choice.finish_reason,
                "logprobs": choice.logprobs,
                **choice.extra,
            }
            for number, choice in enumerate(self._choices)
        ]

    def usage(self) -> dict[str, int]:
        """Tokens; a prompt that several choices share is counted once, as endpoints bill it."""
        prompt_tokens = max(choice.prompt_tokens for choice in self._choices)
        completion_tokens = sum(choice.completion_tokens for choice in self._choices)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


def policy_choices(generator: Generator, chat: ChatFormat, request: ChatRequest) -> Choices:
    """The model's own next message.

    Raises:
      BadRequest: the conversation can't be rendered.
    """
    prompt = render(chat, request.messages, request.tools)
    seed = secrets.randbits(62) if request.seed is None else request.seed

    async def make(number: int, choice: Choice) -> Deltas:
        pieces = complete(
            generator, chat, prompt, request.sampling, seed + number, request.stop, calls=bool(request.tools)
        )
        opening: dict[str, Any] = {"delta": {"role": "assistant", "content": ""}}
        given = TextPiece("")
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                if opening:  # not before: a prompt that does not fit is refused with a status
                    yield opening
                    opening = {}
                if isinstance(piece, TextPiece):
                    given = TextPiece(given.text + piece.text, given.tokens + piece.tokens)
                    entries = logprob_entries(chat, piece.tokens, piece.logps) if request.logprobs else None
                    yield {"delta": {"content": piece.text}, "logprobs": entries and {"content": entries}}
                    continue
                for delta in _finished(chat, request, piece, given, choice):
                    yield delta
                choice.prompt_tokens, choice.completion_tokens = len(prompt.tokens), len(piece.tokens)

    return Choices(request.n, make)


def agent_choices(
    generator: Generator, chat: ChatFormat, request: ChatRequest, backend: SearchBackend, episode: EpisodeConfig
) -> Choices:
    """The agent's answer in `content`; its turns in `reasoning_content`, and the trajectory in `hypereyes`.

    Raises:
      BadRequest: the conversation asks nothing, or brings tools of its own.
    """
    question = question_of(request)
    seed = secrets.randbits(62) if request.seed is None else request.seed

    async def make(number: int, choice: Choice) -> Deltas:
        reasoning: list[str] = []
        opening: dict[str, Any] = {"delta": {"role": "assistant", "content": ""}}
        events = answer(generator, chat, question, backend, episode, request.sampling, seed + number)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if opening:  # not before: where no search can work, the reply is a status
                    yield opening
                    opening = {}
                if isinstance(event, AgentTurn):
                    reasoning.append("\n".join(text for text in (event.text, event.observation) if text) + "\n")
                    yield {"delta": {"reasoning_content": reasoning[-1]}}
                else:
                    yield _answered(event, choice)
        choice.message["reasoning_content"] = "".join(reasoning)

    return Choices(request.n, make)


def _answered(trajectory: Trajectory, choice: Choice) -> dict[str, Any]:
    result = trajectory.result
    if result.stop is StopReason.INFRASTRUCTURE:
        raise GeneratorError(result.why)
    choice.message["content"] = result.answer or ""
    choice.finish_reason = finish_reason(result)
    choice.extra = {"hypereyes": trajectory_record(result)}
    choice.prompt_tokens, choice.completion_tokens = trajectory.context_tokens, trajectory.sampled_tokens
    return {"delta": {"content": result.answer or ""}}


def _finished(
    chat: ChatFormat, request: ChatRequest, completion: Completion, given: TextPiece, choice: Choice
) -> list[dict[str, Any]]:
    """Fills in the choice, and gives the deltas that were held back."""
    text, calls = tool_calls(completion.text) if request.tools else (completion.text, [])
    choice.message["content"] = text if text or not calls else None
    choice.finish_reason = "tool_calls" if calls and completion.finish_reason == "stop" else completion.finish_reason
    deltas: list[dict[str, Any]] = []
    if calls:
        listed = [
            {
                "id": f"call_{secrets.token_hex(8)}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
        choice.message["tool_calls"] = listed
        deltas.append({"delta": {"tool_calls": [{"index": n, **call} for n, call in enumerate(listed)]}})
    if rest := text[len(given.text) :]:  # held back as a call, and none, or behind one
        deltas.insert(0, {"delta": {"content": rest}})
    if request.logprobs:
        end = completion.text_tokens
        choice.logprobs = {"content": logprob_entries(chat, completion.tokens[:end], completion.logps[:end])}
        if entries := choice.logprobs["content"][len(given.tokens) :]:
            deltas.append({"delta": {}, "logprobs": {"content": entries}})
    return deltas
