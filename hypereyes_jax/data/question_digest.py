"""Names questions by what is asked, of which pictures, and what is accepted: a changed one is tried anew.

The log of a collection and the log of RL's tries note a picture's mode and size in different words. Both stay as they
are, since runs go on from such files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from PIL import Image

from hypereyes_jax.env.types import Question


def attempt_key(question: Question) -> str:
    """Names a question in the attempts of a collection: 24 hexadecimal digits."""
    return _digest(question, lambda image: repr((image.mode, image.size)))[:24]


def try_key(question: Question) -> str:
    """Names a question in the tries of RL: a sha256, in hex."""
    return _digest(question, lambda image: f"{image.mode} {image.size}")


def _digest(question: Question, describe: Callable[[Image.Image], str]) -> str:
    digest = hashlib.sha256(json.dumps([question.text, list(question.answers)]).encode())
    for image in question.images:
        digest.update(describe(image).encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
