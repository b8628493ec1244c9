"""Our episodes as environments with `reset` and `step`, as Gymnasium has them. No other package is imported.

`env.adapters.skyrl` and `env.adapters.tinker` make of them what SkyRL and tinker-cookbook take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.judging.judges import Judge
from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import EpisodeResult, Part, Question, SearchBackend, StopReason
from hypereyes_jax.env.web.loop_thread import LoopThread

Message = dict[str, Any]  # {"role": ..., "content": [{"type": "image", "image": PIL} | {"type": "text", "text": ...}]}
EpisodeReward = Callable[[EpisodeResult, bool], float]


def accuracy(result: EpisodeResult, correct: bool) -> float:
    """1 for a right answer, 0 for a wrong one or none."""
    return float(correct)


class EnvironmentStep(NamedTuple):
    """What a turn came to."""

    messages: list[Message]  # for the model; none at the end
    reward: float  # of the whole episode, at its end; 0 before
    done: bool
    info: dict[str, Any]  # at the end: stop, rounds, invocations, correct, masked


class SearchEnvironment:
    """One episode after another, for callers with an event loop. Used by one task at a time.

    Where the world fails, or the judge, the episode ends with `info["masked"]`: it says nothing about the policy, so
    leave it out of the loss.

    Args:
      backend: what its searches go to.
      judge: decides whether an answer is right.
      tools: further tools that the model may call.
      reward: of an episode that was judged.
      image_urls: show images as data URIs (`image_url`, as OpenAI's API takes them), and not as PIL images.
    """

    def __init__(
        self,
        backend: SearchBackend,
        judge: Judge,
        config: EpisodeConfig | None = None,
        *,
        tools: Sequence[Tool] = (),
        reward: EpisodeReward = accuracy,
        image_urls: bool = False,
    ):
        self._backend, self._judge, self._config = backend, judge, config
        self._tools, self._reward, self._image_urls = tuple(tools), reward, image_urls
        self._episode: Episode | None = None

    async def reset(self, question: Question) -> list[Message]:
        """The system's message and the user's: images, then the question."""
        self._episode = Episode(question, self._backend, self._config, self._tools)
        return [{"role": "system", "content": self._episode.system}, self._message(self._episode.prompt())]

    async def step(self, text: str, truncated: bool = False) -> EnvironmentStep:
        """Plays a turn.

        Args:
          text: the turn as the model wrote it.
          truncated: it was cut by a limit on its length.

        Raises:
          RuntimeError: no episode is under way.
          FatalSearchError: no search can work any more.
        """
        if self._episode is None or self._episode.stop_reason is not None:
            raise RuntimeError("no episode is under way: reset() first")
        parts = await self._episode.step(text, truncated)
        if parts is not None:
            return EnvironmentStep([self._message(parts)], 0.0, False, {})
        result = self._episode.result()
        correct = False if result.answer is None else await self._judge.judge(result.question, result.answer)
        masked = result.stop is StopReason.INFRASTRUCTURE or correct is None
        info = {
            "stop": result.stop.value,
            "rounds": result.rounds,
            "invocations": result.invocations,
            "correct": None if masked else correct,
            "masked": masked,
        }
        return EnvironmentStep([], 0.0 if masked else self._reward(result, bool(correct)), True, info)

    def result(self) -> EpisodeResult:
        """All that happened. Raises RuntimeError while the episode goes on."""
        if self._episode is None:
            raise RuntimeError("no episode is under way: reset() first")
        return self._episode.result()

    def _message(self, parts: Sequence[Part]) -> Message:
        return {"role": "user", "content": [self._part(part) for part in parts]}

    def _part(self, part: Part) -> dict[str, Any]:
        if not isinstance(part, Image.Image):
            return {"type": "text", "text": part}
        if self._image_urls:
            return {"type": "image_url", "image_url": {"url": data_uri(part, max_side=2048)}}
        return {"type": "image", "image": part}


class SyncSearchEnvironment:
    """The same with Gymnasium's signatures, for callers without an event loop, and for those whose own is running.

    Args:
      questions: those that `reset` draws from.
      loop: where the episode is played; None = in a thread of its own until `close`. Environments that play at the
        same time share connections, and the limits of the backend, where they share a loop.
      options: as `SearchEnvironment` takes them: tools, reward, image_urls.
    """

    def __init__(
        self,
        backend: SearchBackend,
        judge: Judge,
        config: EpisodeConfig | None = None,
        questions: Sequence[Question] = (),
        *,
        loop: LoopThread | None = None,
        **options: Any,
    ):
        self._inner = SearchEnvironment(backend, judge, config, **options)
        self._questions = questions
        self._random = np.random.default_rng()
        self._loop, self._owns_loop = loop or LoopThread(), loop is None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[Message], dict[str, Any]]:
        """Starts an episode on a question drawn at random, or on `options["question"]`.

        Args:
          seed: of the draws from now on.

        Returns:
          The first messages, and {"question_id": ...}.

        Raises:
          ValueError: there is no question to ask.
        """
        if seed is not None:
            self._random = np.random.default_rng(seed)
        question = (options or {}).get("question")
        if question is None:
            if not self._questions:
                raise ValueError("there is no question: give some to the environment, or options={'question': ...}")
            question = self._questions[int(self._random.integers(len(self._questions)))]
        return self._loop.run(self._inner.reset(question)), {"question_id": question.id}

    def step(self, text: str) -> tuple[list[Message], float, bool, bool, dict[str, Any]]:
        """(messages, reward, terminated, truncated, info): truncated where the world failed, or a limit ended it."""
        messages, reward, done, info = self._loop.run(self._inner.step(text))
        limits = (StopReason.INFRASTRUCTURE, StopReason.TURN_LIMIT, StopReason.TRUNCATED)
        truncated = done and (info["masked"] or info["stop"] in {each.value for each in limits})
        return messages, reward, done and not truncated, truncated, info

    def close(self) -> None:
        """Ends the event loop, where it is its own."""
        if self._owns_loop:
            self._loop.close()
