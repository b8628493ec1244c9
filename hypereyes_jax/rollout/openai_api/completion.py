"""One choice of a completion: sampled by the engine, given out as text while it grows."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
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
    text_tokens: int = 0  # of `tokens`, those that the text is made of: without the stop, be it a token or a text


@dataclass(frozen=True)
class TextPiece:
    """What the text has grown by."""

    text: str
    tokens: tuple[int, ...] = ()  # that begin in it
    logps: tuple[float, ...] = ()


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
) -> AsyncIterator[TextPiece | Completion]:
    """Yields pieces of text as they are sampled, then the whole `Completion`.

    Closing the iterator (a client that left) gives the slot back.

    Args:
      calls: tool calls are held back: the caller reads them from the whole text.

    Raises:
      BadRequest: the prompt does not fit, or an image can't be used.
    """
    stream = TextStream(chat, stops, CALL if calls else "")
    completion = Completion()
    given = ""

    def grown(text: str) -> TextPiece:
        nonlocal given
        given += text
        start = completion.text_tokens
        completion.text_tokens = end = _tokens_of(chat, completion.tokens, given, start)
        return TextPiece(text, tuple(completion.tokens[start:end]), tuple(completion.logps[start:end]))

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
                yield grown(piece)
            if stream.stopped:
                break
        if stream.stopped:
            completion.text, completion.finish_reason = stream.text, "stop"
            completion.text_tokens = _tokens_of(chat, completion.tokens, stream.text, completion.text_tokens)
        else:
            turn = task.result()
            if turn.sampled is None:
                why = turn.why or "the conversation is longer than this server's context"
                code = "context_length_exceeded" if turn.end is TurnEnd.CONTEXT else "invalid_image"
                raise BadRequest(why, "messages", code=code)
            rest = stream.add((), last=True)
            if rest:
                yield grown(rest)
            completion.text, completion.finish_reason = stream.text, "stop" if turn.end is TurnEnd.STOP else "length"
            closed = bool(completion.tokens) and completion.tokens[-1] in chat.stop_ids
            completion.text_tokens = len(completion.tokens) - closed
        yield completion
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
        await session.close()


def _tokens_of(chat: ChatFormat, tokens: Sequence[int], text: str, least: int) -> int:
    """The number of tokens, at least `least`, that the first part of their text is made of."""
    counts = range(len(tokens))  # all of them make all of the text, so that needs no look
    return bisect.bisect_left(counts, True, lo=min(least, len(tokens)), key=lambda n: _begins(chat, tokens[:n], text))


def _begins(chat: ChatFormat, tokens: Sequence[int], text: str) -> bool:
    return chat.decode(tokens).startswith(text)


def logprob_entries(chat: ChatFormat, tokens: Sequence[int], logps: Sequence[float]) -> list[dict[str, Any]]:
    """`logprobs.content` of tokens. Bytes of a token that is a part of a character are that part's."""
    entries = []
    for token, logp in zip(tokens, logps, strict=True):
        text = chat.tokenizer.decode([token], skip_special_tokens=False)
        entries.append({"token": text, "logprob": logp, "bytes": _bytes(chat, token, text), "top_logprobs": []})
    return entries


def _bytes(chat: ChatFormat, token: int, text: str) -> list[int]:
    piece = chat.tokenizer.convert_ids_to_tokens(token)
    byte_of = _byte_of_character()
    if _UNFINISHED in text and all(character in byte_of for character in piece):
        return [byte_of[character] for character in piece]
    return list(text.encode())


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """How byte-level vocabularies write bytes: printable ones as themselves, the others as 256, 257, ... in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
