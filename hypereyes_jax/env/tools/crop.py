"""Cutting regions out before they are searched: what grounding within a search is compared to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hypereyes_jax.env.media.crops import UNITS_IN_WORDS, crop, to_fractions
from hypereyes_jax.env.tools.regions import read_regions, region_parameters
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply


@dataclass(frozen=True)
class Crop:
    """Cuts regions out of an image. They get ids, by which image_search finds them in a later turn.

    A call counts as one invocation, and its turn as a round: the model waits for it before it can search, as it waits
    for a search.
    """

    name: str = "crop"
    description: str = "cuts regions out of an image. It searches nothing; search the regions by their ids afterwards."
    is_search: bool = True
    price: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        return region_parameters("the image to cut.", "cut out")

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        read, image = read_regions(arguments, episode)
        config = episode.config
        boxes = read.boxes[: config.width]
        cut: list[Image.Image] = []
        for box in boxes:
            fractions = None if box is None else to_fractions(box, image.size, config.box_units)
            region = None if fractions is None else crop(image, fractions, config.crop_max_side)
            if region is not None:
                cut.append(region)
        if not cut:
            raise ToolError(f"all crops failed: give boxes in {UNITS_IN_WORDS[config.box_units]}")
        failed = len(boxes) - len(cut)
        left_out = len(read.boxes) + read.unread - len(boxes)
        notes = [f"{failed} boxes are empty or outside the image"] if failed else []
        notes += [f"only the first {len(boxes)} boxes were cut"] if left_out else []
        return ToolReply((*cut, *notes))
