"""What a tool is: the same protocol for the two searches, for those shipped beside them and for a user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from hypereyes_jax.env.actions import Call
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.grounded_search import SearchOutcome
from hypereyes_jax.env.types import EpisodeResult, Invocation, Part, Question, SearchBackend, SearchError


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
    searches of a turn masks the rollout, see `Episode`). Anything else it raises is a defect of the tool and ends the
    run with its own traceback. Calls of one turn run at the same time.
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


def by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Tools by their names.

    Raises:
      ValueError: two tools share a name, a name is none that a model could write, or an object is not a tool.
    """
    tool_by_name: dict[str, Tool] = {}
    for tool in tools:
        if not isinstance(tool, Tool):
            raise ValueError(
                f"{tool!r} is not a tool: it needs name, description, parameters, is_search, price and an async call"
            )
        if not tool.name or not tool.name.replace("_", "").replace("-", "").isalnum() or not tool.name.isascii():
            raise ValueError(f"{tool.name!r} is not a valid name of a tool: use letters, digits, _ and -")
        if tool.name in tool_by_name:
            raise ValueError(f"two tools are named {tool.name}")
        if tool.parameters.get("type") != "object":
            raise ValueError(f"the parameters of the tool {tool.name} must be a JSON schema of type object")
        tool_by_name[tool.name] = tool
    return tool_by_name
