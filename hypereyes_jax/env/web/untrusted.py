"""JSON and text that somebody else wrote: a model, a search service, a client of a server.

JSON can escape half of a surrogate pair ("\\ud83d", what a snippet cut inside an emoji ends with). Python reads it, but
nothing that comes later takes it: no tokenizer, HTTP body, database or file.
"""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def encodable(text: str) -> str:
    """The text with a "?" for each half of a surrogate pair that stands alone."""
    return text.encode("utf-8", "replace").decode("utf-8")


def parse_json(raw: bytes | str) -> Any:
    """A JSON text whose strings can all be encoded, see `encodable`.

    Raises ValueError for what is no JSON, or nests deeper than Python reads.
    """
    text = raw if isinstance(raw, str) else raw.decode(json.detect_encoding(raw), "replace")
    try:
        value = json.loads(text)
        return json.loads(encodable(json.dumps(value, ensure_ascii=False))) if _HALF.search(text) else value
    except RecursionError:
        raise ValueError("it nests too deeply") from None
