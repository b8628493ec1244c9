"""The two searches of the paper as tools: what models and other programs are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env import observations
from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH, Malformed, read_call
from hypereyes_jax.env.media.crops import UNITS_IN_WORDS, BoxUnits
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply

_EXAMPLES: dict[str, list[float]] = {
    "unit": [0.05, 0.1, 0.45, 0.6],
    "permille": [50, 100, 450, 600],
    "pixel": [32, 48, 290, 288],
    "auto": [0.05, 0.1, 0.45, 0.6],
}


@dataclass(frozen=True)
class ImageSearchTool:
    """Regions of images, cut out and searched at once. Each box is one search."""

    box_units: BoxUnits = "unit"
    regions: bool = True  # it takes boxes; else whole images, several of them joined by "|"
    name: str = IMAGE_SEARCH
    description: str = "finds pages that show what an image, or regions of it, show."
    is_search: bool = True
    price: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        units = UNITS_IN_WORDS["unit" if self.box_units == "auto" else self.box_units]
        if not self.regions:
            ids = (
                'the images to search, all at once: ids joined by "|". The images of the question are img_0, img_1, ...'
            )
            image = {"type": "string", "description": ids, "examples": ["img_1|img_2"]}
            return {"type": "object", "properties": {"image_id": image}, "required": ["image_id"]}
        return {
            "type": "object",
            "properties": {
                "image_id": {
                    "type": "string",
                    "description": "the image to search. The images of the question are img_0, img_1, ... in order; "
                    "each region you cut out gets the next free number and can be searched or cut again.",
                    "examples": ["img_0"],
                },
                "area": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                    "description": "a list of boxes [x1, y1, x2, y2], one for each region to cut out and search, in "
                    f"{units}. Leave it out to search the whole image.",
                    "examples": [[_EXAMPLES[self.box_units]]],
                },
            },
            "required": ["image_id"],
        }

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        return await _search(self.name, arguments, episode)


@dataclass(frozen=True)
class TextSearchTool:
    """Queries, all sent at once. Each is one search."""

    name: str = TEXT_SEARCH
    description: str = "finds passages of text."
    is_search: bool = True
    price: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "type": "object",
            "properties": {
                "input": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "a list of queries, all searched at once.",
                    "examples": [["first query", "second query"]],
                }
            },
            "required": ["input"],
        }

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        return await _search(self.name, arguments, episode)


async def _search(name: str, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
    call = read_call({"name": name, "arguments": dict(arguments)})
    if isinstance(call, Malformed):
        raise ToolError(call.why)
    outcome = await episode.search([call])
    if outcome.outage:
        raise outcome.failures[0]
    text = observations.response(outcome.invocations, outcome.notes, episode.config.content_limit)
    return ToolReply((*outcome.crops.values(), text), outcome.invocations, outcome.failures)
