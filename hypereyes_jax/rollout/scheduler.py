"""Decides who gets a slot, what is read, and when to decode; joins one engine with any number of asyncio tasks.

The device works in a thread of its own, one step at a time: copies for groups, a few extends, one decode call. While
it does, the event loop parses what the last step sampled, searches, and prepares images. A session that searches keeps
its slot and its pages until others need them; then the one parked longest is evicted and comes back from its record.
Where pages still lack for all that run, the session opened last waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from hypereyes_jax.configs.rollout import SamplingConfig, SchedulerConfig
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout.engine import DecodeRequest, Engine, join
from hypereyes_jax.rollout.prefix_cache import Beginning, PrefixCache
from hypereyes_jax.rollout.sequence import Prepared
from hypereyes_jax.rollout.session import Session, SessionState
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
        self._sessions: set[Session] = set()
        self._waiting: deque[Session] = deque()
        self._running: list[Session] = []
        self._parked: OrderedDict[Session, None] = OrderedDict()  # with a slot, longest parked first
        self._retired: list[Session] = []
        self._prefixes = PrefixCache(limit=2 * engine.settings.slots)
        self._opened = itertools.count()
        self._offloaded = 0  # bytes
        self._epoch = 0
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
        self._forget_prefixes()
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
        session.state = SessionState.WAITING
        self._waiting.append(session)
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
            self._withdraw(session)
            self._parked.pop(session, None)
            self._forget_saved(session)
            if session.sequence.slot is not None:
                self.engine.release(session.sequence)
            self._sessions.discard(session)
        self._retired.clear()
        for session in [*self._waiting, *self._running]:
            if session.future is None or session.future.done():
                self._withdraw(session)

    def _withdraw(self, session: Session) -> None:
        if session.state is SessionState.WAITING:
            self._waiting.remove(session)
        elif session.state is SessionState.RUNNING:
            self._running.remove(session)
        session.context, session.parts, session.versions = None, [], []
        self._park(session)

    def _park(self, session: Session) -> None:
        session.state = SessionState.PARKED
        session.used = time.perf_counter()
        if session.sequence.slot is not None:
            self._parked[session] = None
            self._parked.move_to_end(session)

    def _forget_saved(self, session: Session) -> None:
        if session.saved is not None:
            self._offloaded -= self.engine.saved_bytes(session.saved.filled)
            session.saved = None

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
        self._epoch += 1
        self._forget_prefixes()
        if swap.mode == "abort":
            for session in self._sessions:
                self._start_over(session)
        swap.done.set_result(None)
        if self.settings.max_staleness is not None:
            for session in [*self._waiting, *self._running]:
                self._end_if_stale(session)

    def _start_over(self, session: Session) -> None:
        """Drops a session's cache and what its running turn has sampled."""
        self._forget_saved(session)
        self.engine.forget(session.sequence)
        session.epoch = self._epoch
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
        self._admit(step)
        self._make_room(step)
        if not self._running:
            return None
        plan_reads(step, self._running, self._parked, self._epoch, self.settings.share_prompts)
        return step

    def _admit(self, step: DeviceStep) -> None:
        """Gives slots to those who wait, in the order they asked; those who hold one already need no other."""
        blocked: deque[Session] = deque()
        while self._waiting:
            session = self._waiting.popleft()
            if session.sequence.slot is None and (blocked or not self._assign_slot(session, step)):
                blocked.append(session)
                continue
            if session in self._parked:
                del self._parked[session]
                self._record_parked(session)
            self._begin(session)
        self._waiting = blocked

    def _assign_slot(self, session: Session, step: DeviceStep) -> bool:
        prefix = self._kept_beginning(session)
        while (part := self._part_with_room(session, prefix, step)) is None:
            full = self.engine.best_part()  # it lacks pages; None: there is no slot
            longest = next((each for each in self._parked if full in (None, self.engine.part(each.sequence))), None)
            if longest is not None:
                if self._running and time.perf_counter() - longest.used < self.settings.evict_after:
                    return False
                self._evict(longest, step)
            elif prefix is not None and not self._running:  # what it would begin with is in its way
                self._forget_prefixes()
                prefix = None
            else:
                return False
        self.engine.acquire(session.sequence, part)
        if session.saved is not None:
            step.restores[session] = session.saved
            self._forget_saved(session)
            self.counts.restored += 1
        else:
            session.epoch = self._epoch
            if prefix is not None:
                self.engine.hold(prefix.kept)
                step.adoptions[session] = prefix
            self.counts.reread_tokens += max(0, session.was_read - (prefix.positions if prefix else 0))
        session.was_read = 0
        return True

    def _kept_beginning(self, session: Session) -> Beginning | None:
        """What the cache holds of the beginning that this session has to read."""
        if not self.settings.share_prompts or session.saved is not None:
            return None
        if session.prompt is None:
            assert session.context is not None
            session.prompt = session.context.as_prompt()
        return self._prefixes.find(session.prompt, whole=self.engine.settings.whole_prompts)

    def _part_with_room(self, session: Session, prefix: Beginning | None, step: DeviceStep) -> int | None:
        """A part with a slot, and with pages beside those that its running sessions take in this step."""
        preferred = None if prefix is None else prefix.kept.part
        for part in dict.fromkeys((self.engine.best_part(preferred), self.engine.best_part())):
            if part is None:
                continue
            kept = 0 if prefix is None else prefix.positions_in(part)
            lacking = self._lacking(session, kept) + self._lacking_of_running(part, step)
            while self.engine.free_pages(part) < lacking and self._drop_prefix(part, but=prefix):
                pass
            if self.engine.free_pages(part) >= lacking:
                return part
        return None

    def _lacking(self, session: Session, kept: int = 0) -> int:
        """Pages that a session has to be given before this step has read and sampled for it.

        Args:
          kept: positions of its beginning that it will adopt.
        """
        sequence, settings = session.sequence, self.engine.settings
        length, budget = sequence.length, session.budget
        if session.context is not None:  # it has not begun to read
            length += len(session.context.expanded.tokens_T)
            budget = session.sampling.max_new_tokens
        positions = min(length - 1 + min(budget, settings.tokens_a_call), settings.context)
        return self.engine.lacking_pages(sequence, positions, kept)

    def _lacking_of_running(self, part: int, step: DeviceStep) -> int:
        lacking = 0
        for session in self._running:
            if self.engine.part(session.sequence) == part:
                adopted = step.adoptions.get(session)
                lacking += self._lacking(session, 0 if adopted is None else adopted.positions_in(part))
        return lacking

    def _make_room(self, step: DeviceStep) -> None:
        """Sees to it that all that run can be given their pages: prompts kept for later go, then those who search, then
        those who were opened last. What is left of them waits; the one opened first always has room."""
        for part in {self.engine.part(session.sequence) for session in self._running}:
            while self.engine.free_pages(part) < self._lacking_of_running(part, step):
                if self._drop_prefix(part):
                    continue
                parked = next((each for each in self._parked if self.engine.part(each.sequence) == part), None)
                if parked is not None:
                    self._evict(parked, step)
                    continue
                running = [each for each in self._running if self.engine.part(each.sequence) == part]
                if len(running) == 1:
                    break
                self._preempt(max(running, key=lambda each: each.number), step)

    def _drop_prefix(self, part: int, but: Beginning | None = None) -> bool:
        """Keeps the prompt used longest ago no more, of those that hold pages for nobody; whether there is one."""
        kept = [each for each in self._prefixes.of_part(part) if but is None or each is not but.kept]
        needed = self.engine.held_by_sequences(part, kept)
        idle = next((each for each in kept if not needed.issuperset(each.cached.pages)), None)
        if idle is None:
            return False
        self._prefixes.drop(idle)
        self.engine.drop(idle)
        return True

    def _forget_prefixes(self) -> None:
        for kept in self._prefixes.clear():
            self.engine.drop(kept)

    def _keep_prompt(self, session: Session) -> None:
        """Keeps the prompt of a session that has read for others that begin alike."""
        prompt, part = session.prompt, self.engine.part(session.sequence)
        if prompt is None or not session.holds_prompt or session.epoch != self._epoch:
            return
        if self.settings.share_prompts and not self._prefixes.holds(part, prompt):
            for dropped in self._prefixes.note(prompt, self.engine.keep(session.sequence, prompt.positions)):
                self.engine.drop(dropped)

    def _evict(self, session: Session, step: DeviceStep) -> None:
        del self._parked[session]
        self._record_parked(session, evicted=True)
        self._give_back(session, step)
        self.counts.evictions += 1

    def _preempt(self, session: Session, step: DeviceStep) -> None:
        """Lets a running session wait, with what it has sampled of its turn."""
        self._running.remove(session)
        if session in step.restores:
            session.saved = step.restores.pop(session)
            self._offloaded += self.engine.saved_bytes(session.saved.filled)
        if session in step.adoptions:
            self.engine.drop(step.adoptions.pop(session).kept)
        self._give_back(session, step)
        session.state = SessionState.WAITING
        self._waiting.appendleft(session)
        self.counts.preemptions += 1

    def _give_back(self, session: Session, step: DeviceStep) -> None:
        """Takes slot and pages. What they hold is read by this step before anything else is written to them."""
        sequence = session.sequence
        size = self.engine.saved_bytes(sequence.filled)
        if sequence.filled and self._offloaded + size <= self.settings.offload_bytes:
            self._offloaded += size
            step.saves.append((session, self.engine.cached(sequence)))
        session.was_read = sequence.filled
        self.engine.release(sequence)

    def _begin(self, session: Session) -> None:
        prepared, sequence = session.context, session.sequence
        if prepared is not None:  # else it goes on with a turn that had to wait
            if sequence.length == 0:
                session.prompt = prepared.as_prompt()
            sequence.append_context(prepared)
            session.context = None
            session.parts, session.versions = [], []
            session.budget = min(session.sampling.max_new_tokens, sequence.room)
            session.full = sequence.room < session.sampling.max_new_tokens
        session.state = SessionState.RUNNING
        self._running.append(session)

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
        step.decoded = [session for session in self._running if not session.sequence.unread]
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
            self._keep_prompt(session)
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
        self._withdraw(session)
        if future is not None and not future.done():
            future.set_result(Turn(chunk, end, routes=None if chunk is None else session.sequence.routes.array()))

    def _record_parked(self, session: Session, evicted: bool = False) -> None:
        if self.timeline is not None:
            track, now = f"slot {session.sequence.slot}", time.perf_counter()
            self.timeline.span(track, "parked", session.used, now)
            if evicted:
                self.timeline.mark(track, "evicted", now)
