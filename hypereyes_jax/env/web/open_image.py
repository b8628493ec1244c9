"""An image by its name: a file, or a URL on the public internet."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PIL import Image

from hypereyes_jax.env.media.images import ImageError, ImageLimits, decode_image
from hypereyes_jax.env.web.urls import UrlError, UrlGuard
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular


async def open_image(source: str) -> Image.Image:
    """The image of a path or an http(s) URL. Raises UserError, naming it, if it can't be had."""
    try:
        if source.startswith(("http://", "https://")):
            return decode_image(await UrlGuard().fetch(source))
        refuse_irregular(Path(source))
        return decode_image(await asyncio.to_thread(Path(source).read_bytes), ImageLimits(trailing_data=True))
    except (ImageError, UrlError, OSError) as error:
        raise UserError(f"can't open {source}: {error}") from error
