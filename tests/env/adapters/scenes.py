"""What the tests of all adapters play: an image of two flags, calls on it, and a search that is down."""

from PIL import Image

from hypereyes_jax.env import SearchError, tool_call
from hypereyes_jax.env.actions import ImageSearch

FLAGS = Image.new("RGB", (400, 200), "red")
FLAGS.paste("blue", (200, 0, 400, 200))
HALVES = tool_call(ImageSearch("img_0", ((0, 0, 0.5, 1), (0.5, 0, 1, 1))))
ZOOM = '<tool_call>{"name": "zoom", "arguments": {"image_id": "img_0", "area": [[0, 0, 0.5, 1]]}}</tool_call>'


class Down:
    async def text_search(self, query, k):
        raise SearchError("HTTP 503", transient=True)

    image_search = text_search
