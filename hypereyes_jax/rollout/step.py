"""What a scheduler has the device do at one visit, and a change of weights that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hypereyes_jax.rollout.cache.pages import CachedPositions
from hypereyes_jax.rollout.cache.prefix import Beginning
from hypereyes_jax.rollout.engine import Sampled, SavedCache
from hypereyes_jax.rollout.session import Session
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import SwapMode


@dataclass
class DeviceStep:
    """One visit to the device, and what came of it."""

    saves: list[tuple[Session, CachedPositions]] = field(default_factory=list)  # sessions that lost slot and pages
    restores: dict[Session, SavedCache] = field(default_factory=dict)
    # Who begins with what of a prompt that is kept, which is held once more until the step is done.
    adoptions: dict[Session, Beginning] = field(default_factory=dict)
    shares: list[tuple[Session, list[Session]]] = field(default_factory=list)  # a prompt's first reader, and the others
    extends: list[Session] = field(default_factory=list)
    extended: list[Session] = field(default_factory=list)
    decoded: list[Session] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # begin, end of reading, end

    def record(self, timeline: Timeline) -> None:
        """Writes what was done onto the tracks of the device and of the slots."""
        started, between, ended = self.times
        for session in dict.fromkeys(self.extended):
            timeline.span(f"slot {session.sequence.slot}", "extend", started, between)
        for session in self.decoded:
            timeline.span(f"slot {session.sequence.slot}", "decode", between, ended)
        if self.extended or self.shares:
            timeline.span("device", "extend", started, between)
        if self.decoded:
            timeline.span("device", "decode", between, ended)


def plan_reads(
    step: DeviceStep, running: Iterable[Session], parked: Iterable[Session], epoch: int, share_prompts: bool
) -> None:
    """Notes in the step who reads what it has not read, and who is given a prompt that another one has read.

    Of running sessions with one prompt the first reads it; the others wait until it has, and begin with its pages.

    Args:
      epoch: of the weights in use; what others wrote is not shared.
    """
    running = list(running)
    holders = [each for each in [*running, *parked] if each.epoch == epoch and each.holds_prompt]
    readers = {session.prompt.key: session for session in reversed(holders) if session.prompt is not None}
    sharers: dict[bytes, list[Session]] = {}
    for session in running:
        if not session.sequence.unread:
            continue
        assert session.prompt is not None
        key = session.prompt.key
        adopted = step.adoptions.get(session)
        begun = session.sequence.filled if adopted is None else adopted.positions
        fresh = begun < session.prompt.positions and session not in step.restores
        reader = readers.get(key) if fresh and share_prompts else None
        if reader is None:
            step.extends.append(session)
            if fresh and session.epoch == epoch:
                readers.setdefault(key, session)
        elif reader.holds_prompt:
            sharers.setdefault(key, []).append(session)
        # else: the reader is still reading the prompt they share
    step.shares = [(readers[key], group) for key, group in sharers.items()]


@dataclass
class Swap:
    """New weights that wait for their moment between two visits."""

    params: Any
    lora: Any
    version: int
    mode: SwapMode
    done: asyncio.Future[None]
