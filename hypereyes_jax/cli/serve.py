"""Serve a checkpoint behind an OpenAI-compatible API: the bare policy, or the agent that runs its own searches.

    hypereyes serve CHECKPOINT                                    # http://127.0.0.1:8000/v1
    hypereyes serve CHECKPOINT --mode agent --search.service serpapi

In mode `policy` a reply is the model's next message, with the client's tools if it brings some. In mode `agent` the
server plays the whole episode: `content` is the answer, `reasoning_content` streams the turns, and the extension field
`hypereyes` holds the trajectory. `GET /metrics` is for Prometheus, `GET /health` for a load balancer.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Annotated, Literal

import tyro

from hypereyes_jax.cli.inputs import refuse_missing_inputs
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.env.web.loopback import is_loopback
from hypereyes_jax.env.web.signals import ends_by_signal
from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class ServeConfig:
    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """The model to serve: a directory in Hugging Face layout, a hub id (org/name[@revision]) or a URL."""
    mode: Literal["policy", "agent"] = "policy"
    """Whether the bare policy answers, or the agent, which searches before it does."""
    name: str = ""
    """Model name that clients ask for; none takes the name of the checkpoint's directory."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in, and then needs a key."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    key_env: str = "HYPEREYES_API_KEY"
    """Name of the environment variable that holds the API key; if it is unset, no key is asked for."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser, such as http://localhost:3000; by default none may."""
    slots: int = 16
    """Number of sequences that are in the cache at a time; more requests wait for a slot."""
    cache_tokens: int = 0
    """Number of tokens that the caches of all sequences hold together; 0 lets each one grow to --context. With fewer,
    more slots fit a device: a sequence for which there is no room waits."""
    offload_gib: float | None = None
    """GiB of host memory for the caches of sequences that had to make room for others; beyond it they are read again.
    Without it, a quarter of what is free when the server begins."""
    draft_tokens: int = 0
    """Number of guesses (up to 7) that a decode step verifies behind each sequence's last token, copied from what was
    written before. Replies stay the same; they come sooner where few sequences decode at a time."""
    context: int = 16_384
    """Number of tokens that one sequence may have, images included."""
    in_flight: int = 256
    """Number of requests under way; further ones are answered with status 429."""
    max_new_tokens: int = 1524
    """Number of tokens that a turn may have if a request does not say."""
    temperature: float = 0.8
    """Sampling temperature if a request does not say."""
    top_p: float = 0.95
    """Top-p (nucleus) of sampling if a request does not say."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that weights and caches are kept in."""
    fetch_images: bool = True
    """Whether images that a request names by URL are fetched, from the public internet only."""
    miniature: bool = False
    """The checkpoint is one of the miniature world's: its context and image sizes are used, and its
    episode settings where --episode does not differ from the defaults."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = field(default_factory=SearchConfig)
    """The service of the agent's searches."""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    """The rules of the agent's episodes."""


def check(config: ServeConfig) -> None:
    """Raises UserError for what the command would refuse before it loads anything."""
    from hypereyes_jax.env.own_prompt import check_rules
    from hypereyes_jax.env.search.services import check_search

    check_search(config.search, SearchConfig())
    if config.mode == "agent":
        check_rules(_rules(config))
    for name, default in (("search", SearchConfig()), ("episode", EpisodeConfig())):
        if config.mode == "policy" and getattr(config, name) != default:
            raise UserError(f"--{name}.* belong to the agent, and the bare policy searches nothing: add --mode agent")
    if not is_loopback(config.host) and not os.environ.get(config.key_env):
        raise UserError(
            f"--host {config.host} lets other machines ask: set a key in the environment variable {config.key_env}"
        )


def run(config: ServeConfig) -> None:
    check(config)
    with ends_by_signal() as came:  # also while the model is loaded
        asyncio.run(_serve(config, came))


def _rules(config: ServeConfig) -> EpisodeConfig:
    from hypereyes_jax import miniature

    return config.episode.over(miniature.EPISODE) if config.miniature else config.episode


async def _serve(config: ServeConfig, came: Callable[[], bool]) -> None:
    from hypereyes_jax.env.search.services import connected

    refuse_missing_inputs(config)

    from hypereyes_jax.eval.policy import load_policy
    from hypereyes_jax.rollout import EngineConfig, SamplingConfig
    from hypereyes_jax.rollout.openai_api.requests import RequestLimits
    from hypereyes_jax.rollout.openai_api.server import AgentSettings, ChatServer, ServerConfig, running_server
    from hypereyes_jax.train.sizes import MINIATURE_RL

    sizes = {name: getattr(config, name) for name in ("slots", "cache_tokens", "offload_gib", "draft_tokens")}
    if config.miniature:
        engine = replace(MINIATURE_RL, **sizes).engine()
    else:
        engine = EngineConfig(context=config.context, kv=config.dtype, **sizes)
    policy = load_policy(config.checkpoint, engine, dtype=config.dtype)
    settings = ServerConfig(
        model=config.name or PurePath(config.checkpoint).name or "model",
        host=config.host,
        port=config.port,
        api_key=os.environ.get(config.key_env, ""),
        cors_origins=config.cors_origins,
        in_flight=config.in_flight,
        fetch_images=config.fetch_images,
        limits=RequestLimits(characters=16 * engine.context),
        sampling=SamplingConfig(config.temperature, config.top_p, max_new_tokens=config.max_new_tokens),
    )
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started it with SIGINT ignored
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    if came():
        end.set()
    keys = SearchKeys.of(os.environ)
    async with connected(config.search, keys) as (backend, _), policy.engines.running() as generator:
        agent = AgentSettings(backend, _rules(config)) if config.mode == "agent" else None
        server = ChatServer(generator, policy.chat, settings, agent)
        async with running_server(server, settings) as url:
            print(f"serving {settings.model} ({config.mode}) at {url}/v1 (Ctrl-C ends)", flush=True)
            await end.wait()
    print("ended")
