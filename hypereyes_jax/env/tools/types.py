"""What a tool is: the same protocol for the two searches, for those shipped beside them and for a user's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from hypereyes_jax.env.actions import Call
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.grounded_search import SearchOutcome
from hypereyes_jax.env.types import EpisodeResult, Invocation, Part, Question, SearchBackend, SearchError
from hypereyes_jax.errors import SettingError

_LARGEST = sys.float_info.max  # whole numbers may be larger


class ToolError(Exception):
    """A call that the tool can't serve as it was written. The message is told to the model; the episode goes on."""


class ToolReply(NamedTuple):
    """What a call came to."""

    parts: tuple[Part, ...]
    """Texts and images, in order, that the model is shown. Images get ids and can be searched or cut again."""
    invocations: tuple[Invocation, ...] = ()
    """The atomic searches made, for the record; a tool that searches once, or never, may leave them out."""
    failures: tuple[SearchError, ...] = ()
    """Why some of those searches failed. A tool that makes only one raises its failure instead."""


class SearchingEpisode(Protocol):
    """What a tool may use of the `Episode` that it is called in."""

    @property
    def config(self) -> EpisodeConfig:
        """The rules of the episode."""
        ...

    @property
    def backend(self) -> SearchBackend:
        """What its searches go to. One that is an `env.types.Account` keeps the account of the run."""
        ...

    def image(self, image_id: str) -> Image.Image:
        """An image of the question or a crop, by its id. Raises KeyError for an id that was never given."""
        ...

    async def ask_copy(self, question: Question) -> EpisodeResult:
        """Has a copy of the policy play a question, with the budget that the rules give it.

        Raises ToolError where episodes are played by nobody who could make copies.
        """
        ...

    async def search(self, calls: Sequence[Call]) -> SearchOutcome:
        """Runs searches without a turn. Raises FatalSearchError when no search can work any more."""
        ...


@runtime_checkable
class Tool(Protocol):
    """A tool that a model may call by name.

    `call` raises ToolError for a call that can't be served, SearchError for a failure of the world (an outage of all
    searches of a turn masks the rollout, see `Episode`). What else it raises is told to the model where the arguments
    are not those of the schema; else it is a defect of the tool and ends the run with its own traceback. Calls of one
    turn run at the same time.
    """

    @property
    def name(self) -> str:
        """Letters, digits, "_" and "-"."""
        ...

    @property
    def description(self) -> str:
        """What the tool does, told to the model, in a sentence or two."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema of its arguments, of type "object"; `examples` of a property are shown in prompts."""
        ...

    @property
    def is_search(self) -> bool:
        """Whether a call counts as a search: one in t_s, and its turn in t_c."""
        ...

    @property
    def price(self) -> float:
        """Dollars a call. It is added to the cost of the run's searches and counts towards their spending cap."""
        ...

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply: ...


def schema(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI's, Qwen's and MCP's clients describe it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def by_name(tools: Sequence[Tool], others: Collection[str] = ()) -> dict[str, Tool]:
    """Tools by their names.

    Args:
      others: names that are taken.

    Raises:
      SettingError: two tools share a name, or as `check_tool`.
    """
    tool_by_name: dict[str, Tool] = {}
    for tool in tools:
        check_tool(tool)
        if tool.name in others:
            raise SettingError(
                f"a tool can't be named {tool.name}: that is one of the two searches, give it another name"
            )
        if tool.name in tool_by_name:
            raise SettingError(f"two tools are named {tool.name}")
        tool_by_name[tool.name] = tool
    return tool_by_name


def check_tool(tool: object) -> None:
    """Raises SettingError for an object that is not a tool, or whose name, description, schema, flag or price can't be
    those of one: a prompt lists them, and a model has to write the name."""
    if not isinstance(tool, Tool):
        raise SettingError(
            f"{tool!r} is not a tool: it needs name, description, parameters, is_search, price and an async call"
        )
    name, price = tool.name, tool.price
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        raise SettingError(f"{name!r} is not a valid name of a tool: use letters, digits, _ and -")
    if not isinstance(tool.description, str):
        raise SettingError(f"the description of the tool {name} must be a text, not {tool.description!r:.80}")
    if not isinstance(tool.is_search, bool):
        raise SettingError(f"is_search of the tool {name} must be True or False, not {tool.is_search!r:.80}")
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= _LARGEST:
        raise SettingError(f"the price of the tool {name} must be a number of dollars, at least 0, not {price!r:.80}")
    fault = _schema_fault(tool.parameters)
    if fault:
        raise SettingError(f"the parameters of the tool {name} must be a JSON schema of type object: {fault}")


def _schema_fault(parameters: object) -> str:
    """What of a tool's schema a prompt or a client could not read; "" for nothing."""
    if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
        return f'{parameters!r:.80} has no "type": "object"'
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not isinstance(properties, Mapping):
        return f'its "properties" must be an object, not {properties!r:.80}'
    for name, value in properties.items():
        if not isinstance(name, str) or not isinstance(value, Mapping):
            return f'the property {name!r} must be described by an object, such as {{"type": "string"}}'
    if not isinstance(required, list | tuple) or not all(isinstance(name, str) for name in required):
        return f'its "required" must be a list of names, not {required!r:.80}'
    try:
        json.dumps(dict(parameters))
    except (TypeError, ValueError) as error:
        return f"it can't be written as JSON ({error})"
    return ""
