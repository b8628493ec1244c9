"""What tools that cut regions out of an image have in common: their parameters, and how a call of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from hypereyes_jax.env.actions import ImageSearch, read_call
from hypereyes_jax.env.tools.search import ImageSearchTool
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError


def region_parameters(image: str, purpose: str) -> Mapping[str, Any]:
    """The schema of an image and its boxes, as image_search has it.

    Args:
      image: which image is meant, in words.
      purpose: what a region is cut out for, as in "one for each region to PURPOSE".
    """
    searched = ImageSearchTool().parameters["properties"]
    area = searched["area"] | {"description": f"a list of boxes [x1, y1, x2, y2], one for each region to {purpose}."}
    image_id = searched["image_id"] | {"description": image}
    return {"type": "object", "properties": {"image_id": image_id, "area": area}, "required": ["image_id", "area"]}


def read_regions(arguments: Mapping[str, Any], episode: SearchingEpisode) -> tuple[ImageSearch, Image.Image]:
    """The boxes of a call, read as image_search reads them, and the image. Raises ToolError for a call without them."""
    read = read_call({"name": "image_search", "arguments": dict(arguments)})
    if not isinstance(read, ImageSearch):
        raise ToolError(read.why if hasattr(read, "why") else "image_id and area are needed")
    if not read.boxes:
        raise ToolError('"area" must be a list of boxes: [[x1, y1, x2, y2], ...]')
    try:
        return read, episode.image(read.image_id)
    except KeyError:
        raise ToolError(f"there is no image {read.image_id}") from None
