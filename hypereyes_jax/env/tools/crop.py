"""Cutting regions out before they are searched: what grounding within a search is compared to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.media.crops import UNITS_IN_WORDS
from hypereyes_jax.env.tools.regions import cut_regions, region_parameters
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
        config = episode.config
        regions = cut_regions(arguments, episode, config.width, config.crop_max_side)
        images = [image for image in regions.images if image is not None]
        if not images:
            raise ToolError(f"all crops failed: give boxes in {UNITS_IN_WORDS[config.box_units]}")
        failures = len(regions.images) - len(images)
        notes = [f"{failures} boxes are empty or outside the image"] if failures else []
        notes += [f"only the first {len(regions.images)} boxes were cut"] if regions.left_out else []
        return ToolReply((*images, *notes))
