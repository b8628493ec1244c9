"""Looking closer at a part of an image, without a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hypereyes_jax.env.media.crops import UNITS_IN_WORDS
from hypereyes_jax.env.tools.regions import cut_regions, region_parameters
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply


@dataclass(frozen=True)
class Zoom:
    """Cuts regions out of an image, enlarged, and shows them. It is not a search and costs nothing.

    Args:
      side: pixels that the longer side of a small region is enlarged to.
      most: regions of one call.
    """

    side: int = 1000
    most: int = 8
    name: str = "zoom"
    description: str = "shows regions of an image enlarged. It searches nothing."
    is_search: bool = False
    price: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        return region_parameters("the image to look at.", "show")

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        regions = cut_regions(arguments, episode, self.most, self.side)
        enlarged = [self._enlarged(image) for image in regions.images if image is not None]
        if len(enlarged) < len(regions.images):
            units = UNITS_IN_WORDS[episode.config.box_units]
            raise ToolError(f"a box is empty or outside the image: give boxes in {units}")
        more = f"; {regions.left_out} more were left out" if regions.left_out else ""
        return ToolReply((*enlarged, f"{len(enlarged)} regions of {regions.image_id}{more}"))

    def _enlarged(self, image: Image.Image) -> Image.Image:
        scale = min(self.side / max(image.size), 4.0)  # beyond four times there is nothing more to see
        if scale <= 1:
            return image
        width, height = (max(1, round(side * scale)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
