"""A model that is served elsewhere, behind an OpenAI-compatible endpoint, as a policy that is evaluated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint, ChatError
from hypereyes_jax.env.chat.policy import ChatEpisode, play
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark import OnEnd, Runner
from hypereyes_jax.rollout.types import Trajectory


@dataclass(frozen=True)
class ServedPolicy:
    """The endpoint of a model. It samples by itself: no seed reaches it."""

    endpoint: ChatEndpoint


@dataclass(frozen=True)
class ServedTrajectory(Trajectory):
    """A rollout whose tokens the server counted: there are no chunks."""

    written: int = 0
    read: int = 0  # prompt, images and observations, each once, however often the conversation was sent

    @property
    def sampled_tokens(self) -> int:
        return self.written

    @property
    def context_tokens(self) -> int:
        return self.read


def served_runner(
    policy: ServedPolicy, backend: SearchBackend, episode: EpisodeConfig, sampling: SamplingConfig
) -> Runner:
    """What `evaluate` runs: an episode a question, as many at a time as the endpoint takes.

    One that the server fails is an outage of the world. The run ends at the first that can't be used again, or that
    the server counts no tokens of, since without them there is no cost-aware score.
    """

    async def run(questions: Sequence[Question], on_end: OnEnd | None = None) -> list[Trajectory]:
        client = ChatClient(policy.endpoint)

        async def one(number: int, question: Question) -> Trajectory:
            began, own_episode = time.perf_counter(), Episode(question, backend, episode)
            try:
                conversation = await play(
                    own_episode,
                    client,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_new_tokens,
                )
            except ChatError as error:
                if error.fatal:
                    raise UserError(f"the model can't be used: {error}") from error
                own_episode.fail_infrastructure(str(error))
                conversation = ChatEpisode(own_episode.result(), 0, 0, 0)
            else:
                _check_counted(conversation, policy.endpoint)
            seconds = time.perf_counter() - began
            prompt_tokens = max(0, conversation.conversation_tokens - conversation.completion_tokens)
            trajectory = ServedTrajectory(
                (), conversation.result, seconds, written=conversation.completion_tokens, read=prompt_tokens
            )
            if on_end is not None:
                on_end(number, trajectory)
            return trajectory

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number, question)) for number, question in enumerate(questions)]
        except BaseExceptionGroup as failures:
            user_errors = failures.subgroup(UserError)
            raise (user_errors.exceptions[0] if user_errors is not None else failures) from None
        finally:
            await client.aclose()
        return [task.result() for task in tasks]

    return run


def _check_counted(conversation: ChatEpisode, endpoint: ChatEndpoint) -> None:
    if conversation.conversation_tokens <= 0:
        raise UserError(
            f"the server of {endpoint.model} reports no token counts (`usage`), which the cost-aware score needs: turn "
            "them on there"
        )
