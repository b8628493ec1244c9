"""Rows to questions: ours, veRL's, LiveVQA's two levels, conversations, and columns of question, answer, image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypereyes_jax.data.sources import conversations
from hypereyes_jax.data.sources.fields import (
    Fields,
    answers_of,
    clips_of,
    first,
    id_of,
    pictures_of,
    plain_value,
    reference_of,
    text_of,
    without_image_tags,
)
from hypereyes_jax.data.sources.media import Clip, Media, Picture
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.types import Question

REFERENCE = "reference"  # in `meta`: [rounds, searches] that the data state for the question
_LONGEST_META = 2_000  # characters of a text that is kept in `meta`
_VERL = ("prompt", "reward_model", "extra_info", "data_source")


@dataclass(frozen=True)
class QuestionRow:
    """A question whose pictures are not opened yet."""

    id: str
    text: str
    pictures: tuple[Picture, ...]
    answers: tuple[str, ...]
    kind: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    shape: str = ""  # which of the known shapes the row had
    clips: tuple[Clip, ...] = ()  # videos, whose frames are shown after the pictures
    captions: tuple[str, ...] = ()  # of the pictures, see `Question`

    def decode(self, media: Media) -> Question:
        """Opens the pictures. Raises BadRow."""
        images = [media.open(part) for part in self.pictures]
        captions = list(self.captions) or [""] * len(images)
        for clip in self.clips:
            frames = media.frames(clip)
            images += frames.images
            captions += frames.captions
        captions_shown = tuple(captions) if any(captions) else ()
        return Question(self.id, self.text, tuple(images), self.answers, self.kind, self.meta, captions_shown)

    def check(self, media: Media) -> None:
        """Raises BadRow for a picture that cannot be there."""
        for part in (*self.pictures, *(clip.file for clip in self.clips)):
            media.check(part)


def question_rows(row: Row, fields: Fields, default_id: str) -> list[QuestionRow]:
    """The questions of a row: one, or two of LiveVQA. Raises BadRow."""
    if {"id", "text", "answers"} <= row.keys() and not fields.columns:
        return [_ours(row, fields)]
    if "level1_qa" in row or "level2_qa" in row:
        return _livevqa(row, fields, default_id)
    if isinstance(row.get("prompt"), list) and ("reward_model" in row or "extra_info" in row):
        return [_verl(row, fields, default_id)]
    if isinstance(fields.get(row, "messages"), list) and not fields.has(row, "text"):
        return [_conversation(row, fields, default_id)]
    if not fields.has(row, "text"):
        listed = ", ".join(map(repr, row))[:300]
        raise BadRow(
            "no question", f"it has no question; its columns are {listed}: name the right one by --columns text=COLUMN"
        )
    return [_plain(row, fields, default_id)]


def _ours(row: Row, fields: Fields) -> QuestionRow:
    """As this project writes it: every text is kept to the letter."""
    text, meta = row["text"], row.get("meta")
    if isinstance(meta, str):  # as tables hold it
        try:
            meta = json.loads(meta)
        except (ValueError, RecursionError):
            raise BadRow("no meta", "'meta' must be a JSON object") from None
    if not isinstance(text, str):
        raise BadRow("no text", "it needs 'text', a text")
    if meta is not None and not isinstance(meta, Mapping):
        raise BadRow("no meta", "'meta' must be a JSON object")
    if row["id"] is None or row["id"] == "":
        raise BadRow("no id", "it needs 'id', a text or an integer")
    pictures = pictures_of({"images": row.get("images")}, fields)
    answers = answers_of(row["answers"], exact=True)
    captions = row.get("captions") or ()
    if not isinstance(captions, list | tuple) or not all(isinstance(part, str) for part in captions):
        raise BadRow("no captions", "'captions' must be a list of texts")
    if captions and len(captions) != len(pictures):
        raise BadRow("no captions", f"{len(pictures)} images need as many captions, found {len(captions)}")
    meta = plain_value(meta or {})
    question = QuestionRow(id_of(row["id"], ""), text, pictures, answers, _kind(row, fields), meta, "ours")
    return replace(question, captions=tuple(captions), clips=clips_of(row, fields))


def _plain(row: Row, fields: Fields, default_id: str) -> QuestionRow:
    text = fields.get(row, "text")
    text = conversations.last_user_text(text) if isinstance(text, list) else text
    meta = _rest(row, fields)
    reference = reference_of(row, fields)
    if reference is not None:
        meta[REFERENCE] = list(reference)
    return QuestionRow(
        id_of(fields.get(row, "id"), default_id),
        text_of(without_image_tags(text_of(text, "question")), "question"),
        pictures_of(row, fields),
        answers_of(fields.get(row, "answers"), fields.get(row, "more_answers")),
        _kind(row, fields),
        meta,
        "question, answer, image",
        clips_of(row, fields),
    )


def _verl(row: Row, fields: Fields, default_id: str) -> QuestionRow:
    extra = row.get("extra_info")
    extra = extra if isinstance(extra, Mapping) else {}
    reward = row.get("reward_model")
    truth, more = reward, None
    if isinstance(reward, Mapping):
        truth, more = reward.get("ground_truth"), reward.get("candidate_answers")
    if "answers" in fields.columns or truth is None:
        truth = fields.get(row, "answers")
    text = fields.get(row, "text") if "text" in fields.columns else extra.get("question")
    if not isinstance(text, str) or not text.strip():
        text = conversations.last_user_text(row["prompt"])
    index = first((fields.get({k: v for k, v in row.items() if k != "index"}, "id"), extra.get("index")))
    meta = _rest(row, fields, (*_VERL, "images")) | {"data_source": row.get("data_source")}
    meta |= {name: plain_value(value) for name, value in extra.items() if name != "question"}
    reference = first((reference_of(extra, Fields({})), reference_of(row, fields)))
    if reference is not None:
        meta[REFERENCE] = list(reference)
    return QuestionRow(
        id_of(index, default_id),
        text_of(without_image_tags(text), "prompt"),
        pictures_of(row, fields),
        answers_of(truth, more),
        _kind(row, fields) or str(row.get("data_source") or ""),
        {name: value for name, value in meta.items() if value is not None},
        "veRL",
        clips_of(row, fields),
    )


def _livevqa(row: Row, fields: Fields, default_id: str) -> list[QuestionRow]:
    out = []
    name = id_of(row.get("id"), default_id)
    about = {key: plain_value(row[key]) for key in ("source", "time") if row.get(key) is not None}
    for level in (1, 2):
        text = row.get(f"level{level}_qa")
        if text is None:
            continue
        if not isinstance(text, Mapping):
            raise BadRow("no question", f"'level{level}_qa' must be an object")
        path = first((text.get("img_path"), row.get("img_path"), text.get("img_url")))
        truth = first((text.get("Ground_Truth_List"), text.get("Ground_Truth")))
        meta = about | {"level": level} | {k: plain_value(text[k]) for k in ("options", "Ground_Truth") if k in text}
        out.append(
            QuestionRow(
                f"{name}-level{level}",
                text_of(text.get("question"), "question"),
                pictures_of({"images": path}, Fields({})) if path else (),
                answers_of(truth),
                str(text.get("question_type") or ""),
                meta,
                "LiveVQA",
            )
        )
    return out


def _conversation(row: Row, fields: Fields, default_id: str) -> QuestionRow:
    talk = conversations.conversation(row, fields)
    prompt = next((message for message in talk.messages if message.role == "user"), None)
    if prompt is None:
        raise BadRow("no question", "its conversation has no message of the user")
    pictures = tuple(part for part in prompt.parts if isinstance(part, Picture))
    clips = tuple(part for part in prompt.parts if isinstance(part, Clip))
    text = "".join(part for part in prompt.parts if isinstance(part, str)).strip()
    value = fields.get(row, "answers")
    if value is None:
        value = conversations.final_answer(talk.messages)
    if value is None:
        raise BadRow("no answer", "it needs an answer: a column, or <answer>...</answer> in the last message")
    return QuestionRow(
        id_of(fields.get(row, "id"), default_id),
        text_of(text, "question"),
        pictures,
        answers_of(value, fields.get(row, "more_answers")),
        _kind(row, fields),
        _rest(row, fields),
        talk.shape,
        clips,
    )


def _kind(row: Row, fields: Fields) -> str:
    value = fields.get(row, "kind")
    return value if isinstance(value, str) else ""


def _rest(row: Row, fields: Fields, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Columns that no field takes, as far as JSON holds them and they are short."""
    rest = {}
    for name, value in row.items():
        if name in fields.used or name in beside or value is None or name.startswith(("img_", "image_")):
            continue
        value = plain_value(value)
        if value is not None and not (isinstance(value, str) and len(value) > _LONGEST_META):
            rest[name] = value
    return rest
