"""Rollouts sampled by an SGLang or vLLM server: it holds the base model, and gets each step's adapter by version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.global_arrays import fetch_whole
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.lora import Lora, save_peft
from hypereyes_jax.rollout.episodes import Generator, GeneratorError
from hypereyes_jax.rollout.servers.server import GenerationServer, PromptLimits
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.vllm import VLLMServer
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import SchedulerCounts
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.settings import SamplerServerConfig
from hypereyes_jax.train.sizes import TrainingSizes

_FOLDER = "sampler-adapters"
_KEPT = 2  # versions on disk: a server may read the one before while the next is written


def check_sampler_server(config: SamplerServerConfig, sizes: TrainingSizes) -> None:
    """Raises UserError for a server that can't sample for this training, or settings of one without its address."""
    if not config.url:
        if config != SamplerServerConfig():
            raise UserError("settings of a sampler's server are given without its URL: add --sampler-server.url")
        return
    if urlsplit(config.url).scheme not in ("http", "https") or not urlsplit(config.url).netloc:
        raise UserError(f"--sampler-server.url {config.url} is not a valid URL like http://host:30000")
    if sizes.learner.train != "lora":
        raise UserError(
            "a sampler's server receives adapters, not whole weights: add --sizes.learner.train lora, or leave "
            "--sampler-server.url out"
        )
    tis_against = _reported_distribution(config.kind)
    if sizes.top_p < 1 and sizes.learner.tis_cap and sizes.learner.tis_against != tis_against:
        raise UserError(
            f"with top-p {sizes.top_p:g}, {config.kind} reports log-probs of one distribution only: add "
            f"--sizes.learner.tis-against {tis_against}"
        )


def _reported_distribution(kind: str) -> Literal["full", "truncated"]:
    """The distribution whose log-probs a server tells where tokens are drawn from a part of the vocabulary."""
    return "full" if kind == "sglang" else "truncated"


class ServerEngines:
    """What `RolloutEngines` needs of engines, by a server that already runs the checkpoint. Every process makes one.

    Args:
      directory: of the run, on a file system that the server sees under the same path: adapters are read from there.
    """

    def __init__(
        self,
        config: SamplerServerConfig,
        model: Qwen3VLConfig,
        sizes: TrainingSizes,
        directory: RunDirectory,
        processes: Processes,
    ):
        self._config, self._model, self._sizes = config, model, sizes
        self._folder, self._processes = directory.file(_FOLDER).resolve(), processes
        self._sampler, self._pusher = self._client(), self._client()
        self.all: list[Any] = []  # none is here

    def _client(self) -> GenerationServer:
        config, sizes = self._config, self._sizes
        kind = {"sglang": SGLangServer, "vllm": VLLMServer}[config.kind]
        return kind(
            config.url,
            self._model,
            api_key=os.environ.get(config.key_env, ""),
            prompts=PromptLimits(sizes.context, sizes.episode.max_images, sizes.min_pixels, sizes.max_pixels),
            concurrency=config.in_flight,
            timeout=config.timeout,
            attempts=config.attempts,
        )

    def suspend(self, weights: bool = True) -> None:
        """Nothing of this process's devices is used."""

    def set_weights(self, params: Any, lora: Lora | None, version: int) -> None:
        """The server samples with these adapters from now on. Every process must call it.

        Raises UserError, in all of them, if it does not take them.
        """
        assert lora is not None  # `check_sampler_server`
        whole = fetch_whole(self._processes.mesh, lora)
        name, problem = None, ""
        if self._processes.first:
            path = self._folder / f"v{version}"
            save_peft(path, self._model, whole)
            # in a thread, because a loop may be running here
            with ThreadPoolExecutor(1, "hypereyes-adapter") as thread:
                try:
                    name = thread.submit(asyncio.run, self._push(path, version)).result()
                except (GeneratorError, FatalSearchError) as error:
                    problem = str(error)
            self._remove_older(version)
        name, problem = self._processes.gather([name, problem])[0]
        if problem:
            raise UserError(
                f"the sampler at {self._config.url} ({self._config.kind}) does not take the adapter of version "
                f"{version}: {problem}. It must be started with adapters enabled, and see {self._folder}."
            )
        self._sampler.adapter, self._sampler.version = name, version

    async def _push(self, path: Path, version: int) -> str | None:
        async with self._pusher:
            await self._pusher.push_adapter(path, version)
        return self._pusher.adapter

    def _remove_older(self, version: int) -> None:
        for path in self._folder.glob("v*"):
            number = path.name.removeprefix("v")
            if number.isdecimal() and int(number) <= version - _KEPT:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def running(self, group: int = 1, timeline: Timeline | None = None) -> AsyncIterator[_Running]:
        """The server as a generator, until the end of the block; its own prefix cache serves groups."""
        async with self._sampler:
            yield _Running(self._sampler)


class _Running:
    """The generator that `ServerEngines.running` gives."""

    def __init__(self, server: Generator):
        self.open = server.open
        self.counts = [SchedulerCounts()]  # the server does not tell how its time went
