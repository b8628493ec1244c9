"""Tools by the names that settings give them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hypereyes_jax.configs.objects import instance, load_object
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.errors import UserError

# What makes each; loaded when it is asked for, since their HTTP clients take long to import.
SHIPPED = {
    "zoom": "hypereyes_jax.env.tools.zoom:Zoom",
    "visit": "hypereyes_jax.env.tools.visit:Visit",
    "video_search": "hypereyes_jax.env.tools.video_search:VideoSearch.of_environment",
}


def named_tools(names: Sequence[str]) -> list[Tool]:
    """The tools that `EpisodeConfig.tools` names. Each is made once, so that episodes share its connections.

    Raises:
      UserError: there is no such tool, or an object is none.
    """
    return [_tool(name) for name in names]


@cache
def _tool(name: str) -> Tool:
    if name in SHIPPED:
        made: Tool = load_object(SHIPPED[name], "tool").value()
        return made
    if ":" not in name:
        raise UserError(f"there is no tool {name!r}; there are: {', '.join(SHIPPED)}, or module:object of your own.")
    tool = instance(load_object(name, "tool"))
    if not isinstance(tool, Tool):
        raise UserError(
            f"{name} is not a tool: it needs name, description, parameters, is_search, price and async "
            "call(arguments, episode)."
        )
    return tool
