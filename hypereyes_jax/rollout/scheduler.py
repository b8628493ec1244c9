"""Decides what is read, and when to decode; joins one engine with any number of asyncio tasks.

The device works in a thread of its own, one step at a time: copies for groups, a few extends, one decode call. While
it does, the event loop parses what the last step sampled, searches, and prepares images. Who has a slot meanwhile is
decided by the `CacheManager`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from hypereyes_jax.configs.rollout import SamplingConfig, SchedulerConfig
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout.cache.manager import CacheManager
from hypereyes_jax.rollout.engine import DecodeRequest, Engine, join
from hypereyes_jax.rollout.sequence import Prepared
from hypereyes_jax.rollout.session import Session
from hypereyes_jax.rollout.step import DeviceStep, Swap, plan_reads
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import SchedulerCounts, SwapMode, Turn, TurnEnd


class Scheduler:
    """Use as `async with Scheduler(engine) as scheduler:`; everything is freed at the end.

    Args:
      timeline: records what each slot did; None = nothing is recorded.
    """

    def __init__(self, engine: Engine, settings: SchedulerConfig | None = None, timeline: Timeline | None = None):
        self.engine = engine
        self.settings = settings or SchedulerConfig()
        self.timeline = timeline
        self.counts = SchedulerCounts()
        self._cache = CacheManager(engine, self.settings, self.counts, timeline)
        self._sessions: set[Session] = set()
        self._retired: list[Session] = []
        self._opened = itertools.count()
        self._swap: Swap | None = None
        self._wake = asyncio.Event()
        self._visit = asyncio.Lock()  # held while the device works for this engine
        self._paused = False
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._host = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._loop_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Scheduler:
        if self.engine.in_use:
            raise RuntimeError("the engine has a scheduler already; share that one, or make another engine")
        self.engine.in_use = True
        self._loop_task = asyncio.create_task(self._run(), name="device loop")
        self._loop_task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop_task is not None
        self._loop_task.cancel()
        await asyncio.wait([self._loop_task])
        self._device.shutdown()
        self._host.shutdown(cancel_futures=True)
        self._cache.forget_prefixes()
        for session in self._sessions:
            if session.sequence.slot is not None:
                self.engine.release(session.sequence)
        self._sessions.clear()
        self.engine.in_use = False

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> Session:
        """A session for one rollout; it needs no slot until its first turn. Waits if a swap is to come first."""
        while self._swap is not None and self._swap.mode == "finish":
            await asyncio.wait([self._swap.done])
        session = Session(self, self.engine.new_sequence(seed), sampling, stop_ids)
        session.number = next(self._opened)
        self._sessions.add(session)
        return session

    async def swap(self, params: Any, lora: Any, version: int, mode: SwapMode = "continue") -> None:
        """New weights, between two device steps. Returns when they are in use.

        Args:
          mode: "continue": running turns go on with the keys and values they have; "abort": caches are dropped,
            running turns are sampled anew from their start, earlier turns stay; "finish": open sessions end first, new
            ones wait.

        Raises ValueError if the weights don't fit the engine's programs, RuntimeError if a swap is under way.
        """
        if self._swap is not None:
            raise RuntimeError("a swap of weights is under way")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._swap = Swap(params, lora, version, mode, done)
        self._wake.set()
        if self._paused:  # the loop waits, and no device step is under way
            self._swap_if_due()
        await asyncio.shield(done)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No device step is under way within the block; rollouts wait."""
        async with self._visit:
            self._paused = True
            try:
                yield
            finally:
                self._paused = False

    async def prepare(self, context: ContextChunk) -> Prepared:
        """Patches images and expands tokens in a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._host, self.engine.prepare, context)

    def submit(self, session: Session, prepared: Prepared) -> None:
        """Called by a session: it wants its next turn."""
        if self._loop_task is None or self._loop_task.done():
            raise RuntimeError("the scheduler is not running; use it as `async with Scheduler(engine)`")
        session.context = prepared
        self._cache.add(session)
        if not self._end_if_stale(session):
            self._wake.set()

    def retire(self, session: Session) -> None:
        """Called by a session: it is closed. Its slot is freed before the next device step."""
        self._retired.append(session)
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        ended: float | None = None  # when the device stopped working
        while True:
            async with self._visit:
                self._clean()
                self._swap_if_due()
                step = self._plan()
                if step is not None:
                    await loop.run_in_executor(self._device, self._work, step)
                    started, _, now = step.times
                    if ended is not None:
                        self.counts.starved_seconds += started - ended
                    self.counts.device_seconds += now - started
                    ended = now
                    self._finish(step)
                    continue
            self._wake.clear()
            began = time.perf_counter()
            await self._wake.wait()
            now = time.perf_counter()
            waited = now - began
            self.counts.waiting_seconds += waited
            if self.timeline is not None and any(session.sequence.length for session in self._sessions):
                self.timeline.span("device", "waiting", began, now)
            ended = None if ended is None else ended + waited

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The loop ended: by cancellation, or because the device failed. Nobody may wait for it any more."""
        cause = None if task.cancelled() else task.exception()
        for session in self._sessions:
            if session.future is not None and not session.future.done():
                error = RuntimeError("the device loop has ended")
                error.__cause__ = cause
                session.future.set_exception(error)
        if self._swap is not None and not self._swap.done.done():
            self._swap.done.set_exception(RuntimeError("the device loop ended before the swap"))

    # Between device steps: the event loop's thread may touch sequences and slots.

    def _clean(self) -> None:
        """Frees what closed sessions hold, and withdraws turns that were cancelled."""
        for session in self._retired:
            self._cache.close(session)
            self._sessions.discard(session)
        self._retired.clear()
        for session in [*self._cache.waiting, *self._cache.running]:
            if session.future is None or session.future.done():
                self._cache.withdraw(session)

    def _swap_if_due(self) -> None:
        swap = self._swap
        if swap is None or (swap.mode == "finish" and self._sessions):
            return
        self._swap = None
        try:
            self.engine.set_weights(swap.params, swap.lora, swap.version)
        except ValueError as error:
            swap.done.set_exception(error)
            return
        self._cache.begin_epoch()
        if swap.mode == "abort":
            for session in self._sessions:
                self._start_over(session)
        swap.done.set_result(None)
        if self.settings.max_staleness is not None:
            for session in [*self._cache.waiting, *self._cache.running]:
                self._end_if_stale(session)

    def _start_over(self, session: Session) -> None:
        """Drops a session's cache and what its running turn has sampled."""
        self._cache.forget_saved(session)
        self.engine.forget(session.sequence)
        session.epoch = self._cache.epoch
        if session.parts:
            count = sum(len(part.tokens) for part in session.parts)
            session.sequence.drop_sampled(count)
            session.budget += count
            session.parts, session.versions = [], []
            if not session.sequence.sampled:
                session.oldest = None
            self.counts.aborted_turns += 1

    def _end_if_stale(self, session: Session) -> bool:
        limit = self.settings.max_staleness
        if limit is None or session.oldest is None or self.engine.version - session.oldest <= limit:
            return False
        self.counts.stale += 1
        self._resolve(session, TurnEnd.STALE)
        return True

    def _plan(self) -> DeviceStep | None:
        step = DeviceStep()
        self._cache.admit(step)
        self._cache.make_room(step)
        if not self._cache.running:
            return None
        plan_reads(step, self._cache.running, self._cache.parked, self._cache.epoch, self.settings.share_prompts)
        return step

    # In the device's thread.

    def _work(self, step: DeviceStep) -> None:
        started = time.perf_counter()
        for session, cached in step.saves:  # before anything else: their pages have new owners
            session.saved = self.engine.save(cached)
        for session, cache in step.restores.items():
            self.engine.restore(session.sequence, cache)
        for session, prefix in step.adoptions.items():
            self.engine.adopt(session.sequence, prefix.kept, prefix.positions)
            self.engine.drop(prefix.kept)
        for reader, group in step.shares:
            assert reader.prompt is not None
            self.engine.share(reader.sequence, [s.sequence for s in group], reader.prompt.positions)
        unread = [session for session in step.extends if session.sequence.unread]
        for _ in range(self.settings.extends_per_step):
            if not unread:
                break
            extends = self.engine.extend([session.sequence for session in unread])
            took_part = {id(sequence) for sequence in extends}
            step.extended.extend(s for s in unread if id(s.sequence) in took_part)
            unread = [session for session in unread if session.sequence.unread]
        step.times = [started, time.perf_counter()]
        step.decoded = [session for session in self._cache.running if not session.sequence.unread]
        if step.decoded:
            requests = [DecodeRequest(s.sequence, s.sampling, s.stop_ids, s.budget) for s in step.decoded]
            step.sampled = self.engine.decode(requests)
        else:
            self.engine.block_until_ready()
        step.times.append(time.perf_counter())

    # Back in the event loop's thread.

    def _finish(self, step: DeviceStep) -> None:
        version = self.engine.version
        if self.timeline is not None:
            step.record(self.timeline)
        for session in dict.fromkeys(step.extended):
            self._cache.keep_prompt(session)
        for session, sampled in zip(step.decoded, step.sampled, strict=True):
            session.parts.append(sampled)
            if session.on_sampled is not None:
                session.on_sampled(sampled)
            session.versions.append(version)
            session.budget -= len(sampled.tokens)
            if session.oldest is None:
                session.oldest = version
            if sampled.stopped:
                self._resolve(session, TurnEnd.STOP)
            elif session.budget == 0:
                self._resolve(session, TurnEnd.CONTEXT if session.full else TurnEnd.LENGTH)

    def _resolve(self, session: Session, end: TurnEnd) -> None:
        chunk = None
        if session.parts:
            whole = join(session.parts)
            sizes = [len(part.tokens) for part in session.parts]
            stamps = np.repeat(np.array(session.versions, np.int32), sizes)
            chunk = SampledChunk(whole.tokens, whole.logp_truncated, whole.logp_full, stamps)
        future = session.future
        self._cache.withdraw(session)
        if future is not None and not future.done():
            future.set_result(Turn(chunk, end, routes=None if chunk is None else session.sequence.routes.array()))
