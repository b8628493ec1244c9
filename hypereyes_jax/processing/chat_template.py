"""Renders conversations by a checkpoint's chat template, which is somebody else's program.

It may loop for ever or fill the memory, and Jinja's sandbox bounds neither. So it runs in a process of its own with
limits on its time and memory; the template that this package ships is rendered here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.apart import ApartError, run_apart

_SHIPPED = Path(__file__).with_name("chat_template.jinja")
_SECONDS = 5  # of computing; a published template takes milliseconds
_MEMORY = 512 << 20  # bytes beyond those of the libraries
_CHARACTERS = 20_000  # of a rendered conversation; those that are compared here have some hundreds

Messages = Sequence[Mapping[str, Any]]


class TemplateFailure(Exception):
    """A chat template that can't be rendered; the message says why."""


def render(template: str, conversations: Sequence[Messages], variables: Mapping[str, Any]) -> list[str]:
    """Each conversation as the template writes it, up to where the model's turn begins.

    Args:
      variables: what the template may name beside the messages: the tokenizer's special tokens.

    Raises:
      TemplateFailure: it fails, or takes more time, memory or text than a template needs.
      ImportError: of jinja2, which renders.
    """
    request = {"template": template, "conversations": conversations, "variables": dict(variables)}
    if template == _SHIPPED.read_text(encoding="utf-8"):
        return rendered(request)
    try:
        return list(_rendered_apart(json.dumps(request)))
    except ApartError as failure:
        raise TemplateFailure(str(failure)) from failure


@functools.lru_cache(maxsize=8)  # a checkpoint tends to carry its template twice
def _rendered_apart(request: str) -> tuple[str, ...]:
    return tuple(run_apart(__file__, "rendered", json.loads(request), seconds=_SECONDS, memory=_MEMORY))


def prepare() -> None:
    """Imports what `rendered` needs, before limits are set."""
    import transformers.utils.chat_template_utils  # noqa: F401 - the import is the point


def rendered(request: Mapping[str, Any]) -> list[str]:
    """The conversations as the template writes them. Raises whatever it raises, and ValueError for too long a text."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendering: Any = render_jinja_template(
        conversations=request["conversations"],
        chat_template=request["template"],
        add_generation_prompt=True,
        **request["variables"],
    )
    texts: list[str] = rendering[0]  # beside them stand places of what the model wrote, which are not asked for
    if max(map(len, texts)) > _CHARACTERS:
        raise ValueError(f"it writes more than {_CHARACTERS:,} characters for a few short messages")
    return texts
