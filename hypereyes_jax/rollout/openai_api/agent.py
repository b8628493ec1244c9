"""The agent behind the server: it runs the tool loop itself and gives out its turns as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.conversation import follow_up
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import EpisodeResult, Invocation, Part, Question, SearchBackend, StopReason
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout.episodes import Generator, run_episodes
from hypereyes_jax.rollout.openai_api.requests import BadRequest, ChatRequest, ImageUrl
from hypereyes_jax.rollout.types import Trajectory


@dataclass(frozen=True)
class AgentTurn:
    """What the agent wrote in a turn, and what it was shown after it ("" at the end)."""

    text: str
    observation: str


class _StreamedEpisode(Episode):
    """Tells of each turn as it ends."""

    def __init__(self, question: Question, backend: SearchBackend, config: EpisodeConfig, news: asyncio.Queue[Any]):
        super().__init__(question, backend, config)
        self._news = news

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        parts = await super().step(text, truncated)
        self._news.put_nowait(AgentTurn(text, self.last_turn.observation))
        return parts


def question_of(request: ChatRequest) -> Question:
    """The question that a conversation ends with: the text and images of the user's messages.

    Earlier answers of the assistant are context: they stand before the question as text. The server's own system prompt
    is the one that the policy was trained with, so a client's is read as the user's words.

    Raises:
      BadRequest: there are tools of the client's, nothing is asked, or a field applies to one turn of a model alone.
    """
    if request.tools or any(message.role == "tool" for message in request.messages):
        raise BadRequest("the agent uses its own tools; ask the bare policy (--mode policy) for yours", "tools")
    for field, value in (("stop", request.stop), ("logprobs", request.logprobs)):
        if value:
            raise BadRequest(f"`{field}` is of the bare policy (--mode policy): the agent writes several turns", field)
    *earlier, last = request.messages
    text = [part for part in last.parts if isinstance(part, str)]
    if last.role != "user" or not "".join(text).strip():
        raise BadRequest("the last message must be the user's and ask something", "messages")
    images = tuple(
        part for message in request.messages for part in message.parts if not isinstance(part, str | ImageUrl)
    )
    before = [(message.role, "".join(part for part in message.parts if isinstance(part, str))) for message in earlier]
    question = follow_up(before, "\n".join(text))
    return Question("chat", question, images, ())


async def answer(
    generator: Generator,
    chat: ChatFormat,
    question: Question,
    backend: SearchBackend,
    episode: EpisodeConfig,
    sampling: SamplingConfig,
    seed: int,
) -> AsyncIterator[AgentTurn | Trajectory]:
    """Yields the agent's turns as they end, then the whole trajectory.

    Closing the iterator (a client that left) ends the episode and gives the slot back.

    Raises:
      FatalSearchError: no search can work any more.
    """
    news: asyncio.Queue[AgentTurn | None] = asyncio.Queue()
    watched = _StreamedEpisode(question, backend, episode, news)
    task = asyncio.create_task(run_episodes(generator, [watched], chat, sampling, [seed]))
    task.add_done_callback(lambda _: news.put_nowait(None))
    try:
        while (turn := await news.get()) is not None:
            yield turn
        yield task.result()[0]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])


def trajectory_record(result: EpisodeResult) -> dict[str, Any]:
    """The extension field of a reply: what was done, as plain JSON."""
    return {
        "stop": result.stop.value,
        "why": result.why,
        "rounds": result.rounds,
        "invocations": result.invocations,
        "turns": [
            {
                "text": turn.text,
                "seconds": turn.seconds,
                "observation": turn.observation,
                "searches": [_search(invocation) for invocation in turn.invocations],
            }
            for turn in result.turns
        ],
    }


def finish_reason(result: EpisodeResult) -> str:
    """Why the episode ended in the API's words: "length" where a limit ended the episode before an answer."""
    limits = (StopReason.TRUNCATED, StopReason.CONTEXT_LIMIT, StopReason.TURN_LIMIT)
    return "length" if result.stop in limits else "stop"


def _search(invocation: Invocation) -> dict[str, Any]:
    return {
        "tool": invocation.tool,
        "query": invocation.query,
        "source": invocation.source,
        "box": invocation.box,
        "error": invocation.error,
        "hits": [{"title": hit.title, "url": hit.url, "score": hit.score} for hit in invocation.hits],
    }
