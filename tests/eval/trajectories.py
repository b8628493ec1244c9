"""Small hand-made trajectories that the tests of this folder share."""

import numpy as np
from PIL import Image

from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from hypereyes_jax.rollout.types import Trajectory

NORWAY = SearchHit("Norway", "A country.", 0.9, "world://norway")


def question(name="q1", images=(), text="Which of the two?", answers=("Norway", "Kingdom of Norway")):
    return Question(id=name, text=text, images=tuple(images), answers=answers, kind="compare")


def mosaic(colour=(200, 30, 40)):
    return Image.new("RGB", (64, 32), colour)


def search(box=(0.0, 0.0, 0.5, 1.0), hits=(NORWAY,), **fields):
    return Invocation("image_search", "img_1", source="img_0", box=box, crop_id="img_1", hits=hits, **fields)


def trajectory(
    name="q1", *, answer="Norway", stop=StopReason.ANSWERED, searches=(2,), images=(), malformed="", error="", why=""
):
    """One tool turn for each entry of `searches`, then an answer turn; 10 + 3 context tokens, 4 sampled; one second."""
    turns = [TurnRecord("<reason>look</reason>", "look", (search(error=error),) * n, True, malformed) for n in searches]
    turns.append(TurnRecord(f"<answer>{answer}</answer>", "", (), False))
    zeros = np.zeros(4)
    sampled = SampledChunk(zeros.astype(np.int32), zeros, zeros, zeros.astype(np.int32))
    chunks = (ContextChunk(np.zeros(10, np.int32), tuple(images)), sampled, ContextChunk(np.zeros(3, np.int32)))
    result = EpisodeResult(question(name, images), tuple(turns), stop, answer, why)
    return Trajectory(chunks, result, 1.0)
