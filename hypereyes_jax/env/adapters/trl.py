"""Our two tools for TRL's `GRPOTrainer(environment_factory=...)`. TRL itself is not imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from hypereyes_jax.env.actions import read_call
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.grounded_search import GroundedSearch
from hypereyes_jax.env.media.images import ImageError, ImageLimits, decode_image, to_rgb
from hypereyes_jax.env.observations import response
from hypereyes_jax.env.types import SearchBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular


class TrlSearchEnvironment:
    """One rollout's tools and counts. TRL makes its public methods the tools, and calls `reset` between rollouts.

    TRL runs each tool call by itself, so `calls` counts calls, not turns; `invocations` is the t_s of the paper. Both
    are there for a reward function (TRL hands it the `environments`), as is `outage`: the world failed, so mask the
    rollout.
    """

    def __init__(self, backend: SearchBackend, config: EpisodeConfig | None = None):
        self._backend, self._config = backend, config or EpisodeConfig()
        self._search = GroundedSearch({}, backend, self._config)
        self.calls = self.invocations = 0
        self.outage = ""

    def reset(self, **row: Any) -> None:
        """Starts a rollout on a row of the data set: its `images` (or `image`) become img_0, img_1, ...

        Each may be a PIL image, the bytes or the path of a file, or a dict of these two as `datasets` stores one.

        Raises:
          ImageError: one of them can't be read; a rollout without it would be asked about nothing.
        """
        images = row.get("images")
        if images is None:
            images = [row["image"]] if row.get("image") is not None else []
        if isinstance(images, Image.Image | bytes | str | Mapping):
            images = [images]
        image_by_id = {f"img_{i}": read_image(image) for i, image in enumerate(images)}
        self._search = GroundedSearch(image_by_id, self._backend, self._config)
        self.calls = self.invocations = 0
        self.outage = ""

    async def text_search(self, input: list[str]) -> list[dict[str, Any]]:
        """
        Finds passages of text.

        Args:
            input: The queries, all searched at once.

        Returns:
            The results of each query.
        """
        return await self._call("text_search", {"input": input})

    async def image_search(self, image_id: str, area: list[list[float]] | None = None) -> list[dict[str, Any]]:
        """
        Finds pages that show what an image, or regions of it, show.

        Args:
            image_id: The image: img_0, img_1, ... in order; each region cut out gets the next free number.
            area: A list of boxes [x1, y1, x2, y2], each cut out and searched; leave it out to search the whole image.

        Returns:
            The regions cut out, and the results of each.
        """
        return await self._call("image_search", {"image_id": image_id, "area": area})

    async def _call(self, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        outcome = await self._search.search([read_call({"name": name, "arguments": arguments})])
        self.calls += 1
        self.invocations += sum(invocation.sent for invocation in outcome.invocations)
        self.outage = self.outage or outcome.outage
        text = response(outcome.invocations, outcome.notes, self._config.content_limit)
        # TRL's chat template puts its own tool_response tags around this.
        text = text.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
        crops = outcome.crops.values() if self._config.show_crops else ()
        return [*({"type": "image", "image": crop} for crop in crops), {"type": "text", "text": text}]


def read_image(value: Any) -> Image.Image:
    """An image as data sets hold them. Raises ImageError for anything that is none."""
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(bytes(value), ImageLimits(trailing_data=True))
    if isinstance(value, str | Path):
        try:
            refuse_irregular(Path(value))
            return decode_image(Path(value).read_bytes(), ImageLimits(trailing_data=True))
        except (OSError, ValueError, UserError) as error:
            raise ImageError(f"the image {str(value)[:200]!r} can't be read ({type(error).__name__})") from error
    raise ImageError(f"a {type(value).__name__} is not an image: give a PIL image, bytes, a path, or a dict of them")


def environment_factory(
    backend: SearchBackend, config: EpisodeConfig | None = None
) -> Callable[[], TrlSearchEnvironment]:
    """What `GRPOTrainer(environment_factory=...)` takes."""
    return lambda: TrlSearchEnvironment(backend, config)
