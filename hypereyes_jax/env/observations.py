"""What the model is shown after its searches: few tokens, and no way for a web page to speak for anyone else."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from hypereyes_jax.env.types import Invocation, SearchHit

NOTHING_FOUND = "no relevant information"
TOOL_LIMIT = 8000  # characters of what a tool other than the searches says that are shown


def plain(text: str, limit: int) -> str:
    """Untrusted text as one harmless line of at most `limit` characters.

    Every "<" becomes a "‹", so no tag of ours is closed and no special token (<|im_end|>) is spelt; line breaks become
    spaces, so no result line or header is forged; control, format and private characters are dropped.
    """
    text = text[: 4 * limit]  # bounded before the work: a page may be megabytes
    if not text.isprintable():
        spaced = (" " if char.isspace() else char for char in text)
        text = "".join(char for char in spaced if unicodedata.category(char)[0] != "C")
    line = " ".join(text.replace("<", "‹").split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def hit_lines(hits: Sequence[SearchHit], limit: int) -> list[str]:
    """One line a result: "1. (0.97) Title: content"."""
    lines = []
    for rank, hit in enumerate(hits, start=1):
        title, content = plain(hit.title, 200), plain(hit.content, limit)
        lines.append(f"{rank}. ({hit.score:.2f}) " + ": ".join(part for part in (title, content) if part))
    return lines


def response(invocations: Iterable[Invocation], notes: Iterable[str] = (), content_limit: int = 1500) -> str:
    """The <tool_response> of one turn: for each search a "[image id or query]" header and result lines; then notes."""
    lines: list[str] = []
    for invocation in (each for each in invocations if each.is_shown):
        lines.append(f"[{plain(invocation.crop_id or invocation.query, 300)}]")
        if invocation.error:
            lines.append(plain(invocation.error, 300))
        elif invocation.text and not invocation.hits:
            lines.extend(plain(line, TOOL_LIMIT) for line in invocation.text[:TOOL_LIMIT].splitlines())
        else:
            lines.extend(hit_lines(invocation.hits, content_limit) or [NOTHING_FOUND])
    lines.extend(plain(note, 300) for note in notes)
    return "<tool_response>\n" + "\n".join(lines) + "\n</tool_response>"


def budget_hint(remaining: int) -> str:
    """A word when search rounds run out: at one left, and at none. "" otherwise."""
    if remaining <= 0:
        return "No search is left: give your reason and answer now."
    return "One search is left: use it, or answer." if remaining == 1 else ""
