"""Errors as the API shows them."""

from __future__ import annotations

from aiohttp import web


def error_response(message: str, status: int, code: str, param: str | None = None) -> web.Response:
    """An error in the shape of the API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return web.json_response(body, status=status, headers=headers)
