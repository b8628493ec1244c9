"""A model behind an OpenAI-compatible endpoint, as a player."""

from __future__ import annotations

from hypereyes_jax.data.collection.types import DirectAnswer, PlayerError, Spent
from hypereyes_jax.env.chat.client import ChatClient, ChatError
from hypereyes_jax.env.chat.policy import play
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Part, Question
from hypereyes_jax.errors import UserError

DIRECT = "Answer the question from what you see and know. Give the shortest exact answer and nothing else."


class EndpointPlayer:
    """Asks a chat model. An endpoint samples by itself: the attempts' seeds play no part.

    Args:
      temperature: of episodes; direct answers are greedy.
      max_tokens: of one turn.
    """

    def __init__(self, client: ChatClient, *, temperature: float = 0.8, max_tokens: int = 1524):
        self._client, self._temperature, self._max_tokens = client, temperature, max_tokens

    @property
    def name(self) -> str:
        return self._client.endpoint.model

    async def play(self, episode: Episode, seed: int) -> Spent:
        try:
            conversation = await play(episode, self._client, temperature=self._temperature, max_tokens=self._max_tokens)
        except ChatError as error:
            raise _failure(error) from error
        return Spent(conversation.prompt_tokens, conversation.completion_tokens)

    async def answer(self, question: Question, seed: int) -> DirectAnswer:
        parts: tuple[Part, ...] = question.parts
        messages: list[tuple[str, tuple[Part, ...]]] = [("system", (DIRECT,)), ("user", parts)]
        try:
            reply = await self._client.complete(messages, max_tokens=self._max_tokens)
        except ChatError as error:
            raise _failure(error) from error
        return DirectAnswer(reply.text.strip() or None, Spent(reply.prompt_tokens, reply.completion_tokens))


def _failure(error: ChatError) -> Exception:
    """What can't be helped by asking again ends the run; all else is an attempt that was not made."""
    if error.fatal:
        return UserError(f"the model can't be used: {error}")
    return PlayerError(str(error), Spent(*error.tokens))
