"""A generator that writes given texts, a few tokens at a time."""

from __future__ import annotations

import asyncio

import numpy as np

from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout.engine import Sampled
from hypereyes_jax.rollout.types import Turn, TurnEnd


class ScriptedSession:
    def __init__(self, generator, texts):
        self._generator, self._texts = generator, list(texts)

    async def turn(self, context, on_sampled=None):
        self._generator.contexts.append(context)
        text = self._texts.pop(0)
        tokens = self._generator.chat.turn(text) if text else ()
        for start in range(0, len(tokens), 3):
            await asyncio.sleep(self._generator.pause)
            part = tokens[start : start + 3]
            logp = np.full(len(part), -0.5, np.float32)
            if on_sampled is not None:
                on_sampled(Sampled(part, logp, logp, start + 3 >= len(tokens)))
        if self._generator.failure is not None:
            raise self._generator.failure
        if self._generator.end is TurnEnd.CONTEXT:
            return Turn(None, TurnEnd.CONTEXT)
        logp = np.full(len(tokens), -0.5, np.float32)
        return Turn(SampledChunk(tokens, logp, logp, np.zeros(len(tokens), np.int32)), self._generator.end)

    async def close(self):
        self._generator.open_sessions -= 1


class ScriptedGenerator:
    def __init__(self, chat, *texts, pause=0.0, end=TurnEnd.STOP, failure=None):
        """`end`: of each turn; `failure`: raised after what it writes, which is nothing for ""."""
        self.chat, self.texts, self.pause = chat, texts, pause
        self.end, self.failure = end, failure
        self.contexts = []
        self.seeds = []
        self.open_sessions = 0

    async def open(self, seed, sampling, stop_ids):
        self.open_sessions += 1
        self.seeds.append(seed)
        return ScriptedSession(self, self.texts)
