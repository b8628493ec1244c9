"""Rollouts on an SGLang server with adapters that were trained here, and proof that the server really uses them.

    hypereyes sft --checkpoint BASE --demonstrations demonstrations.jsonl --out runs/sft   # leaves runs/sft/adapter
    python -m sglang.launch_server --model-path BASE --enable-lora --port 30000
    python examples/server_rollouts.py http://127.0.0.1:30000 BASE runs/sft/adapter --questions 8

A server that does not hold an adapter may answer with its base model without a word. So the adapter is pushed under a
name that holds its version and a digest of its files, and before anything is played the server's log-probs of a short
text are compared with those of the same weights here. The server must be able to read the adapter's directory.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hypereyes_jax import miniature
from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.data.questions import synthesize
from hypereyes_jax.env import Episode, ExactJudge, Question, SearchBackend
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.lora import load_peft
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl import Params, Qwen3VLConfig
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout import Trajectory, run_episodes
from hypereyes_jax.rollout.servers.server import GenerationServer
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.weight_check import expected_logps

SAMPLING = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=256)


async def push(
    server: GenerationServer, adapter: Path, model: Qwen3VLConfig, params: Params, chat: ChatFormat, version: int
) -> float:
    """Puts an adapter in use, and returns the largest difference of log-probs from those of the weights here.

    Raises EchoError where the server answers from other weights.
    """
    lora: Lora = load_peft(adapter, model)
    probe = chat.prompt("", ["Which of these countries has the larger population?"]).tokens
    await server.push_adapter(adapter, version)
    return await server.echo_check(probe, expected_logps(model, params, lora, probe))


async def play(
    server: GenerationServer, chat: ChatFormat, questions: Sequence[Question], backend: SearchBackend
) -> tuple[list[Trajectory], list[bool]]:
    """A rollout of each question, and whether its answer is right. The server draws: seeds have no effect."""
    episodes = [Episode(question, backend, miniature.EPISODE) for question in questions]
    played = await run_episodes(server, episodes, chat, SAMPLING, list(range(len(episodes))))
    answers = [(trajectory.result.question, trajectory.result.answer) for trajectory in played]
    right = [answer is not None and bool(await ExactJudge().judge(asked, answer)) for asked, answer in answers]
    return played, right


async def main(url: str, base: str, adapter: Path, count: int) -> None:
    """Pushes, checks, plays, and prints what came of it."""
    model, params, chat = load_model(base)
    world = World.load()
    questions = [each.question for each in synthesize(world, count, seed=0)]
    async with SGLangServer(url, model) as server:
        difference = await push(server, adapter, model, params, chat, version=1)
        print(f"{server.adapter} is in use: log-probs differ by {difference:.3g} at most")
        played, right = await play(server, chat, questions, WorldBackend(world))
    rounds = np.mean([trajectory.result.rounds for trajectory in played])
    print(f"{sum(right)} of {len(right)} right, {rounds:.2f} rounds a rollout")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Address of the server, such as http://127.0.0.1:30000.")
    parser.add_argument("base", help="Directory or hub id of the model that the server runs.")
    parser.add_argument("adapter", type=Path, help="PEFT directory of the adapter, which the server can read.")
    parser.add_argument("--questions", type=int, default=8, help="Number of questions to play.")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.url, arguments.base, arguments.adapter, arguments.questions))
