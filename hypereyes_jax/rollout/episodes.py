"""Plays episodes with an engine: the way of one question from its prompt to its trajectory."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.episode import CopyPlayer, Episode
from hypereyes_jax.env.types import EpisodeResult, FatalSearchError, Part, StopReason
from hypereyes_jax.processing import ChatFormat, Chunk, ContextChunk
from hypereyes_jax.rollout.engine import Engine, Sampled
from hypereyes_jax.rollout.scheduler import Scheduler
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import Trajectory, Turn, TurnEnd

OnEnd = Callable[[int, Trajectory], None]
OnSampled = Callable[[Sampled], None]


class GeneratorSession(Protocol):
    """One rollout at a generator, whichever engine is behind it."""

    async def turn(self, context: ContextChunk, on_sampled: OnSampled | None = None) -> Turn: ...

    async def close(self) -> None: ...


class Generator(Protocol):
    """Anything that answers token ids with sampled token ids: a `Scheduler`, `Replicas`, or a server's client."""

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> GeneratorSession: ...


class GeneratorError(Exception):
    """A generator that failed to answer (a server that is down, say): no fault of the policy."""


@dataclass(frozen=True)
class RolloutLimits:
    """Bounds that keep one bad rollout from holding up the others."""

    live: int | None = None  # episodes under way at a time; None = all
    step_seconds: float = 300.0  # an environment step, all its searches together (the authors' HTTP timeout)
    episode_seconds: float | None = None  # a whole episode from its admission on; None = no limit


class _StepError(Exception):
    """Carries what a step raised out of the episodes' task group."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error


@dataclass
class _Rollout:
    episode: Episode
    chunks: list[Chunk] = field(default_factory=list)
    routes: np.ndarray | None = None  # as `Trajectory.routes`


async def run_episodes(
    engine: Engine | Generator,
    episodes: Items[Episode],
    chat: ChatFormat,
    sampling: SamplingConfig,
    seeds: Items[int],
    *,
    limits: RolloutLimits | None = None,
    on_end: OnEnd | None = None,
    timeline: Timeline | None = None,
) -> list[Trajectory]:
    """Plays all episodes, at once as far as there is room, each from its prompt to its end.

    Every episode gives a trajectory, whatever happens to it: failures of the world (a search past its deadline, a
    generator that is down) end it with StopReason.INFRASTRUCTURE, a full context with CONTEXT_LIMIT.

    Args:
      engine: an engine, which gets a scheduler for the time of this call, or a generator that is running already.
      episodes: fresh ones. Those with equal prompts share one prefill.
      chat: renders messages to tokens.
      seeds: one an episode; the tokens of an episode depend on its own seed, its own observations and the weights only.
      limits: bounds on time and concurrency.
      on_end: called with an episode's number and its trajectory as each ends, in the event loop's thread.
      timeline: records search spans (and, for an engine, its slots).

    Returns:
      Trajectories in the order of `episodes`.

    Raises:
      ValueError: not one seed an episode.
      FatalSearchError: no search can work any more (no credit, say).
      Exception: whatever else an episode's step raises, by its own type and with its own traceback: a defect of a
        plugged-in backend or tool, which would mask every rollout.
      ExceptionGroup: of what `on_end` raises. In all cases the other episodes are cancelled.
    """
    if len(seeds) != len(episodes):
        raise ValueError(f"{len(episodes)} episodes need as many seeds, got {len(seeds)}")
    if isinstance(engine, Engine):
        async with Scheduler(engine, timeline=timeline) as scheduler:
            return await run_episodes(
                scheduler, episodes, chat, sampling, seeds, limits=limits, on_end=on_end, timeline=timeline
            )
    limits = limits or RolloutLimits()
    gate = asyncio.Semaphore(limits.live or max(1, len(episodes)))

    async def one(index: int) -> Trajectory:
        episodes[index].copies = _copies(engine, chat, sampling, seeds[index], limits)
        async with gate:
            trajectory = await _play(
                engine, episodes[index], chat, sampling, seeds[index], limits, timeline, f"rollout {index}"
            )
        if on_end is not None:
            on_end(index, trajectory)
        return trajectory

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index)) for index in range(len(episodes))]
    except BaseExceptionGroup as failures:
        own = failures.subgroup((FatalSearchError, _StepError))
        if own is None:
            raise
        first = own.exceptions[0]
        raise (first.error if isinstance(first, _StepError) else first) from None
    return [task.result() for task in tasks]


def _copies(
    generator: Generator, chat: ChatFormat, sampling: SamplingConfig, seed: int, limits: RolloutLimits
) -> CopyPlayer:
    """What plays the sub-questions of an episode: its own generator, with seeds that follow from the episode's."""
    numbers = itertools.count(1)

    async def play(episode: Episode) -> EpisodeResult:
        own = int(np.random.SeedSequence([seed, next(numbers)]).generate_state(1)[0])
        try:
            return (await _play(generator, episode, chat, sampling, own, limits, None, "copy")).result
        except _StepError as failure:
            raise failure.error from None

    return play


async def _play(
    generator: Generator,
    episode: Episode,
    chat: ChatFormat,
    sampling: SamplingConfig,
    seed: int,
    limits: RolloutLimits,
    timeline: Timeline | None,
    track: str,
) -> Trajectory:
    started = time.perf_counter()
    rollout = _Rollout(episode)
    session: GeneratorSession | None = None
    try:
        session = await generator.open(seed, sampling, chat.stop_ids)
        async with asyncio.timeout(limits.episode_seconds):
            await _turns(session, rollout, chat, limits, timeline, track)
    except TimeoutError:
        episode.fail_infrastructure(f"the episode took more than its {limits.episode_seconds:g} s")
    except GeneratorError as error:
        episode.fail_infrastructure(f"the generator failed: {error}")
    finally:
        if session is not None:
            await session.close()
    return Trajectory(tuple(rollout.chunks), episode.result(), time.perf_counter() - started, rollout.routes)


async def _turns(
    session: GeneratorSession,
    rollout: _Rollout,
    chat: ChatFormat,
    limits: RolloutLimits,
    timeline: Timeline | None,
    track: str,
) -> None:
    episode, chunks = rollout.episode, rollout.chunks
    context = chat.prompt(episode.system, episode.prompt())
    while True:
        turn = await session.turn(context)
        if turn.sampled is not None:
            chunks += [context, turn.sampled]
            rollout.routes = turn.routes
        elif not chunks:
            chunks.append(context)
        if turn.end is TurnEnd.CONTEXT and not _answers(episode, chat, turn):
            episode.end(StopReason.CONTEXT_LIMIT, "the context is full")
        if turn.end is TurnEnd.UNREADABLE and len(chunks) > 1:
            episode.end(StopReason.UNREADABLE, f"the observation can't be read: {turn.why}")  # the policy's own crop
        elif turn.end is TurnEnd.UNREADABLE:
            episode.fail_infrastructure(f"the prompt can't be read: {turn.why}")
        if turn.end is TurnEnd.STALE:
            episode.fail_infrastructure("the weights moved on too far while it ran")
        if turn.sampled is None or episode.stop_reason is not None:
            return
        began = time.perf_counter()
        cut = turn.end in (TurnEnd.LENGTH, TurnEnd.CONTEXT)
        observation = await _step(episode, chat.decode(turn.sampled.tokens), cut, limits.step_seconds)
        if timeline is not None:
            timeline.span(track, "search", began, time.perf_counter())
        if observation is None:
            return
        context = chat.observation(observation)


def _answers(episode: Episode, chat: ChatFormat, turn: Turn) -> bool:
    """Whether a turn that was cut already holds a closed answer."""
    return turn.sampled is not None and episode.answers(chat.decode(turn.sampled.tokens))


async def _step(episode: Episode, text: str, truncated: bool, seconds: float) -> tuple[Part, ...] | None:
    """`episode.step` in a task of its own, so that its hanging does not reach the other episodes."""
    task = asyncio.create_task(episode.step(text, truncated))
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        episode.fail_infrastructure(f"a search took more than {seconds:g} s")
        return None
    error = task.exception()
    if isinstance(error, FatalSearchError):  # no credit or a refused key: the run ends, instead of masking all of it
        raise error
    if error is not None:
        raise _StepError(error)
    return task.result()
