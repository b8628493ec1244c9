"""Decides who gets a slot, what is read, and when to decode; joins one engine with any number of asyncio tasks.

The device works in a thread of its own, one step at a time: copies for groups, a few extends, one decode call. While
it does, the event loop parses what the last step sampled, searches, and prepares images. A session that searches keeps
its slot until somebody else needs it; then the one parked longest is evicted and comes back from its record.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Literal

import numpy as np

from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import kv
from hypereyes_jax.rollout.engine import DecodeRequest, Engine, Sampled, join
from hypereyes_jax.rollout.sequence import Prepared, Sequence
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import SamplingConfig, Turn, TurnEnd

SwapMode = Literal["abort", "finish", "continue"]


@dataclass(frozen=True)
class SchedulerConfig:
    extends_per_step: int = 4  # extend calls before the next decode call, so that neither waits long for the other
    share_prompts: bool = True  # sequences with equal prompts share one prefill
    evict_after: float = 0.05  # seconds a session stays parked before another may take its slot, while some run
    offload_bytes: int = 1 << 30  # host memory for caches of evicted sequences; beyond it they are read again
    max_staleness: int | None = None  # versions a sequence's first token may lie behind; older ones end; None = any


@dataclass
class SchedulerCounts:
    """What happened since the scheduler was made. Times in seconds."""

    device_seconds: float = 0.0
    starved_seconds: float = 0.0  # the device stood still although a session was ready, or one became so
    waiting_seconds: float = 0.0  # the device stood still because every session was searching
    evictions: int = 0
    restored: int = 0  # evicted sequences that came back from host memory
    reread_tokens: int = 0  # tokens read again after an eviction
    stale: int = 0
    aborted_turns: int = 0  # sampled anew with new weights


class _State(Enum):
    PARKED = "parked"  # no request; may have a slot
    WAITING = "waiting"  # a request, no slot
    RUNNING = "running"  # a request and a slot


class Session:
    """One rollout's seat at a scheduler. `turn` is asked by one task at a time."""

    def __init__(self, scheduler: Scheduler, sequence: Sequence, sampling: SamplingConfig, stop_ids: tuple[int, ...]):
        self._scheduler = scheduler
        self.sequence = sequence
        self.sampling = sampling
        self.stop_ids = stop_ids
        self.state = _State.PARKED
        self.used = 0.0  # when it last ran
        self.context: Prepared | None = None  # what the running turn is to read, before it is appended
        self.parts: list[Sampled] = []
        self.versions: list[int] = []  # of each part
        self.oldest: int | None = None  # version of its first sampled token
        self.budget = 0
        self.full = False  # the budget is what the slot has room for, not the turn's limit
        self.future: asyncio.Future[Turn] | None = None
        self.prompt_key: bytes | None = None
        self.prompt_count = 0  # positions of the prompt in the cache that others may copy
        self.epoch = 0  # of the weights that wrote its cache
        self.saved: tuple[kv.SlotStore, int] | None = None
        self.was_read = 0  # tokens that had been in a cache before an eviction
        self.usable = True
        self.closed = False

    async def turn(self, context: ContextChunk) -> Turn:
        """Reads a prompt or an observation, and samples until a stop id or a limit.

        Cancelling it withdraws the request; the session can then only be closed. Raises RuntimeError if the device
        failed or the session can't be used any more.
        """
        if self.closed or not self.usable:
            raise RuntimeError("turn() on a session that is closed, was cancelled, or has a turn under way")
        try:
            prepared = await self._scheduler.prepare(context)
        except ValueError as error:
            return Turn(None, TurnEnd.UNREADABLE, str(error))
        if not self._scheduler.engine.fits(self.sequence, prepared):
            return Turn(None, TurnEnd.CONTEXT)
        self.future = asyncio.get_running_loop().create_future()
        self._scheduler.submit(self, prepared)
        self.usable = False  # until the turn ends: one that is cancelled leaves a record that nobody can go on from
        try:
            turn = await self.future
        finally:
            self.future = None
        self.usable = True
        return turn

    async def close(self) -> None:
        """Gives everything back. Safe to call twice."""
        if not self.closed:
            self.closed = True
            self._scheduler.retire(self)


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
        self._offloaded = 0  # bytes
        self._epoch = 0
        self._swap: _Swap | None = None
        self._wake = asyncio.Event()
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._host = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._loop_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Scheduler:
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
        for session in self._sessions:
            if session.sequence.slot is not None:
                self.engine.release(session.sequence)
        self._sessions.clear()

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> Session:
        """A seat for one rollout; it needs no slot until its first turn. Waits if a swap is to come first."""
        while self._swap is not None and self._swap.mode == "finish":
            await self._swap.applied()
        session = Session(self, self.engine.new_sequence(seed), sampling, stop_ids)
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
        self._swap = _Swap(params, lora, version, mode, asyncio.get_running_loop().create_future())
        self._wake.set()
        await self._swap.applied()

    async def prepare(self, context: ContextChunk) -> Prepared:
        """Patches images and expands tokens in a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._host, self.engine.prepare, context)

    def submit(self, session: Session, prepared: Prepared) -> None:
        """Called by a session: it wants its next turn."""
        if self._loop_task is None or self._loop_task.done():
            raise RuntimeError("the scheduler is not running; use it as `async with Scheduler(engine)`")
        session.context = prepared
        session.state = _State.WAITING
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
            self._clean()
            self._swap_if_due()
            step = self._plan()
            if step is None:
                self._wake.clear()
                began = time.perf_counter()
                await self._wake.wait()
                waited = time.perf_counter() - began
                self.counts.waiting_seconds += waited
                ended = None if ended is None else ended + waited
                continue
            await loop.run_in_executor(self._device, self._work, step)
            started, _, now = step.times
            if ended is not None:
                self.counts.starved_seconds += started - ended
            self.counts.device_seconds += now - started
            ended = now
            self._finish(step)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The loop ended: by cancellation, or because the device failed. Nobody may wait for it any more."""
        cause = None if task.cancelled() else task.exception()
        for session in self._sessions:
            if session.future is not None and not session.future.done():
                error = RuntimeError("the device loop has ended")
                error.__cause__ = cause
                session.future.set_exception(error)
        if self._swap is not None and not self._swap.done.done():
            self._swap.done.cancel()

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
        if session.state is _State.WAITING:
            self._waiting.remove(session)
        elif session.state is _State.RUNNING:
            self._running.remove(session)
        session.context, session.parts, session.versions = None, [], []
        self._park(session)

    def _park(self, session: Session) -> None:
        session.state = _State.PARKED
        session.used = time.perf_counter()
        if session.sequence.slot is not None:
            self._parked[session] = None
            self._parked.move_to_end(session)

    def _forget_saved(self, session: Session) -> None:
        if session.saved is not None:
            self._offloaded -= _bytes(session.saved[0])
            session.saved = None

    def _swap_if_due(self) -> None:
        swap = self._swap
        if swap is None or (swap.mode == "finish" and self._sessions):
            return
        self._swap = None
        if swap.done.cancelled():
            return
        try:
            self.engine.set_weights(swap.params, swap.lora, swap.version)
        except ValueError as error:
            swap.done.set_exception(error)
            return
        self._epoch += 1
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
        session.sequence.filled = 0
        session.epoch = self._epoch
        if session.state is _State.RUNNING and session.parts:
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

    def _plan(self) -> _Step | None:
        self._admit()
        if not self._running:
            return None
        extends: list[Session] = []
        shares: list[tuple[Session, list[Session]]] = []
        leaders: dict[bytes, Session] = {}
        for session in self._holders():
            leaders.setdefault(session.prompt_key or b"", session)
        followers: dict[bytes, list[Session]] = {}
        for session in self._running:
            sequence = session.sequence
            if not sequence.unread:
                continue
            leader = leaders.get(session.prompt_key or b"") if self.settings.share_prompts else None
            if leader is None or sequence.filled >= session.prompt_count or leader is session:
                extends.append(session)
                if session.prompt_key is not None and session.epoch == self._epoch:
                    leaders.setdefault(session.prompt_key, session)
            elif leader.sequence.filled >= leader.prompt_count:
                followers.setdefault(leader.prompt_key or b"", []).append(session)
            # else: the leader is still reading the prompt they share
        for key, group in followers.items():
            shares.append((leaders[key], group))
        return _Step(shares, extends)

    def _holders(self) -> list[Session]:
        """Sessions with a slot whose cache begins with their whole prompt, written by the weights in use."""
        return [
            session
            for session in [*self._running, *self._parked]
            if session.prompt_key is not None
            and session.epoch == self._epoch
            and session.sequence.filled >= session.prompt_count
        ]

    def _admit(self) -> None:
        """Gives slots to those who wait, in the order they asked; those who hold one already need no other."""
        blocked: deque[Session] = deque()
        while self._waiting:
            session = self._waiting.popleft()
            if session.sequence.slot is None and not self._seat(session):
                blocked.append(session)
                continue
            if session in self._parked:
                del self._parked[session]
                if self.timeline is not None:
                    slot = f"slot {session.sequence.slot}"
                    self.timeline.span(slot, "parked", session.used, time.perf_counter())
            self._begin(session)
        self._waiting = blocked

    def _seat(self, session: Session) -> bool:
        if not self.engine.free_slots:
            longest = next(iter(self._parked), None)
            if longest is None:
                return False
            if self._running and time.perf_counter() - longest.used < self.settings.evict_after:
                return False
            self._evict(longest)
        self.engine.acquire(session.sequence)
        if session.saved is not None:
            saved, filled = session.saved
            self.engine.restore(session.sequence, saved, filled)
            self._forget_saved(session)
            self.counts.restored += 1
        else:
            session.epoch = self._epoch
            self.counts.reread_tokens += session.was_read
        session.was_read = 0
        return True

    def _evict(self, session: Session) -> None:
        del self._parked[session]
        sequence = session.sequence
        saved = self.engine.save(sequence)
        if self._offloaded + _bytes(saved) <= self.settings.offload_bytes:
            session.saved = saved, sequence.filled
            self._offloaded += _bytes(saved)
        session.was_read = sequence.filled
        if self.timeline is not None:
            now = time.perf_counter()
            self.timeline.span(f"slot {sequence.slot}", "parked", session.used, now)
            self.timeline.mark(f"slot {sequence.slot}", "evicted", now)
        self.engine.release(sequence)
        self.counts.evictions += 1

    def _begin(self, session: Session) -> None:
        prepared, sequence = session.context, session.sequence
        assert prepared is not None
        if sequence.length == 0:
            session.prompt_key, session.prompt_count = prepared.key, len(prepared.expanded.tokens_T) - 1
        sequence.append_context(prepared)
        session.context = None
        session.parts, session.versions = [], []
        session.budget = min(session.sampling.max_new_tokens, sequence.room)
        session.full = sequence.room < session.sampling.max_new_tokens
        session.state = _State.RUNNING
        self._running.append(session)

    # In the device's thread.

    def _work(self, step: _Step) -> None:
        started = time.perf_counter()
        for leader, group in step.shares:
            self.engine.share(leader.sequence, [s.sequence for s in group], leader.prompt_count)
        unread = [session for session in step.extends if session.sequence.unread]
        for _ in range(self.settings.extends_per_step):
            if not unread:
                break
            done = self.engine.extend([session.sequence for session in unread])
            took_part = {id(sequence) for sequence in done}
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

    def _finish(self, step: _Step) -> None:
        version = self.engine.version
        if self.timeline is not None:
            self._record(step)
        for session, sampled in zip(step.decoded, step.sampled, strict=True):
            session.parts.append(sampled)
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
            chunk = SampledChunk(whole.tokens, whole.logp_behaviour, whole.logp_full, stamps)
        future = session.future
        self._withdraw(session)
        if future is not None and not future.done():
            future.set_result(Turn(chunk, end))

    def _record(self, step: _Step) -> None:
        assert self.timeline is not None
        started, between, ended = step.times
        for session in dict.fromkeys(step.extended):
            self.timeline.span(f"slot {session.sequence.slot}", "extend", started, between)
        for session in step.decoded:
            self.timeline.span(f"slot {session.sequence.slot}", "decode", between, ended)
        if step.extended or step.shares:
            self.timeline.span("device", "extend", started, between)
        if step.decoded:
            self.timeline.span("device", "decode", between, ended)


@dataclass
class _Step:
    """One visit to the device, and what came of it."""

    shares: list[tuple[Session, list[Session]]]
    extends: list[Session]
    extended: list[Session] = field(default_factory=list)
    decoded: list[Session] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass
class _Swap:
    params: Any
    lora: Any
    version: int
    mode: SwapMode
    done: asyncio.Future[None]

    async def applied(self) -> None:
        await asyncio.shield(self.done)


def _bytes(saved: kv.SlotStore) -> int:
    return sum(leaf.nbytes for leaf in saved if leaf is not None)
