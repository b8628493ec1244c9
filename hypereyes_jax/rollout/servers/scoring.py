"""Log-probs of what was sampled in whole conversations, from a server that runs another model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.processing import Chunk, ContextChunk
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.servers.server import (
    GenerationServer,
    PromptMismatch,
    ServerConversation,
    documented_form,
    read_log_probs,
    shown,
)


async def score_conversations(
    server: GenerationServer, conversations: Sequence[Sequence[Chunk]], *, in_flight: int = 16, deadline: float = 300.0
) -> list[np.ndarray | GeneratorError]:
    """Asks a server for the log-probs of the sampled tokens of each conversation, its images included.

    A request is tried again as `server` says (`attempts`, after failures that may pass); a reply that can be read but
    is wrong is not asked for again. What is wrong with one conversation leaves the others alone.

    Args:
      server: open; its `config` and pixel limits are those of the images' encoding here.
      in_flight: conversations under way at a time.
      deadline: seconds for all of them; what has not come by then has failed.

    Returns:
      For each conversation float32 [sampled tokens] (nats; those of its chunks one after the other, at the temperature
      that the server scores at), or the error that says why there are none: PromptMismatch if the server read other
      tokens than ours, GeneratorError if it failed, was late, or gave what no log-prob can be.
    """
    gate = asyncio.Semaphore(in_flight)

    async def one(chunks: Sequence[Chunk]) -> np.ndarray:
        async with gate:
            return await _score(server, chunks)

    tasks = [asyncio.ensure_future(one(chunks)) for chunks in conversations]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return [_outcome(result, deadline) for result in results]


def _outcome(result: np.ndarray | BaseException, deadline: float) -> np.ndarray | GeneratorError:
    if isinstance(result, asyncio.CancelledError):
        return GeneratorError(f"no score within {deadline:g} s")
    if isinstance(result, FatalSearchError):  # a score that can't be had is missed, whatever the reason
        return GeneratorError(str(result))
    if isinstance(result, BaseException) and not isinstance(result, GeneratorError):
        raise result
    return result


async def _score(server: GenerationServer, chunks: Sequence[Chunk]) -> np.ndarray:
    talk, sampled = await asyncio.to_thread(_conversation, server, chunks)
    image = server.config.image_token_id
    tokens = talk.expanded_tokens(image)
    if not len(tokens) == talk.expanded == len(sampled):
        raise PromptMismatch("a conversation's images are not those of its image tokens")
    with documented_form():
        pairs = [(token, logp) for token, logp in await server.score(talk)]
    if len(pairs) != len(tokens) - 1:
        raise PromptMismatch(f"the server scored {len(pairs)} tokens, not the {len(tokens) - 1} it was sent")
    for place, ((token, _), expected) in enumerate(zip(pairs, tokens[1:], strict=True), start=1):
        if token != expected and expected != image:  # visual tokens have no id of their own
            raise PromptMismatch(f"the server scored {shown(token)} at token {place}, not {expected}")
    return read_log_probs([logp for (_, logp), own in zip(pairs, sampled[1:], strict=True) if own])


def _conversation(server: GenerationServer, chunks: Sequence[Chunk]) -> tuple[ServerConversation, list[bool]]:
    """What the server is sent, and which of the expanded tokens were sampled."""
    talk, sampled = ServerConversation(), list[bool]()
    for chunk in chunks:
        if isinstance(chunk, ContextChunk):
            try:
                talk.read(chunk, [server.visual_tokens(image) for image in chunk.images])
            except ValueError as error:
                raise GeneratorError(str(error)) from error
            sampled += [False] * (talk.expanded - len(sampled))
        else:
            special = {server.config.image_token_id, server.config.video_token_id}
            if special.intersection(chunk.tokens.tolist()):
                raise PromptMismatch("the policy wrote an image token, which a server would take for an image")
            talk.tokens += chunk.tokens.tolist()
            sampled += [True] * len(chunk.tokens)
    return talk, sampled
