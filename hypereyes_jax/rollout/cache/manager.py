"""Who holds an engine's slots and pages, who waits for them, and who gives them up for others.

A session that searches keeps its slot and its pages until others need them; then the one parked longest is evicted and
comes back from its record. Where pages still lack for all that run, the session opened last waits. All of this happens
between device steps; what it decides is noted in the step that comes next.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque

from hypereyes_jax.configs.rollout import SchedulerConfig
from hypereyes_jax.rollout.cache.prefix import Beginning, PrefixCache
from hypereyes_jax.rollout.engine import Engine
from hypereyes_jax.rollout.session import Session, SessionState
from hypereyes_jax.rollout.step import DeviceStep
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import SchedulerCounts
from hypereyes_jax.runs.memory import host_free_gib


class CacheManager:
    """The sessions of one engine by what they hold.

    Args:
      counts: evictions and the like are counted in it.
      timeline: records how long each slot was parked; None = nothing is recorded.
    """

    def __init__(self, engine: Engine, settings: SchedulerConfig, counts: SchedulerCounts, timeline: Timeline | None):
        self.engine, self.settings, self.counts, self.timeline = engine, settings, counts, timeline
        self.waiting: deque[Session] = deque()
        self.running: list[Session] = []
        self.parked: OrderedDict[Session, None] = OrderedDict()  # with a slot, longest parked first
        self.epoch = 0  # of the weights in use
        self._prefixes = PrefixCache(limit=2 * engine.settings.slots)
        self._offloaded = 0  # bytes
        self.offload_limit = _offload_limit(engine, settings)  # bytes of host memory for what is evicted

    def add(self, session: Session) -> None:
        """Lets a session with a request wait for its turn."""
        session.state = SessionState.WAITING
        self.waiting.append(session)

    def close(self, session: Session) -> None:
        """Frees what a session holds, for good."""
        self.withdraw(session)
        self.parked.pop(session, None)
        self.forget_saved(session)
        if session.sequence.slot is not None:
            self.engine.release(session.sequence)

    def begin_epoch(self) -> None:
        """Notes that the weights are other ones: no prompt that was read before serves those that begin alike."""
        self.epoch += 1
        self.forget_prefixes()

    def admit(self, step: DeviceStep) -> None:
        """Gives slots to those who wait, in the order they asked; those who hold one already need no other."""
        blocked: deque[Session] = deque()
        while self.waiting:
            session = self.waiting.popleft()
            if session.sequence.slot is None and (blocked or not self._assign_slot(session, step)):
                blocked.append(session)
                continue
            if session in self.parked:
                del self.parked[session]
                self._record_parked(session)
            self._begin(session)
        self.waiting = blocked

    def make_room(self, step: DeviceStep) -> None:
        """Sees to it that all that run can be given their pages: prompts kept for later go, then those who search, then
        those who were opened last. What is left of them waits; the one opened first always has room."""
        for part in {self.engine.part(session.sequence) for session in self.running}:
            while self.engine.free_pages(part) < self._lacking_of_running(part, step):
                if self._drop_prefix(part):
                    continue
                parked = next((each for each in self.parked if self.engine.part(each.sequence) == part), None)
                if parked is not None:
                    self._evict(parked, step)
                    continue
                running = [each for each in self.running if self.engine.part(each.sequence) == part]
                if len(running) == 1:
                    break
                self._preempt(max(running, key=lambda each: each.number), step)

    def withdraw(self, session: Session) -> None:
        if session.state is SessionState.WAITING:
            self.waiting.remove(session)
        elif session.state is SessionState.RUNNING:
            self.running.remove(session)
        session.context, session.parts, session.versions = None, [], []
        self._park(session)

    def forget_saved(self, session: Session) -> None:
        if session.saved is not None:
            self._offloaded -= self.engine.saved_bytes(session.saved.filled)
            session.saved = None

    def forget_prefixes(self) -> None:
        for kept in self._prefixes.clear():
            self.engine.drop(kept)

    def keep_prompt(self, session: Session) -> None:
        """Keeps the prompt of a session that has read for others that begin alike."""
        prompt, part = session.prompt, self.engine.part(session.sequence)
        if prompt is None or not session.holds_prompt or session.epoch != self.epoch:
            return
        if self.settings.share_prompts and not self._prefixes.holds(part, prompt):
            for dropped in self._prefixes.note(prompt, self.engine.keep(session.sequence, prompt.positions)):
                self.engine.drop(dropped)

    def _assign_slot(self, session: Session, step: DeviceStep) -> bool:
        prefix = self._kept_beginning(session)
        while (part := self._part_with_room(session, prefix, step)) is None:
            full = self.engine.best_part()  # it lacks pages; None: there is no slot
            longest = next((each for each in self.parked if full in (None, self.engine.part(each.sequence))), None)
            if longest is not None:
                if self.running and time.perf_counter() - longest.used < self.settings.evict_after:
                    return False
                self._evict(longest, step)
            elif prefix is not None and not self.running:  # what it would begin with is in its way
                self.forget_prefixes()
                prefix = None
            else:
                return False
        self.engine.acquire(session.sequence, part)
        if session.saved is not None:
            step.restores[session] = session.saved
            self.forget_saved(session)
            self.counts.restored += 1
        else:
            session.epoch = self.epoch
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
        for session in self.running:
            if self.engine.part(session.sequence) == part:
                adopted = step.adoptions.get(session)
                lacking += self._lacking(session, 0 if adopted is None else adopted.positions_in(part))
        return lacking

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

    def _evict(self, session: Session, step: DeviceStep) -> None:
        del self.parked[session]
        self._record_parked(session, evicted=True)
        self._give_back(session, step)
        self.counts.evictions += 1

    def _preempt(self, session: Session, step: DeviceStep) -> None:
        """Lets a running session wait, with what it has sampled of its turn."""
        self.running.remove(session)
        if session in step.restores:
            session.saved = step.restores.pop(session)
            self._offloaded += self.engine.saved_bytes(session.saved.filled)
        if session in step.adoptions:
            self.engine.drop(step.adoptions.pop(session).kept)
        self._give_back(session, step)
        session.state = SessionState.WAITING
        self.waiting.appendleft(session)
        self.counts.preemptions += 1

    def _give_back(self, session: Session, step: DeviceStep) -> None:
        """Takes slot and pages. What they hold is read by this step before anything else is written to them."""
        sequence = session.sequence
        size = self.engine.saved_bytes(sequence.filled)
        if sequence.filled and self._offloaded + size <= self.offload_limit:
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
        self.running.append(session)

    def _park(self, session: Session) -> None:
        session.state = SessionState.PARKED
        session.used = time.perf_counter()
        if session.sequence.slot is not None:
            self.parked[session] = None
            self.parked.move_to_end(session)

    def _record_parked(self, session: Session, evicted: bool = False) -> None:
        if self.timeline is not None:
            track, now = f"slot {session.sequence.slot}", time.perf_counter()
            self.timeline.span(track, "parked", session.used, now)
            if evicted:
                self.timeline.mark(track, "evicted", now)


def _offload_limit(engine: Engine, settings: SchedulerConfig) -> int:
    """Bytes of host memory for what the engine had to evict."""
    gib = engine.settings.offload_gib
    if gib is None:
        gib = host_free_gib() / 4 / settings.processes
    return int(gib * 2**30) // settings.engines
