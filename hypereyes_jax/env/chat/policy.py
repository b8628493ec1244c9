"""Playing an episode with a chat model: for questions asked by hand, and for evaluating models served elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.chat.client import ChatClient, ChatError, ChatReply
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import EpisodeResult, Part

# A model that goes on to imagine its own search results is stopped there.
_STOP = ("<tool_response>",)


@dataclass(frozen=True)
class ChatEpisode:
    """An episode that a chat endpoint played, and its tokens."""

    result: EpisodeResult
    prompt_tokens: int  # summed over the turns, as an endpoint bills them
    completion_tokens: int
    conversation_tokens: int  # read and written, each once: of the last turn, which holds the earlier ones


async def play(
    episode: Episode,
    client: ChatClient,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    max_tokens: int = 1524,
    on_text: Callable[[str], None] | None = None,
    on_observation: Callable[[tuple[Part, ...]], None] | None = None,
) -> ChatEpisode:
    """Plays `episode` to its end.

    Args:
      top_p: None = the server's own.
      max_tokens: of one turn; the paper's limit.
      on_text: called with each piece of text as the model writes it (the reply is then streamed).
      on_observation: called with what the model is shown after each turn.

    Raises:
      ChatError: the model can't be reached; the episode is left unfinished, and the error has the tokens so far.
      FatalSearchError: no search can work any more.
    """
    messages: list[tuple[str, tuple[Part, ...]]] = [("system", (episode.system,)), ("user", episode.prompt())]
    prompt_tokens = completion_tokens = conversation_tokens = copied_tokens = 0

    async def play_copy(sub: Episode) -> EpisodeResult:
        nonlocal prompt_tokens, completion_tokens, copied_tokens
        try:
            outcome = await play(sub, client, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
        except ChatError as error:
            prompt_tokens, completion_tokens = prompt_tokens + error.tokens[0], completion_tokens + error.tokens[1]
            raise
        prompt_tokens += outcome.prompt_tokens
        completion_tokens += outcome.completion_tokens
        copied_tokens += outcome.conversation_tokens
        return outcome.result

    episode.copies = play_copy
    sampling: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "stop": _STOP, "top_p": top_p}
    try:
        while episode.stop_reason is None:
            reply = None
            if on_text is None:
                reply = await client.complete(messages, **sampling)
            else:
                async for piece in client.stream(messages, **sampling):
                    if isinstance(piece, ChatReply):
                        reply = piece
                    else:
                        on_text(piece)
            assert reply is not None  # a stream ends with its reply or raises
            prompt_tokens += reply.prompt_tokens
            completion_tokens += reply.completion_tokens
            # The last prompt holds the earlier turns again; what a template drops of them counts once, too.
            conversation_tokens = max(conversation_tokens, reply.prompt_tokens + reply.completion_tokens)
            observation = await episode.step(reply.text, truncated=reply.finish_reason == "length")
            if observation is not None:
                messages += [("assistant", (reply.text,)), ("user", observation)]
                if on_observation is not None:
                    on_observation(observation)
    except ChatError as error:
        error.tokens = (prompt_tokens, completion_tokens)
        raise
    return ChatEpisode(episode.result(), prompt_tokens, completion_tokens, conversation_tokens + copied_tokens)
