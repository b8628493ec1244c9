"""A tool, a reward, a search mapping and a judge of a user's own, in one file outside of the package."""

import os

from hypereyes_jax.env.tools.types import ToolError, ToolReply

URL = os.environ.get("OWN_SEARCH_URL", "http://127.0.0.1:1")
HIT = {"content": "document.contents", "url": "document.url", "score": "score"}

# --search.mapping own_parts.py:MAPPING
MAPPING = {
    "text": {
        "url": f"{URL}/retrieve",
        "body": {"queries": ["{query}"], "topk": "{k}", "return_scores": True},
        "hits": "result.0",
        "hit": HIT,
    },
    "image": {
        "url": f"{URL}/image_search",
        "body": {"query_image_base64": "{image_base64}", "topk": "{k}"},
        "hits": "result.0",
        "hit": HIT,
    },
}


class Ruler:
    """--sizes.episode.tools own_parts.py:Ruler"""

    name = "ruler"
    description = "measures an image of the question."
    parameters = {  # noqa: RUF012 - a tool is used as it stands
        "type": "object",
        "properties": {"image_id": {"type": "string", "description": "the image.", "examples": ["img_0"]}},
        "required": ["image_id"],
    }
    is_search = False
    price = 0.0

    async def call(self, arguments, episode):
        try:
            image = episode.image(str(arguments.get("image_id")))
        except KeyError:
            raise ToolError("there is no such image") from None
        return ToolReply((f"{image.width} x {image.height} pixels",))


def frugal(group):
    """--reward.functions own_parts.py:frugal"""
    measured = [sum(call.tool == "ruler" for turn in r.turns for call in turn.invocations) for r in group.results]
    return group.accuracy_G - 0.02 * group.invocations_G, {"measured": sum(measured) / len(measured)}


def contains(question, answer):
    """--judge.object own_parts.py:contains"""
    return any(accepted.casefold() in answer.casefold() for accepted in question.answers)
