"""A run recorded over the network, replayed from the store without it: the same trajectories, token for token."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace

import numpy as np

from hypereyes_jax.env import Episode, ImageSearch, Question, SearchHit, TextSearch, tool_call
from hypereyes_jax.env.search.backends import HttpWorldBackend
from hypereyes_jax.env.search.config import CallPolicy, StoreMode
from hypereyes_jax.env.search.faults import FaultPlan
from hypereyes_jax.env.search.recorded import RecordedBackend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.serve import SearchServerConfig, serving
from hypereyes_jax.env.search.store import SearchStore
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import run_episodes
from hypereyes_jax.rollout.types import Turn, TurnEnd
from tests.rollout.paced import SAMPLING, picture


class Web:
    """Answers that depend on what is asked, and now and then nothing."""

    async def text_search(self, query, k):
        number = int(hashlib.md5(query.encode()).hexdigest(), 16)
        return [SearchHit(f"Page {number % 97}", f"Fact {number % 31}.", 0.9)][: number % 3]

    async def image_search(self, image, k):
        return [SearchHit("Picture", f"{image.size}", 0.5 + np.asarray(image).mean() / 512)]


class Policy:
    """A policy whose every turn depends on its seed and on all it has read; as a generator that takes its time."""

    def __init__(self, chat):
        self.chat = chat

    async def open(self, seed, sampling, stop_ids):
        return Reader(self.chat, seed)


class Reader:
    def __init__(self, chat, seed):
        self.chat, self.read = chat, hashlib.sha256(str(seed).encode())

    async def turn(self, context):
        self.read.update(np.asarray(context.tokens).tobytes())
        for image in context.images:
            self.read.update(image.tobytes())
        await asyncio.sleep(random.uniform(0, 0.02))
        draw = random.Random(self.read.digest())
        boxes = tuple((x / 10, 0.1, x / 10 + 0.4, 0.9) for x in range(draw.randrange(4)))
        actions = [
            tool_call(ImageSearch("img_0", boxes)),
            tool_call(TextSearch(tuple(f"query {draw.randrange(6)}" for _ in range(draw.randint(1, 4))))),
            f"<answer>{draw.randrange(100)}</answer>",
        ]
        tokens = self.chat.turn(draw.choices(actions, (3, 3, 1))[0])
        zeros = np.zeros(len(tokens), np.float32)
        return Turn(SampledChunk(tokens, zeros, zeros, np.zeros(len(tokens), np.int32)), TurnEnd.STOP)

    async def close(self):
        pass


def contents(trajectories):
    def image_bytes(chunk):
        return [image.tobytes() for image in getattr(chunk, "images", ())]

    chunks = [[(c.tokens.tolist(), image_bytes(c)) for c in t.chunks] for t in trajectories]
    turns = [
        [
            replace(turn, seconds=0, invocations=tuple(replace(i, seconds=0) for i in turn.invocations))
            for turn in t.result.turns
        ]
        for t in trajectories
    ]
    return chunks, turns, [(t.result.stop, t.result.answer) for t in trajectories]


async def play(backend, chat):
    def question(n):
        return Question(str(n), "what is it", (picture("replay", n % 4, size=(64, 48)),), ("1",))

    episodes = [Episode(question(n), backend) for n in range(12)]
    return contents(await run_episodes(Policy(chat), episodes, chat, SAMPLING, list(range(12))))


async def test_a_recorded_run_replays_without_a_network_to_the_same_trajectories(chat, tmp_path):
    store = SearchStore(tmp_path / "searches.sqlite")
    plan = FaultPlan({"error_503": 0.1, "malformed_json": 0.05}, latency_jitter=0.02)
    async with serving(Web(), SearchServerConfig(faults=plan)) as server:
        # Enough attempts that no search fails for good: a failure is not recorded, so it could not be replayed.
        live = ResilientBackend(HttpWorldBackend(server.url), CallPolicy(attempts=20, backoff=(0, 0.001)))
        recording = RecordedBackend(live, store)
        first = await play(recording, chat)
        await recording.aclose()
    searches = sum(len(turn.invocations) for turns in first[1] for turn in turns)
    assert searches > 30
    assert 0 < recording.metrics.cache_hits < searches

    replay = RecordedBackend(None, store, StoreMode.REPLAY, engine=recording.engine)
    assert await play(replay, chat) == first
    assert replay.metrics.cache_hits == searches
    store.close()
