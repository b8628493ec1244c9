"""Ask a question, about images if there are any: the turns as they are written, the boxes drawn, the cost, and a
trajectory file.

    hypereyes ask "How high is the Eiffel Tower?" --model-url http://127.0.0.1:8000/v1 --model NAME
    hypereyes ask flags.png "Which of these has more people?" --model-url http://127.0.0.1:8000/v1 --model NAME
    hypereyes ask flags.png "..." --checkpoint DIR --miniature

The file opens with `hypereyes report FILE`. Keys come from the environment: OPENAI_API_KEY for the model, and
SERPAPI_API_KEY, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for `--search.service serpapi`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.search.config import SearchConfig, SearchKeys
from hypereyes_jax.env.types import EpisodeResult, Question, SearchBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import write_atomic, writing
from hypereyes_jax.runs.outputs import check_outputs, refuse_no_trajectories

if TYPE_CHECKING:
    from PIL import Image

    from hypereyes_jax.env.types import Part
    from hypereyes_jax.runs.terminal import Terminal


@dataclass(frozen=True)
class AskConfig:
    images_and_question: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[IMAGE ...] QUESTION")]
    """Images to ask about, if any (files, or http(s) URLs on the public internet), then the question."""
    chat: bool = False
    """Go on asking: further questions are read from the terminal, one a line, and each is given the answers before
    it."""
    model_url: str = ""
    """Base address of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model at that endpoint."""
    checkpoint: str | None = None
    """Model to run here instead of at an endpoint: a directory in Hugging Face layout, a hub id (org/name[@revision])
    or a URL."""
    miniature: bool = False
    """The model is one of the miniature world's: its image sizes are used, and its episode settings where --episode
    does not differ from the defaults."""
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = field(default_factory=SearchConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    out: Path = Path("ask.jsonl")
    """The trajectory file, to which each question asked is added. The drawn boxes lie beside it as a PNG."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: int = 1524
    """Number of tokens that one turn may have."""
    context: int = 16_384
    """Number of tokens that the episode may have, for a checkpoint run here."""
    prompt_price: float = 0.0
    """Dollars that a million tokens read cost, for the cost shown."""
    completion_price: float = 0.0
    """Dollars that a million tokens written cost, for the cost shown."""


@dataclass(frozen=True)
class QuestionOutcome:
    result: EpisodeResult
    read: int  # tokens
    written: int


Play = Callable[[Question], Awaitable[QuestionOutcome]]


def check(config: AskConfig) -> None:
    """Raises UserError for what the command would refuse before it loads anything."""
    from hypereyes_jax.env.own_prompt import check_rules
    from hypereyes_jax.env.search.services import check_search

    if bool(config.model_url) == (config.checkpoint is not None):
        raise UserError("give either --model-url (with --model) or --checkpoint.")
    if bool(config.model_url) != bool(config.model):
        raise UserError("an endpoint needs its URL and the name of a model there: --model-url with --model.")
    last = (config.images_and_question or ("",))[-1]
    if os.path.isfile(last):
        raise UserError(f"{last} is a file, and no question follows it. Give the images first, and then the question.")
    check_search(config.search, SearchConfig())
    check_rules(_rules(config))


def run(config: AskConfig) -> None:
    from hypereyes_jax.env.chat.client import ChatError
    from hypereyes_jax.runs.terminal import Terminal

    check(config)
    try:
        asyncio.run(_ask(config, Terminal()))
    except ChatError as error:
        raise UserError(f"the model gave no answer: {error}") from error


async def _ask(config: AskConfig, console: Terminal) -> None:
    from hypereyes_jax.env.conversation import follow_up
    from hypereyes_jax.env.search.services import connected
    from hypereyes_jax.env.web.open_image import open_image

    *sources, text = config.images_and_question or ("",)
    if not text.strip():
        raise UserError("no question was given. Give the images, if any, and then the question in quotes.")
    # Before anything is paid for: the places of the results are free, and no input's.
    paths = _drawn_paths(config.out, len(sources))
    inputs = [*sources, *([] if config.checkpoint is None else [config.checkpoint])]
    check_outputs([config.out, *paths], [Path(path) for path in inputs])
    refuse_no_trajectories(config.out)
    with writing(config.out):
        config.out.parent.mkdir(parents=True, exist_ok=True)
    images = [await open_image(source) for source in sources]
    keys = SearchKeys.of(os.environ)
    earlier: list[tuple[str, str]] = []
    async with connected(config.search, keys) as (backend, metrics), _player(config, backend, console) as play:
        while text.strip():
            question = Question("ask", follow_up(earlier, text), tuple(images), ())
            outcome = await play(question)
            _tell(config, outcome, metrics.summary(), images, paths, console)
            earlier += [("user", text), ("assistant", outcome.result.answer or "")]
            text = await asyncio.to_thread(_next_question, console) if config.chat else ""


def _drawn_paths(out: Path, images: int) -> list[Path]:
    """Where the boxes of each image are drawn: `ask.png`, `ask-1.png`, ... Raises UserError if that is `out` itself."""
    paths = [out.with_suffix(".png") if n == 0 else out.with_name(f"{out.stem}-{n}.png") for n in range(images)]
    if out.suffix == ".png":
        raise UserError(f"--out {out} is the trajectory file: end it in .jsonl, the boxes lie beside it as a PNG.")
    return paths


def _next_question(console: Terminal) -> str:
    """The next line that is typed; "" at the end."""
    console.print("\n> ", end="", style="bold")
    return sys.stdin.readline().strip()


def _tell(
    config: AskConfig,
    outcome: QuestionOutcome,
    searches: dict[str, Any],
    images: Sequence[Image.Image],
    paths: Sequence[Path],
    console: Terminal,
) -> None:
    """Shows an answer and its cost, and keeps the trajectory and the drawn boxes."""
    from hypereyes_jax.eval.drawing import draw_boxes
    from hypereyes_jax.eval.records import append_record, record_episode

    console.print()
    if outcome.result.answer is None:
        console.print("no answer ", style="bold red", end="")
        console.print(f"({outcome.result.stop}) {outcome.result.why}")
    else:
        console.print("answer: ", style="bold green", end="")
        console.print(outcome.result.answer)
    tokens_cost = (outcome.read * config.prompt_price + outcome.written * config.completion_price) / 1e6
    console.print(
        f"{outcome.result.rounds} rounds, {outcome.result.invocations} searches "
        f"({searches['cache_hits']} from the store), "
        f"{outcome.read:,} tokens read, {outcome.written:,} written, "
        f"cost ${searches['cost']:.4f} search + ${tokens_cost:.4f} model"
    )
    record = record_episode(
        outcome.result,
        stage="ask",
        split=config.model or str(config.checkpoint),
        correct=None,
        tokens=outcome.read + outcome.written,
        sampled_tokens=outcome.written,
        extra={"searches": searches, "model_cost": tokens_cost},
    )
    append_record(config.out, record)
    for number, (image, path) in enumerate(zip(images, paths, strict=True)):
        picture = io.BytesIO()
        draw_boxes(image, outcome.result.turns, f"img_{number}").save(picture, "PNG")
        write_atomic(path, picture.getvalue())
    boxes = f"boxes: {', '.join(map(str, paths))}   " if paths else ""
    console.print(f"{boxes}trajectory: {config.out} (hypereyes report {config.out})")


@contextlib.asynccontextmanager
async def _player(config: AskConfig, backend: SearchBackend, console: Terminal) -> AsyncIterator[Play]:
    """What plays a question: the model of an endpoint, or a checkpoint that is loaded once."""
    from hypereyes_jax.env.chat.client import ChatClient, ChatEndpoint
    from hypereyes_jax.env.chat.policy import play
    from hypereyes_jax.env.episode import Episode

    if config.checkpoint is not None:
        async with _checkpoint_player(config, backend, console) as player:
            yield player
        return
    client = ChatClient(ChatEndpoint(config.model_url, config.model, os.environ.get("OPENAI_API_KEY", "")))

    async def ask(question: Question) -> QuestionOutcome:
        outcome = await play(
            Episode(question, backend, _rules(config)),
            client,
            temperature=config.temperature,
            max_tokens=config.max_new_tokens,
            on_text=lambda text: console.print(text, end="", style="cyan", soft_wrap=True),
            on_observation=lambda parts: _show(console, parts),
        )
        return QuestionOutcome(outcome.result, outcome.prompt_tokens, outcome.completion_tokens)

    try:
        yield ask
    finally:
        await client.aclose()


def _rules(config: AskConfig) -> EpisodeConfig:
    from hypereyes_jax import miniature

    return config.episode.over(miniature.EPISODE) if config.miniature else config.episode


@contextlib.asynccontextmanager
async def _checkpoint_player(config: AskConfig, backend: SearchBackend, console: Terminal) -> AsyncIterator[Play]:
    from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
    from hypereyes_jax.eval.question_player import checkpoint_player
    from hypereyes_jax.train.sizes import MINIATURE_RL

    assert config.checkpoint is not None
    # One sequence decodes at a time, so each step reads all weights for it: the case that drafts are for.
    small = replace(MINIATURE_RL, slots=1, draft_tokens=4).engine()
    engine = small if config.miniature else EngineConfig(slots=1, context=config.context, draft_tokens=4)
    sampling = SamplingConfig(temperature=config.temperature, max_new_tokens=min(config.max_new_tokens, engine.context))
    async with checkpoint_player(
        config.checkpoint, engine, sampling, backend, _rules(config),
        on_text=lambda text: console.print(text, style="cyan", soft_wrap=True),
        on_observation=lambda parts: _show(console, parts),
    ) as play:  # fmt: skip

        async def ask(question: Question) -> QuestionOutcome:
            trajectory = await play(question)
            return QuestionOutcome(trajectory.result, trajectory.context_tokens, trajectory.sampled_tokens)

        yield ask


def _show(console: Terminal, parts: tuple[Part, ...]) -> None:
    crops = len(parts) - 1
    console.print(f"\n{f'[{crops} crops] ' if crops else ''}{parts[-1]}\n", style="dim", soft_wrap=True)
