"""Tools by the names that settings give them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache

from hypereyes_jax.configs.objects import NamedObject, instance, load_object, refuse_sync
from hypereyes_jax.env.tools.mcp_setting import MCP, mcp_setting
from hypereyes_jax.env.tools.types import Tool, check_tool
from hypereyes_jax.errors import SettingError, UserError

# What makes each; loaded when it is asked for, since their HTTP clients take long to import.
SHIPPED = {
    "zoom": "hypereyes_jax.env.tools.zoom:Zoom",
    "visit": "hypereyes_jax.env.tools.visit:Visit",
    "video_search": "hypereyes_jax.env.tools.video_search:VideoSearch.of_environment",
    "crop": "hypereyes_jax.env.tools.crop:Crop",
    "python": "hypereyes_jax.env.tools.crop_code:CropCode",
}


def named_tools(names: Sequence[str]) -> list[Tool]:
    """The tools that `EpisodeConfig.tools` names. Each is made once, so that episodes share its connections.

    Raises:
      UserError: there is no such tool, an object is none, or an MCP server can't be reached.
    """
    return [tool for name in names for tool in _tools(name)]


def tool_objects(names: Sequence[str]) -> list[NamedObject]:
    """Where the tools of a user's own came from, for a run's record; those shipped and MCP's have no source file.

    Raises UserError as `named_tools`.
    """
    own = [name for name in names if ":" in name and not name.startswith(MCP)]
    return [load_object(name, "tool") for name in own]


@cache
def _tools(name: str) -> tuple[Tool, ...]:
    if name.startswith(MCP):
        return tuple(mcp_setting(name))
    return (_tool(name),)


def _tool(name: str) -> Tool:
    if name in SHIPPED:
        shipped_tool: Tool = load_object(SHIPPED[name], "tool").value()
        return shipped_tool
    if ":" not in name:
        raise UserError(
            f"there is no tool {name!r}; there are: {', '.join(SHIPPED)}, your own module:object, or mcp:ADDRESS#NAME."
        )
    tool = instance(load_object(name, "tool"))
    if not isinstance(tool, Tool):
        raise UserError(
            f"{name} is not a tool: it needs name, description, parameters, is_search, price and async "
            "call(arguments, episode)."
        )
    try:
        check_tool(tool)
    except SettingError as error:
        raise UserError(f"{name} is not a tool: {error}") from None
    refuse_sync(tool.call, f"call of {name}")
    try:
        inspect.signature(tool.call).bind({}, None)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not a tool: its call must take the arguments and the episode ({error})") from None
    return tool
