"""A checkpoint as an object to ask: `hypereyes_jax.load(...)`, for notebooks and programs of one's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
from PIL import Image

from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.media.images import ImageLimits, decode_image, to_rgb, upright
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import Part, Question, SearchBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular
from hypereyes_jax.models.companions import processor_pixels
from hypereyes_jax.models.hub import locate
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.storage import open_directory
from hypereyes_jax.processing import MAX_PIXELS, MIN_PIXELS, ChatFormat
from hypereyes_jax.rollout import Trajectory, run_episodes
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.types import TurnEnd

T = TypeVar("T")
Picture = Image.Image | str | os.PathLike  # an image, or the path of one


@dataclass(frozen=True)
class AgentAnswer:
    """What came of a question, and how."""

    text: str | None  # None where the agent gave no answer; `trajectory.result` says why
    trajectory: Trajectory

    def __str__(self) -> str:
        return self.text or f"no answer ({self.trajectory.result.stop})"


class Agent:
    """A model that answers questions about images by searching.

    Args:
      engines: with the weights.
      chat: of their tokenizer.
      context: tokens that one conversation may take.
    """

    def __init__(self, engines: Engines, chat: ChatFormat, context: int):
        self.engines, self.chat, self.context = engines, chat, context

    def ask(
        self,
        image: Picture | Sequence[Picture] | None,
        question: str,
        *,
        search: SearchBackend | SearchConfig = SearchConfig(),  # noqa: B008 - frozen
        tools: Sequence[Tool] = (),
        episode: EpisodeConfig | None = None,
        temperature: float = 0.0,
        max_new_tokens: int = 1524,
        seed: int = 0,
    ) -> AgentAnswer:
        """The agent's answer to a question about one image, several or none, with its trajectory.

        Args:
          search: what its searches go to: a backend, or the settings of a service; by default, as for `hypereyes ask`,
            the miniature world.
          tools: further tools that it may call.
          episode: the rules: how many turns and rounds, what it is shown, its system prompt.
          temperature: 0 takes the likeliest token each time.
          max_new_tokens: of one turn; the paper's limit by default.

        Raises UserError for an image that can't be opened or a service that can't be used; FatalSearchError if no
        search can work any more.
        """
        pictures = [image] if isinstance(image, Image.Image | str | os.PathLike) else list(image or ())
        posed = Question("ask", question, tuple(read_picture(picture) for picture in pictures), ())
        sampling = SamplingConfig(temperature=temperature, max_new_tokens=min(max_new_tokens, self.context))

        async def play(backend: SearchBackend) -> Trajectory:
            async with self.engines.running() as generator:
                episodes = [Episode(posed, backend, episode, tools)]
                (trajectory,) = await run_episodes(generator, episodes, self.chat, sampling, [seed])
            return trajectory

        async def search_and_play() -> Trajectory:
            if not isinstance(search, SearchConfig):
                return await play(search)
            async with connected(search) as (backend, _):
                return await play(backend)

        trajectory = _finished(search_and_play())
        return AgentAnswer(trajectory.result.answer, trajectory)

    def generate(
        self,
        prompt: str,
        images: Sequence[Picture] = (),
        *,
        system: str = "",
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int = 512,
        seed: int = 0,
    ) -> str:
        """The model's reply to one message, without any tool.

        Args:
          images: shown before the text.

        Raises UserError if the message does not fit the context, or an image can't be used.
        """
        parts: list[Part] = [*(read_picture(image) for image in images), prompt]
        sampling = SamplingConfig(temperature, top_p, max_new_tokens=min(max_new_tokens, self.context))

        async def reply() -> str:
            async with self.engines.running() as generator:
                session = await generator.open(seed, sampling, self.chat.stop_ids)
                try:
                    turn = await session.turn(self.chat.prompt(system, parts))
                finally:
                    await session.close()
            if turn.sampled is None:
                why = turn.why or f"it does not fit a context of {self.context} tokens"
                raise UserError(f"the message can't be read ({turn.end}): {why}.")
            text = self.chat.decode(turn.sampled.tokens)
            return text if turn.end is TurnEnd.STOP else text.rstrip("\ufffd")  # half a character at the limit

        return _finished(reply())


def load(
    checkpoint: str | os.PathLike,
    *,
    dtype: str | None = None,
    context: int | None = None,
    slots: int = 1,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Agent:
    """The agent of a checkpoint, on the default device.

    Args:
      checkpoint: a directory in Hugging Face layout, a hub id like "org/name@revision", or a URL (gs://, s3://, ...).
      dtype: of the weights; by default float32 on a CPU, elsewhere bfloat16.
      context: tokens that one conversation may take; by default the model's own limit, and 16,384 at most.
      slots: conversations that are held at a time.
      min_pixels, max_pixels: areas that images are resized to; by default what the checkpoint's processor says, within
        the 1,200 visual tokens of the paper.

    Raises UserError if there is no such checkpoint, or it can't be used.
    """
    cpu = jax.default_backend() == "cpu"
    dtype = dtype or ("float32" if cpu else "bfloat16")
    config, params, chat = load_model(checkpoint, dtype)
    smallest, largest = _pixels(checkpoint)
    length = context or min(16_384, config.text.max_position_embeddings)
    settings = EngineConfig(
        slots=slots,
        context=length,
        kv="bfloat16" if dtype == "bfloat16" else "float32",
        min_pixels=min_pixels or smallest,
        max_pixels=max_pixels or largest,
        max_prompt_tokens=length,
    )
    return Agent(Engines.on_one_device(config, params, settings), chat, length)


def _pixels(checkpoint: str | os.PathLike) -> tuple[int, int]:
    """The areas that a checkpoint's processor resizes to, within the paper's largest."""
    smallest, largest = processor_pixels(open_directory(locate(checkpoint)))
    largest = min(largest or MAX_PIXELS, MAX_PIXELS)
    return min(smallest or MIN_PIXELS, largest), largest


def read_picture(picture: Picture) -> Image.Image:
    """A picture as viewers show it, from its file if it is a path. Raises UserError for what is not an image."""
    if isinstance(picture, Image.Image):
        return to_rgb(upright(picture))
    refuse_irregular(Path(picture))
    try:
        return decode_image(Path(picture).read_bytes(), ImageLimits(trailing_data=True))
    except (OSError, ValueError) as error:
        raise UserError(f"can't open {os.fspath(picture)}: {error}") from error


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns. Where an event loop runs already, as in a notebook, it runs in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "hypereyes-agent") as threads:
        return threads.submit(asyncio.run, work).result()
