"""The system prompt of an episode: a built-in one, or a user's own text with place-holders, file or function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hypereyes_jax.configs.objects import (
    NamedObject,
    in_words,
    instance,
    load_object,
    named_object,
    refuse_coroutine,
    refuse_sync,
)
from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.media.crops import UNITS_IN_WORDS
from hypereyes_jax.env.prompts import system_prompt, tool_list
from hypereyes_jax.env.tools.named import named_tools
from hypereyes_jax.env.tools.search import ImageSearchTool, TextSearchTool
from hypereyes_jax.env.tools.types import Tool, by_name, schema
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

_FILLED = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
_MOST_BYTES = 1 << 20  # of a file with a prompt


@dataclass(frozen=True)
class PromptFacts:
    """What a function that writes a system prompt is told."""

    question: Question
    tools: tuple[Tool, ...]  # all that the model may call, the two searches first
    config: EpisodeConfig

    @property
    def tool_list(self) -> str:
        """The tools as the paper's format lists them: what each does, its arguments, how it is called."""
        return tool_list(self.tools)

    @property
    def schemas(self) -> str:
        """The JSON schemas of the tools, one a line, as Qwen's chat templates write them."""
        return "\n".join(json.dumps(schema(tool), ensure_ascii=False) for tool in self.tools)


PromptFunction = Callable[[PromptFacts], str]


def written_prompt(
    question: Question, config: EpisodeConfig, tools: Sequence[Tool] = (), own: PromptFunction | None = None
) -> str:
    """The system prompt that the model is given.

    Args:
      tools: further ones, beside the two searches.
      own: writes it; None = as the rules say.

    Raises UserError as `own_prompt`.
    """
    source = own or config.system
    if source is not None:
        return own_prompt(source, question, config, tools)
    return system_prompt(
        config.prompt_style, config.box_units, config.max_rounds, tools, regions=config.paradigm == "ugs"
    )


def own_prompt(system: str | PromptFunction, question: Question, config: EpisodeConfig, tools: Sequence[Tool]) -> str:
    """A user's own system prompt. A text that says nothing of a further tool has it listed at its end, since a model
    calls no tool that it was not told of; a function says what it likes.

    Args:
      system: as `EpisodeConfig.system`, or a function.
      tools: further ones, beside the two searches.

    Raises:
      UserError: a file or object can't be loaded, a place-holder is unknown, or a function gives no text.
    """
    facts = PromptFacts(
        question, (ImageSearchTool(config.box_units, config.paradigm == "ugs"), TextSearchTool(), *tools), config
    )
    source = prompt_source(system) if isinstance(system, str) else system
    if not isinstance(source, str):
        text = source(facts)
        refuse_coroutine(text, str(system))
        if not isinstance(text, str):
            raise UserError(f"the prompt {system} gave a {type(text).__name__}, where a string is needed")
        return text
    text = _filled(source, facts)
    untold = [tool for tool in tools if not re.search(rf"(?<!\w){re.escape(tool.name)}(?!\w)", text)]
    return f"{text}\n\n{tool_list(untold)}" if untold else text


def prompt_object(system: str | PromptFunction | None) -> NamedObject | None:
    """Where a prompt came from, for a run's record; None for a text, which stands in the settings themselves."""
    if system is None or (isinstance(system, str) and not system.startswith("@")):
        return None
    if isinstance(system, str) and ":" not in system:
        path = Path(system[1:])
        return NamedObject.of_file(system, path, _text(path))
    return named_object(system[1:] if isinstance(system, str) else system, "prompt")


def check_prompt(system: str | PromptFunction | None, config: EpisodeConfig, tools: Sequence[Tool] = ()) -> None:
    """Writes the prompt of a made-up question, so that what is wrong with it is told before anything is spent.

    Raises UserError as `own_prompt`, and for a function that can't be called so.
    """
    if system is None:
        return
    try:
        own_prompt(system, Question("made-up", "Which city is the capital?", (), ("Paris",)), config, tools)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the prompt {system} failed on a made-up question: {in_words(error)}. It must take one PromptFacts "
            "(hypereyes_jax.env.own_prompt) and return a text"
        ) from error


def check_rules(
    config: EpisodeConfig, own_tools: Sequence[Tool] = (), prompt: PromptFunction | None = None
) -> tuple[Tool, ...]:
    """The further tools of the rules of episodes, tried with the prompt, so that what is wrong is told at the start.

    Args:
      own_tools: beside those that the rules name.
      prompt: in place of the rules'.

    Raises:
      UserError: a tool is none, shares its name with another, or can't be awaited; or as `check_prompt`.
    """
    tools = by_name([*named_tools(config.tool_names), *own_tools], (IMAGE_SEARCH, TEXT_SEARCH))
    for tool in own_tools:
        refuse_sync(tool.call, f"call of the tool {tool.name}")
    further = tuple(tools.values())
    check_prompt(prompt or config.system, config, further)
    return further


@cache
def prompt_source(system: str) -> str | PromptFunction:
    """The text, or the function, that a setting means. Read once: a file that changes does not change a run."""
    if not system.startswith("@"):
        return system
    if ":" in system:
        function: PromptFunction = instance(load_object(system[1:], "prompt"))
        return function
    return _text(Path(system[1:]))


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _MOST_BYTES:
            raise UserError(f"the prompt {path} has {len(data):,} bytes, more than {_MOST_BYTES:,}")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the prompt {path} can't be read: {error}") from error


def _filled(text: str, facts: PromptFacts) -> str:
    """The text with its place-holders filled in; {{word}} stands for the letters {word}."""
    units = UNITS_IN_WORDS["unit" if facts.config.box_units == "auto" else facts.config.box_units]
    values: dict[str, Callable[[], str]] = {
        "tools": lambda: facts.tool_list,
        "schemas": lambda: facts.schemas,
        "rounds": lambda: str(facts.config.max_rounds),
        "boxes": lambda: units,
    }

    def fill(match: re.Match[str]) -> str:
        literal, name = match.groups()
        if literal:
            return "{" + literal + "}"
        if name not in values:
            raise UserError(
                f"the prompt has a place-holder {{{name}}}; there are {{{'}, {'.join(values)}}}. Write {{{{{name}}}}} "
                "for the letters themselves"
            )
        return values[name]()

    return _FILLED.sub(fill, text)
