"""One rollout at a scheduler, and what the scheduler notes about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout.engine import Engine, Sampled, SavedCache
from hypereyes_jax.rollout.sequence import Prepared, Prompt, Sequence
from hypereyes_jax.rollout.types import Turn, TurnEnd


class SessionScheduler(Protocol):
    """What a session asks of its scheduler."""

    engine: Engine

    async def prepare(self, context: ContextChunk) -> Prepared: ...

    def submit(self, session: Session, prepared: Prepared) -> None: ...

    def retire(self, session: Session) -> None: ...


class SessionState(Enum):
    """Whether a session has a request, and a slot."""

    PARKED = "parked"  # no request; may have a slot
    WAITING = "waiting"  # a request, and not yet its turn; may have a slot
    RUNNING = "running"  # a request and a slot


class Session:
    """One rollout at a scheduler. `turn` is asked by one task at a time."""

    def __init__(
        self, scheduler: SessionScheduler, sequence: Sequence, sampling: SamplingConfig, stop_ids: tuple[int, ...]
    ):
        self._scheduler = scheduler
        self.sequence = sequence
        self.sampling = sampling
        self.stop_ids = stop_ids
        self.number = 0  # in the order of opening
        self.state = SessionState.PARKED
        self.used = 0.0  # when it last ran
        self.context: Prepared | None = None  # what the running turn is to read, before it is appended
        self.parts: list[Sampled] = []
        self.versions: list[int] = []  # of each part
        self.oldest: int | None = None  # version of its first sampled token
        self.budget = 0
        self.full = False  # the budget is what the slot has room for, not the turn's limit
        self.future: asyncio.Future[Turn] | None = None
        self.on_sampled: Callable[[Sampled], None] | None = None
        self.prompt: Prompt | None = None
        self.epoch = 0  # of the weights that wrote its cache
        self.saved: SavedCache | None = None
        self.was_read = 0  # tokens that had been in a cache before an eviction
        self.usable = True
        self.closed = False

    @property
    def holds_prompt(self) -> bool:
        """Whether its cache begins with its whole prompt."""
        return self.prompt is not None and self.sequence.filled >= self.prompt.positions > 0

    async def turn(self, context: ContextChunk, on_sampled: Callable[[Sampled], None] | None = None) -> Turn:
        """Reads a prompt or an observation, and samples until a stop id or a limit.

        Args:
          on_sampled: called in the event loop's thread with what each decode call adds, while the turn goes on. After a
            swap of weights that samples the turn anew it is called again from the turn's first token on.

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
        self.on_sampled = on_sampled
        self._scheduler.submit(self, prepared)
        self.usable = False  # until the turn ends: one that is cancelled leaves a record that nobody can go on from
        try:
            turn = await self.future
        finally:
            self.future = self.on_sampled = None
        self.usable = True
        return turn

    async def close(self) -> None:
        """Gives everything back. Safe to call twice."""
        if not self.closed:
            self.closed = True
            self._scheduler.retire(self)
