"""Throughput of `hypereyes serve` with continuous batching, against a plain lock-step loop over the same engine.

    python benchmarks/serving.py

Both sample the same requests (log-normal lengths, as replies have) from the miniature's base model. The loop takes as
many requests as there are slots, waits until the last of them has ended, and takes the next; the server gets all of
them at once over HTTP. Three runs of each in turns; medians. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from importlib.resources import files
from pathlib import Path

import aiohttp
import numpy as np
from machine_speed import Machine

from hypereyes_jax.eval.policy import Policy
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.openai_api.conversation import render
from hypereyes_jax.rollout.openai_api.requests import ChatMessage
from hypereyes_jax.rollout.openai_api.server import ChatServer, ServerConfig, running_server
from hypereyes_jax.rollout.scheduler import Scheduler

CONFIG = ServerConfig("base", port=0, in_flight=4096)


async def lock_step(policy: Policy, slots: int, lengths: list[int]) -> tuple[int, float]:
    """Tokens sampled and seconds, a wave of requests after the other."""
    (engine,) = policy.engines.all
    began, tokens = time.perf_counter(), 0
    async with Scheduler(engine) as scheduler:
        for start in range(0, len(lengths), slots):

            async def one(number: int) -> int:
                sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=lengths[number])
                session = await scheduler.open(number, sampling, ())
                turn = await session.turn(prompt(policy, number))
                await session.close()
                assert turn.sampled is not None
                return len(turn.sampled.tokens)

            tokens += sum(await asyncio.gather(*(one(n) for n in range(start, min(start + slots, len(lengths))))))
    return tokens, time.perf_counter() - began


async def served(policy: Policy, lengths: list[int]) -> tuple[int, float]:
    """The same over HTTP, all at once."""
    (engine,) = policy.engines.all
    async with (
        Scheduler(engine) as scheduler,
        running_server(ChatServer(scheduler, policy.chat, CONFIG), CONFIG) as url,
    ):
        began = time.perf_counter()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:

            async def one(number: int) -> int:
                body = {
                    "messages": [{"role": "user", "content": question(number)}],
                    "max_tokens": lengths[number],
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "seed": number,
                }
                async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                    reply.raise_for_status()
                    return (await reply.json())["usage"]["completion_tokens"]

            tokens = sum(await asyncio.gather(*(one(number) for number in range(len(lengths)))))
        return tokens, time.perf_counter() - began


def question(number: int) -> str:
    return f"Request {number}: what is the capital of the country with this flag?"


def prompt(policy: Policy, number: int) -> ContextChunk:
    return render(policy.chat, [ChatMessage("user", (question(number),))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    machine = Machine()
    settings = EngineConfig(slots=options.slots, context=512, view_lengths=(256,))
    config, params, chat = load_model(Path(str(files("hypereyes_jax") / "assets" / "base")))
    policy = Policy(Engines.on_one_device(config, params, settings, count=1), chat)
    policy.chat.stop_ids = ()  # every request samples its own length, so that both do the same work
    lengths = np.clip(np.random.default_rng(0).lognormal(4.0, 0.8, options.requests), 4, 400).astype(int).tolist()
    asyncio.run(lock_step(policy, options.slots, lengths[: options.slots]))  # compiles
    asyncio.run(served(policy, lengths[: options.slots]))
    rates: dict[str, list[float]] = {"lock_step": [], "served": []}
    for _ in range(options.runs):
        for name, run in (
            ("lock_step", lock_step(policy, options.slots, lengths)),
            ("served", served(policy, lengths)),
        ):
            tokens, seconds = asyncio.run(run)
            rates[name].append(tokens / seconds)
            print(f"{name}: {tokens} tokens in {seconds:.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        json.dumps(
            {
                "lock_step_tokens_per_second": round(medians["lock_step"]),
                "served_tokens_per_second": round(medians["served"]),
                "speedup": round(medians["served"] / medians["lock_step"], 2),
                "requests": options.requests,
                "slots": options.slots,
                "machine": machine.figures(),
            }
        )
    )


if __name__ == "__main__":
    main()
