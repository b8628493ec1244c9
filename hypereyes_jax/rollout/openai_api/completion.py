"""One choice of a completion: sampled by the engine, given out as text while it grows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.processing import ChatFormat, ContextChunk
from hypereyes_jax.rollout.engine import Sampled
from hypereyes_jax.rollout.episodes import Generator
from hypereyes_jax.rollout.openai_api.conversation import CALL
from hypereyes_jax.rollout.openai_api.requests import BadRequest
from hypereyes_jax.rollout.types import TurnEnd

_UNFINISHED = "\ufffd"  # what a tokenizer makes of a character whose bytes are not all there yet


@dataclass
class Completion:
    """What has been sampled for one choice."""

    text: str = ""
    finish_reason: str = ""
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)  # at the sampling temperature, over the whole vocabulary


class TextStream:
    """Turns token ids into text piece by piece, holding back what the next token may still change.

    Args:
      stops: texts that end it; they are not given out.
      hold: text from which on nothing is given out before the end (the beginning of a tool call), or "".
    """

    def __init__(self, chat: ChatFormat, stops: Sequence[str] = (), hold: str = ""):
        self._chat, self._stops, self._hold = chat, tuple(stops), hold
        self._tokens: list[int] = []
        self._given = 0
        self.text = ""
        self.stopped = False

    def add(self, tokens: Sequence[int] | np.ndarray, last: bool = False) -> str:
        """The text that these tokens add and that is certain by now."""
        if self.stopped:
            return ""
        self._tokens += [int(token) for token in tokens]
        text = self._chat.decode(self._tokens)
        if not last:
            text = text.rstrip(_UNFINISHED)
        ends = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            text, self.stopped, last = text[: min(ends)], True, True
        self.text = text
        safe = len(text) if last else len(text) - self._held_back(text)
        if self._hold and (place := text.find(self._hold)) >= 0:
            safe = min(safe, place)
        piece = text[self._given : max(safe, self._given)]
        self._given += len(piece)
        return piece

    def _held_back(self, text: str) -> int:
        """Characters at the end that may yet become a part of a stop."""
        longest = 0
        for stop in (*self._stops, *([self._hold] if self._hold else [])):
            for size in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:size]):
                    longest = max(longest, size)
                    break
        return longest


async def complete(
    generator: Generator,
    chat: ChatFormat,
    prompt: ContextChunk,
    sampling: SamplingConfig,
    seed: int,
    stops: Sequence[str] = (),
    *,
    calls: bool = False,
) -> AsyncIterator[str | Completion]:
    """Yields pieces of text as they are sampled, then the whole `Completion`.

    Closing the iterator (a client that left) gives the slot back.

    Args:
      calls: tool calls are held back: the caller reads them from the whole text.

    Raises:
      BadRequest: the prompt does not fit, or an image can't be used.
    """
    stream = TextStream(chat, stops, CALL if calls else "")
    completion = Completion()
    news: asyncio.Queue[Sampled | None] = asyncio.Queue()
    session = await generator.open(seed, sampling, chat.stop_ids)
    task = asyncio.create_task(session.turn(prompt, on_sampled=news.put_nowait))
    task.add_done_callback(lambda _: news.put_nowait(None))
    try:
        while (sampled := await news.get()) is not None:
            completion.tokens += sampled.tokens.tolist()
            completion.logps += sampled.logp_full.tolist()
            piece = stream.add(sampled.tokens)
            if piece:
                yield piece
            if stream.stopped:
                break
        if stream.stopped:
            completion.text, completion.finish_reason = stream.text, "stop"
        else:
            turn = task.result()
            if turn.sampled is None:
                why = turn.why or "the conversation is longer than this server's context"
                code = "context_length_exceeded" if turn.end is TurnEnd.CONTEXT else "invalid_image"
                raise BadRequest(why, "messages", code=code)
            rest = stream.add((), last=True)
            if rest:
                yield rest
            completion.text, completion.finish_reason = stream.text, "stop" if turn.end is TurnEnd.STOP else "length"
        yield completion
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
        await session.close()


def logprob_entries(chat: ChatFormat, completion: Completion) -> list[dict[str, Any]]:
    """`logprobs.content` of a choice."""
    entries = []
    for token, logp in zip(completion.tokens, completion.logps, strict=True):
        text = chat.tokenizer.decode([token], skip_special_tokens=False)
        entries.append({"token": text, "logprob": logp, "bytes": list(text.encode()), "top_logprobs": []})
    return entries
