"""The Qwen3-VL chat format, made of chunks that are never re-tokenised.

A conversation is a prompt, then turns as the model wrote them, each followed by an observation. Put end to end, the
chunks' tokens are those of the whole conversation rendered by Qwen3-VL's chat template. Where a tokenizer brings a
template of its own, the two are compared before anything is sampled. A Thinking checkpoint's template opens each turn
with `<think>`: that belongs to the prompt then, and `decode` and `turn` put it before the text and take it off.

One thing differs from the Thinking template on purpose: it drops the reasoning of earlier turns when it renders a
conversation anew, and here a sampled turn stays as it was sampled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.env.types import Part
from hypereyes_jax.env.web.untrusted import one_line
from hypereyes_jax.processing.chat_template import TemplateFailure, render
from hypereyes_jax.processing.types import ContextChunk

_IM_START, _IM_END, _ENDOFTEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_VIDEO_PAD = "<|video_pad|>"
_IMAGE = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_ASSISTANT = f"{_IM_START}assistant\n"
_THINK, _END_THINK = "<think>", "</think>"
_REASONING = re.compile(rf"{_THINK}\n?(\s*{_END_THINK}\s*)?")  # all that a turn may be opened with
_SHOWN = 1000  # characters of a rendered conversation in a message


class ChatFormat:
    """Renders messages to tokens with a HF fast tokenizer.

    Text is untrusted (questions, search results): a special token spelled out in it is encoded as plain characters, so
    no web page can close a message or pose as an image.
    """

    def __init__(self, tokenizer: Any):
        """Raises ValueError if the tokenizer lacks one of the format's special tokens, reads one in untrusted text, or
        brings a chat template that renders a conversation otherwise.
        """
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (_IM_START, _IM_END, *_IMAGE, _VIDEO_PAD) if token not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks the special token(s) {', '.join(missing)}")
        self._start, self._end = vocabulary[_IM_START], vocabulary[_IM_END]
        self._image = [vocabulary[token] for token in _IMAGE]
        ends = [self._end] + ([vocabulary[_ENDOFTEXT]] if _ENDOFTEXT in vocabulary else [])
        self.stop_ids: tuple[int, ...] = tuple(ends)
        self._refuse_control_tokens_in_text(vocabulary)
        self.opening = ""  # what the template writes before the model's own words, such as "<think>\n"
        if getattr(tokenizer, "chat_template", None):
            self.opening = self._compared_opening()

    @property
    def thinks(self) -> bool:
        """Whether the template opens a turn with reasoning that the model goes on with."""
        return _THINK in self.opening and _END_THINK not in self.opening

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
        """int32 ids of a model turn written by hand, with its stop token.

        Where the template has opened the turn's reasoning, a text without any closes it first, as the template does.
        """
        if self.thinks:
            thinking = text.lstrip().removeprefix(_THINK)
            text = thinking.lstrip("\n") if thinking != text.lstrip() else f"\n{_END_THINK}\n\n{text}"
        return np.array([*self.encode(text), self._end], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of a sampled turn, what opened it included, without a final stop token."""
        ids = [int(i) for i in ids]
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return self.opening + text if _END_THINK not in self.opening else text

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
        tokens += [
            *self.encode(run),
            self._end,
            *self.encode("\n"),
            self._start,
            *self.encode("assistant\n" + self.opening),
        ]
        return ContextChunk(np.array(tokens, np.int32), tuple(images))

    def _refuse_control_tokens_in_text(self, vocabulary: dict[str, int]) -> None:
        for token in (_IM_START, _IM_END, _ENDOFTEXT, *_IMAGE, _VIDEO_PAD):
            if token in vocabulary and vocabulary[token] in self.encode(token):
                raise ValueError(
                    f"the tokenizer does not flag {token} as special, so that anyone who types it in a question would "
                    'write a control token; set "special": true for it in tokenizer.json'
                )

    def _compared_opening(self) -> str:
        """What the tokenizer's own template opens the model's turn with, once all before is known to be rendered alike.

        Compared are the tokens of a conversation with a system message, an image, a turn and a second message.
        """
        messages = [
            {"role": "system", "content": [{"type": "text", "text": "Search."}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Which?"}]},
        ]
        conversation = [
            *messages,
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
            {"role": "user", "content": [{"type": "text", "text": "c"}]},
        ]
        first, second = self._rendered([messages, conversation])
        opening = _opening(first)
        self.opening = opening  # `prompt` writes it
        image = "".join(_IMAGE)
        expected = f"{_IM_START}system\nSearch.{_IM_END}\n{_IM_START}user\n{image} Which?{_IM_END}\n{_ASSISTANT}"
        if first != expected + opening:
            raise ValueError(
                f"the tokenizer's chat template renders a conversation as {first[:_SHOWN]!r}, expected {expected!r}"
            )
        ids = self.tokenizer.encode(first, add_special_tokens=False)
        tokens = self.prompt("Search.", [Image.new("RGB", (1, 1)), " Which?"]).tokens.tolist()
        if ids != tokens:
            raise ValueError(
                "the tokenizer strips or adds characters around its control tokens: of its own chat template it makes "
                f"{ids}, expected {tokens}"
            )
        follow = f"b{_IM_END}\n{_IM_START}user\nc{_IM_END}\n{_ASSISTANT}{opening}"
        if second != expected + follow or _opening(second) != opening:
            raise ValueError(
                f"the tokenizer's chat template renders a second turn as {second[:_SHOWN]!r}, expected "
                f"{expected + follow!r}"
            )
        return opening

    def _rendered(self, conversations: list[list[dict[str, Any]]]) -> list[str]:
        template, variables = self.tokenizer.get_chat_template(), self.tokenizer.special_tokens_map
        try:
            return render(template, conversations, variables)
        except TemplateFailure as failure:
            why = one_line(str(failure), 300)
            raise ValueError(
                f"the tokenizer's chat template can't render a conversation with an image ({why})"
            ) from failure


def _opening(text: str) -> str:
    """What opens the model's turn at the end of a rendered conversation, such as "<think>\\n"."""
    before, _, opening = text.rpartition(_ASSISTANT)
    if not before or (opening and not _REASONING.fullmatch(opening)):
        end = text[-80:]
        raise ValueError(f"its chat template ends a prompt with {end!r}, expected {_ASSISTANT!r} or that and {_THINK}")
    return opening
