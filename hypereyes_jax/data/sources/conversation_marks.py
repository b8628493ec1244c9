"""Marks that other tools put on conversations and their texts, which would be learnt as they stand: those of chat
templates, which a tokenizer here spells out as any other text, places to be filled in, verdicts on a reply, ciphers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hypereyes_jax.data.sources.turn_checks import NOT_TO_LEARN
from hypereyes_jax.data.sources.types import BadRow, Row

# on a reply, as TRL's, ms-swift's and LLaMA-Factory's sets for KTO have it
_VERDICTS = (
    *("label", "kto_tag", "kto_label", "is_correct", "correct", "success", "is_success", "passed", "accepted"),
    *("is_valid", "resolved", "solved", "is_solved"),
)
_REJECTIONS = ("rejected", "is_rejected", "failed")
_ENDS = ("finish_reason", "stop_reason", "finishReason", "stopReason", "done_reason")  # of services, why a reply ended
_CUT_OFF = frozenset(("length", "max_tokens", "max_output_tokens", "model_length", "content_filter"))
_OBJECTS = ("<ref-object>", "<bbox>")  # places that ms-swift fills with what stands in `objects`

# Where a message begins, as Qwen's and others' (ChatML), Llama's, Gemma's, Mistral's and Zephyr's templates mark it.
_BEGIN = re.compile(
    r"<\|im_start\|>(?:system|developer|user|assistant|tool)\b|<\|start_header_id\|>|<start_of_turn>(?:user|model)"
    r"|^\s*(?:<s>)?\s*\[INST\]|<\|(?:system|user|assistant)\|>"
)
_CIPHER = re.compile(r"(?=.*[A-Z])(?=.*[a-z])[A-Za-z0-9+/]{24,}={0,2}")
_END = re.compile(r"(?:\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>|<end_of_turn>|</s>))+\s*")


def without_end(text: str) -> str:
    """A turn of a model without the marks that end it."""
    at = max(text.rfind(mark) for mark in ("|>", "_turn>", "</s>"))
    if at < 0:
        return text
    for match in _END.finditer(text):
        if match.end() == len(text):
            return text[: match.start()]
    return text


def refuse_template(text: str) -> None:
    """Raises BadRow for a text in which a message begins as a chat template marks it."""
    if ("<" in text or "[INST]" in text) and (mark := _BEGIN.search(text)):
        raise BadRow(
            "template applied already",
            f"a text in it is what a chat template makes of messages ({mark[0].strip()}): give the messages, each with "
            "its role and its bare content",
        )


def is_cipher(text: str) -> bool:
    """Whether a question is no words but base64, as benchmarks that keep themselves out of corpora encrypt theirs."""
    return " " not in text and len(text) % 4 == 0 and _CIPHER.fullmatch(text) is not None


def refuse_cipher(text: str) -> None:
    """Raises BadRow for the text of a question that is encrypted."""
    if is_cipher(text.strip()):
        raise BadRow(
            "encrypted question",
            f"its question is no words but base64 ({text.strip()[:24]}...), as encrypted benchmarks have it: decrypt "
            "questions and answers by the program that the benchmark comes with (--benchmark mmsearch-plus does so)",
        )


def cut_off(value: Row) -> str:
    """The mark on a message, or on a row, of a reply that ended because it was too long; "" without one."""
    for name in _ENDS:
        end = value.get(name)
        if isinstance(end, str) and end.lower() in _CUT_OFF:
            return f"{name}: {end}"
    return next((f"{name}: true" for name in ("truncated", "is_truncated") if value.get(name) is True), "")


def refuse_unwanted(row: Row) -> None:
    """Raises BadRow for a row whose reply is marked as one that a model should not give."""
    marks = [f"{name}: false" for name in _VERDICTS if row.get(name) is False]
    marks += [f"{name}: true" for name in _REJECTIONS if row.get(name) is True]
    marks += [end] if (end := cut_off(row)) else []
    if marks:
        why = f"its reply is marked as one that is not wanted ({marks[0]}), and every reply is learnt here"
        raise BadRow(NOT_TO_LEARN, f"{why}: leave such rows out")


def refuse_places_of_objects(texts: Iterable[str]) -> None:
    """Raises BadRow for texts of a conversation with places of objects that stand beside it."""
    place = next((place for text in texts for place in _OBJECTS if place in text), None)
    if place is not None:
        why = f"its texts have {place} in place of what stands in 'objects', which is not filled in here"
        raise BadRow("places of objects", f"{why}: write names and boxes into the texts")
