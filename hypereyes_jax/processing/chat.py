"""The Qwen3-VL chat format, made of chunks that are never re-tokenised.

A conversation is a prompt, then turns as the model wrote them, each followed by an observation. Put end to end, the
chunks' tokens are those of the whole conversation rendered by Qwen3-VL's chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.processing.types import ContextChunk

_IM_START, _IM_END, _ENDOFTEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_FRAME = "<|video_pad|>"
_IMAGE = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")

Part = str | Image.Image  # as in `hypereyes_jax.env.types`, which this room may not import


class ChatFormat:
    """Renders messages to tokens with a HF fast tokenizer.

    Text is untrusted (questions, search results): a special token spelled out in it is encoded as plain characters, so
    no web page can close a message or pose as an image.
    """

    def __init__(self, tokenizer: Any):
        """Raises ValueError if the tokenizer lacks one of the format's special tokens."""
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (_IM_START, _IM_END, *_IMAGE, _FRAME) if token not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks the special token(s) {', '.join(missing)}")
        self._start, self._end = vocabulary[_IM_START], vocabulary[_IM_END]
        self._image = [vocabulary[token] for token in _IMAGE]
        self._frame = [self._image[0], vocabulary[_FRAME], self._image[2]]
        ends = [self._end] + ([vocabulary[_ENDOFTEXT]] if _ENDOFTEXT in vocabulary else [])
        self.stop_ids: tuple[int, ...] = tuple(ends)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special tokens in it are spelled out."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def prompt(self, system: str, parts: Sequence[Part]) -> ContextChunk:
        """System message (none if `system` is ""), first user message, and the opening of the model's turn."""
        tokens: list[int] = []
        if system:
            tokens += [self._start, *self.encode(f"system\n{system}"), self._end, *self.encode("\n")]
        return self._user(tokens, parts)

    def observation(self, parts: Sequence[Part]) -> ContextChunk:
        """The user message that answers a turn, which has itself ended with the stop token."""
        return self._user(self.encode("\n"), parts)

    def turn(self, text: str) -> np.ndarray:
        """int32 ids of a model turn written by hand, with its stop token."""
        return np.array([*self.encode(text), self._end], np.int32)

    def video(self, timestamps: Sequence[float], before: str = "") -> list[int]:
        """Ids of a video for `pack_inputs`: before each temporal patch its time, as `frame_timestamps` gives it.

        `before` is text that comes right before the video, to be encoded together with the first time.
        """
        tokens, run = [], before
        for seconds in timestamps:
            tokens += [*self.encode(f"{run}<{seconds:.1f} seconds>"), *self._frame]
            run = ""
        return tokens

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of a sampled turn, without a final stop token."""
        ids = [int(i) for i in ids]
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _user(self, tokens: list[int], parts: Sequence[Part]) -> ContextChunk:
        tokens.append(self._start)
        # Text is encoded in the longest runs between special tokens, as a tokenizer would see it in the whole string.
        run, images = "user\n", []
        for part in parts:
            if isinstance(part, str):
                run += part
            else:
                tokens += [*self.encode(run), *self._image]
                images.append(part)
                run = ""
        tokens += [*self.encode(run), self._end, *self.encode("\n"), self._start, *self.encode("assistant\n")]
        return ContextChunk(np.array(tokens, np.int32), tuple(images))
