"""Handing a sub-question to a copy of the policy, which searches for itself and gives its answer back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from hypereyes_jax.env.actions import ImageSearch, read_call
from hypereyes_jax.env.media.crops import UNITS_IN_WORDS, crop, to_fractions
from hypereyes_jax.env.tools.search import ImageSearchTool
from hypereyes_jax.env.tools.types import SearchingEpisode, ToolError, ToolReply
from hypereyes_jax.env.types import Invocation, Question, SearchError, StopReason

_MOST_CHARACTERS = 2000  # of a sub-question


@dataclass(frozen=True)
class Delegate:
    """Plays a sub-question as an episode of its own, with a budget of its own, on the engine of the one that asks.

    All that are asked in a turn run at once. A copy can't delegate in turn. Its searches count as those of the episode
    that asked, in the turn that asked; of what it found only its answer is shown.
    """

    name: str = "delegate"
    description: str = (
        "hands a sub-question, with one region of an image if need be, to a copy of you that searches on its own and "
        "sees nothing else, and gives you its answer. Ask for several at once by several calls."
    )
    is_search: bool = False
    price: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        properties = ImageSearchTool().parameters["properties"]
        question = {"type": "string", "description": "the sub-question.", "examples": ["Which country has this flag?"]}
        area = properties["area"] | {"description": "one box [[x1, y1, x2, y2]]: the region that the copy is shown."}
        image = properties["image_id"] | {"description": "the image that the copy is shown."}
        return {
            "type": "object",
            "properties": {"question": question, "image_id": image, "area": area},
            "required": ["question"],
        }

    async def call(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> ToolReply:
        text = arguments.get("question")
        if not isinstance(text, str) or not text.strip():
            raise ToolError('"question" must be the text of a sub-question')
        images = self._shown(arguments, episode)
        result = await episode.ask_copy(Question("", text.strip()[:_MOST_CHARACTERS], images, ()))
        if result.stop is StopReason.INFRASTRUCTURE:
            raise SearchError(f"the copy could not search: {result.why}", transient=True, kind="copy", sent=False)
        text_of_answer = result.answer if result.answer is not None else "the copy found no answer"
        invocation = Invocation(self.name, text.strip()[:300], text=text_of_answer, sent=False)
        # What the copy saw is not shown again; its searches stand in the record and are counted.
        invocations = [replace(call, is_shown=False) for turn in result.turns for call in turn.invocations]
        return ToolReply((text_of_answer,), (invocation, *invocations))

    def _shown(self, arguments: Mapping[str, Any], episode: SearchingEpisode) -> tuple[Image.Image, ...]:
        """The image, or the region of one, that goes along. Raises ToolError for one that there is not."""
        if "image_id" not in arguments:
            return ()
        call = read_call({"name": "image_search", "arguments": dict(arguments)})
        if not isinstance(call, ImageSearch):
            raise ToolError(call.why if hasattr(call, "why") else "image_id is the id of an image")
        try:
            image = episode.image(call.image_id)
        except KeyError:
            raise ToolError(f"there is no image {call.image_id}") from None
        if not call.boxes:
            return (image,)
        units = episode.config.box_units
        box = None if call.boxes[0] is None else to_fractions(call.boxes[0], image.size, units)
        region = None if box is None else crop(image, box, episode.config.crop_max_side)
        if region is None:
            raise ToolError(f"the box is empty or outside the image: give boxes in {UNITS_IN_WORDS[units]}")
        return (region,)
