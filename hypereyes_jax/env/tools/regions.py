"""What tools that cut regions out of an image have in common: their parameters, and what a call of them cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hypereyes_jax.env.actions import ImageSearch, read_call
from hypereyes_jax.env.media.crops import crop, to_fractions
from hypereyes_jax.env.tools.search import ImageSearchTool
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError


def region_parameters(image: str, purpose: str) -> Mapping[str, Any]:
    """The schema of an image and its boxes, as image_search has it.

    Args:
      image: which image is meant, in words.
      purpose: what a region is cut out for, as in "one for each region to PURPOSE".
    """
    properties = ImageSearchTool().parameters["properties"]
    area = properties["area"] | {"description": f"a list of boxes [x1, y1, x2, y2], one for each region to {purpose}."}
    image_id = properties["image_id"] | {"description": image}
    return {"type": "object", "properties": {"image_id": image_id, "area": area}, "required": ["image_id", "area"]}


@dataclass(frozen=True)
class Regions:
    """What a call cuts out of an image."""

    image_id: str
    images: tuple[Image.Image | None, ...]  # one a box, in order; None where the box is empty or outside of the image
    left_out: int  # boxes beyond those that a call may have, or that could not be read


def cut_regions(arguments: Mapping[str, Any], episode: SearchingEpisode, most: int, side: int) -> Regions:
    """The regions of a call, read as image_search reads them.

    Args:
      most: boxes of one call.
      side: pixels that the longer side of a region may have.

    Raises ToolError for a call without an image or boxes.
    """
    call = read_call({"name": "image_search", "arguments": dict(arguments)})
    if not isinstance(call, ImageSearch):
        raise ToolError(call.why if hasattr(call, "why") else "image_id and area are needed")
    if not call.boxes:
        raise ToolError('"area" must be a list of boxes: [[x1, y1, x2, y2], ...]')
    try:
        image = episode.image(call.image_id)
    except KeyError:
        raise ToolError(f"there is no image {call.image_id}") from None
    units, boxes = episode.config.box_units, call.boxes[:most]
    fractions = [None if box is None else to_fractions(box, image.size, units) for box in boxes]
    images = tuple(None if part is None else crop(image, part, side) for part in fractions)
    return Regions(call.image_id, images, len(call.boxes) + call.unread - len(boxes))
