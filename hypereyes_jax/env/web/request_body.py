"""Reads the JSON that a client sends to one of our servers."""

from __future__ import annotations

from typing import Any

from aiohttp import http_exceptions, web

from hypereyes_jax.env.web.untrusted import parse_json


async def read_json_body(request: web.Request) -> Any:
    """The JSON of a request. Raises ValueError for a body that is none, or can't be unpacked as its headers say."""
    try:
        return parse_json(await request.read())
    except (http_exceptions.HttpProcessingError, web.RequestPayloadError) as error:
        raise ValueError(f"it can't be unpacked ({type(error).__name__})") from None
