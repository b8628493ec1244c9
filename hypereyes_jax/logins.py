"""Logins in URLs: they go to the service, and stand in no message, log or record."""

from __future__ import annotations

import re

_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@")
_PASSWORD = re.compile(r"([?&]password=)[^&#\s]*", re.IGNORECASE)


def without_login(text: str) -> str:
    """A text whose URLs have lost their logins ("https://me:word@host/x" is "https://host/x"), and the passwords among
    their parameters."""
    return _PASSWORD.sub(r"\1...", _LOGIN.sub("", text))
