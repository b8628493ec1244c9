"""Our two tools as an MCP server. Needs the package extra `mcp`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from hypereyes_jax.env.actions import Call, Malformed, read_call
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.grounded_search import GroundedSearch, SearchOutcome
from hypereyes_jax.env.media.images import ImageError, encode_image, read_base64_image
from hypereyes_jax.env.observations import response
from hypereyes_jax.env.search.store import image_query
from hypereyes_jax.env.types import SearchBackend
from hypereyes_jax.errors import UserError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

_KEEP_BYTES = 256 << 20  # of crops and sent images that can still be named; the oldest go first


def mcp_server(
    backend: SearchBackend, images: Mapping[str, Image.Image] | None = None, config: EpisodeConfig | None = None
) -> MCPServer:
    """An MCP server with the tools `text_search` and `image_search`; run it with its `run_stdio_async()` or the like.

    Args:
      images: what `image_search` can name from the start. A client may also send an image as a data URI. Crops get ids
        made from their content, so clients that share the server do not disturb each other.

    A search that failed is told in the result's text like an empty one; when all of a call's searches fail, the result
    is an error (`isError`), and a FatalSearchError is one, too.
    """
    try:
        from mcp.server.mcpserver import Image as McpImage
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise UserError("the MCP server needs: pip install 'hypereyes-jax[mcp]'") from error

    config = config or EpisodeConfig()
    search = GroundedSearch(images or {}, backend, config, name=_content_name)
    fixed = set(search.images)
    server = MCPServer("hypereyes-search")

    def read(name: str, arguments: dict[str, Any]) -> Call:
        call = read_call({"name": name, "arguments": arguments})
        if isinstance(call, Malformed):
            raise ToolError(call.why)
        return call

    def forget() -> None:
        """Drops the oldest images, so that what is kept is bounded in bytes."""
        size = sum(_bytes(image) for name, image in search.images.items() if name not in fixed)
        for name in [name for name in search.images if name not in fixed]:
            if size <= _KEEP_BYTES:
                break
            size -= _bytes(search.images.pop(name))

    def content(outcome: SearchOutcome) -> list[Any]:
        if outcome.outage:
            raise ToolError(f"every search failed: {outcome.outage}")
        crops = outcome.crops.values() if config.show_crops else ()
        return [
            *(McpImage(data=encode_image(crop), format="jpeg") for crop in crops),
            response(outcome.invocations, outcome.notes, config.content_limit),
        ]

    async def text_search(input: list[str]) -> list[Any]:
        """Finds passages of text. `input` is a list of queries, all searched at once."""
        return content(await search.search([read("text_search", {"input": input})]))

    async def image_search(image: str, area: list[list[float]] | None = None) -> list[Any]:
        """Finds pages that show what an image shows.

        `image` is an id this server has given or knows, or a data URI (data:image/...;base64,...). `area` is a list of
        boxes [x1, y1, x2, y2], each cut out and searched; without it the whole image is searched.
        """
        if image.startswith("data:"):
            try:
                picture = read_base64_image(image)
            except ImageError as error:
                raise ToolError(str(error)) from error
            image = _content_name(0, picture)
            search.images[image] = picture
        outcome = await search.search([read("image_search", {"image_id": image, "area": area})])
        forget()
        return content(outcome)

    for tool in (text_search, image_search):
        server.tool(structured_output=False)(tool)
    return server


def _content_name(number: int, image: Image.Image | None) -> str:
    if image is None:
        return f"crop {number}"
    return "img_" + image_query(image).removeprefix("sha256:")[:12]


def _bytes(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())
