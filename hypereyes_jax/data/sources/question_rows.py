"""Rows to questions: ours, veRL's, LiveVQA's two levels, conversations, and columns of question, answer, image."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from hypereyes_jax.data.sources import prompts
from hypereyes_jax.data.sources.columns import Fields, Layout, no_column
from hypereyes_jax.data.sources.conversation_marks import is_cipher, refuse_cipher, refuse_template, refuse_unwanted
from hypereyes_jax.data.sources.conversations import conversation
from hypereyes_jax.data.sources.example_rows import our_example
from hypereyes_jax.data.sources.fields import (
    GAPS,
    answer_in,
    answers_of,
    clips_of,
    first,
    id_of,
    image_places,
    pictures_in,
    pictures_of,
    plain_value,
    reference_of,
    text_of,
    with_image_ids,
    without_image_tags,
)
from hypereyes_jax.data.sources.media import Clip, Media, Picture
from hypereyes_jax.data.sources.message_shapes import looks_like_items
from hypereyes_jax.data.sources.options import options_of, right_option, with_options
from hypereyes_jax.data.sources.row_messages import holds_conversation
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.web.untrusted import parse_json

REFERENCE = "reference"  # in `meta`: [rounds, searches] that the data state for the question
PLAIN = "question, answer, image"  # the shape of rows whose columns are named so, or alike
_LONGEST_META = 2_000  # characters of a text that is kept in `meta`
_VERL = ("prompt", "reward_model", "extra_info", "data_source", "images")
_NO, _YES = (False, "false", "False", "0"), (True, "true", "True", "1")  # 0 and 1 are among them
_REPLIES = ("response", "output", "completion")
_ITEMS = ("input", "output")  # of OpenAI's Responses, which hold the conversation
_AS_NAMED = Fields({})
Shown = TypeVar("Shown", Picture, Clip)


class QuestionRow(NamedTuple):  # made a million times in a scan, where a frozen dataclass costs several times as much
    """A question whose pictures are not opened yet."""

    id: str
    text: str
    pictures: tuple[Picture, ...]
    answers: tuple[str, ...]
    kind: str
    meta: dict[str, Any]
    shape: str  # which of the known shapes the row had
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
        if not self.pictures and not self.clips:
            return
        for part in (*self.pictures, *(clip.file for clip in self.clips)):
            media.check(part)


def question_rows(row: Row, fields: Fields, default_id: str) -> list[QuestionRow]:
    """The questions of a row: one, or two of LiveVQA. Raises BadRow."""
    layout = fields.layout(row)
    if row.get("answerable") in _NO or row.get("is_impossible") in _YES:  # MuSiQue's and VizWiz's, SQuAD's
        raise BadRow("no answer", "it is marked as a question without an answer (answerable, is_impossible)")
    if layout.short is not None and (question := _short(row, layout, layout.short, default_id)) is not None:
        return [question]
    if layout.ours:
        return [_ours(row, layout)]
    if "level1_qa" in row or "level2_qa" in row:
        return _livevqa(row, default_id)
    if "reward_model" in row or "extra_info" in row:
        row = _in_objects(row)
        if isinstance(row.get("prompt"), list) or isinstance(row.get("reward_model"), Mapping):
            return [_verl(row, layout, default_id)]
    text = layout.get(row, "text")
    if text is None:
        if "turns" in row and "observations" in row:
            return [_demonstration(row)]
        if holds_conversation(row, layout):
            return [_conversation(row, layout, default_id)]
        raise no_column(row, "text", "question")
    if "text" not in layout.named and text is row.get("instruction") and isinstance(more := row.get("input"), str):
        text = f"{text}\n{more}" if more else text  # Alpaca's, of which the input may be the question itself
    if "history" in row and prompts.follows_others(row):
        why = "it has a 'history', and its question can't be asked without the turns before it"
        raise BadRow("turns before the question", f"{why}: leave such rows out")
    return [_plain(row, layout, text, default_id)]


def _short(row: Row, layout: Layout, columns: tuple[str | None, ...], default_id: str) -> QuestionRow | None:
    """What `_plain` makes of a text and answers that need no rewriting, in half of the time; None for others.

    columns: `Layout.short`.
    """
    of_text, of_answers, of_id, of_kind = columns
    text, value = row[of_text], row[of_answers]  # type: ignore[index]
    if type(text) is not str or "<" in text or not (text := text.strip()) or text[0] == "[":
        return None
    answers: list[str] = []
    for answer in value if type(value) is list else (value,):
        if type(answer) is not str or "<" in answer or not (answer := answer.strip()) or answer in GAPS:
            return None
        if answer not in answers:
            answers.append(answer)
    if (
        not answers
        or len(answers[0]) == 1
        or (" " not in text and is_cipher(text))
        or (type(value) is str and answers[0][0] in "[{")
    ):
        return None  # nothing, the letter of an option, a list or an object in a text, or a cipher
    kind = "" if of_kind is None else row[of_kind]
    row_id = None if of_id is None else row[of_id]
    return QuestionRow(
        str(row_id) if type(row_id) is int else id_of(row_id, default_id),
        text,
        (),
        tuple(answers),
        kind if type(kind) is str else "",
        _rest(row, layout) if layout.rest else {},
        PLAIN,
    )


def _ours(row: Row, layout: Layout) -> QuestionRow:
    """A question as this project writes it: every text is kept to the letter."""
    text, meta = row["text"], row.get("meta")
    if isinstance(meta, str):  # as tables hold it
        try:
            meta = parse_json(meta)
        except ValueError:
            raise BadRow("no meta", "'meta' must be a JSON object") from None
    if not isinstance(text, str):
        raise BadRow("no text", "it needs 'text', a string")
    if meta is not None and not isinstance(meta, Mapping):
        raise BadRow("no meta", "'meta' must be a JSON object")
    if row["id"] is None or row["id"] == "":
        raise BadRow("no id", "it needs 'id', a string or an integer")
    pictures = pictures_in(row.get("images"))
    answers = answers_of(row["answers"], exact=True)
    captions = row.get("captions") or ()
    if not isinstance(captions, list | tuple) or not all(isinstance(part, str) for part in captions):
        raise BadRow("no captions", "'captions' must be a list of strings")
    if captions and len(captions) != len(pictures):
        raise BadRow("no captions", f"{len(pictures)} images need as many captions, found {len(captions)}")
    meta = plain_value(meta or {})
    row_id, kind, clips = id_of(row["id"], ""), _kind(row, layout), clips_of(row, layout)
    return QuestionRow(row_id, text, pictures, answers, kind, meta, "ours", clips, tuple(captions))


def _plain(row: Row, layout: Layout, text: Any, default_id: str) -> QuestionRow:
    column = text.values() if isinstance(text, Mapping) and "0" in text else text if isinstance(text, list) else ()
    if any(isinstance(part, str) for part in column):
        cure = 'is a whole column in one row? pandas writes rows by to_json(FILE, orient="records", lines=True)'
        raise BadRow("no question", f"it needs 'question', a string or messages, not {len(column)} texts ({cure})")
    prompt = prompts.prompt_in(text)
    text = text if prompt is None else prompt.question()
    places = image_places(text) if prompt is None and isinstance(text, str) else prompt.places if prompt else 0
    meta = _rest(row, layout)
    there = layout.fields  # asked first, since most rows have few fields and looking for one in vain costs as much
    reference = reference_of(row, layout) if "searches" in there or "tool_calls" in there else None
    if reference is not None:
        meta[REFERENCE] = list(reference)
    refuse_template(text_of(text, "question"))
    refuse_cipher(text)
    text = text_of(without_image_tags(text), "question") if "<" in text else text.strip()
    more = layout.get(row, "more_answers") if "more_answers" in there else None
    if "answers" not in there and more is None:
        raise no_column(row, "answers", "answer")
    value = layout.get(row, "answers")
    if isinstance(value, bool) and "answers" not in layout.named:
        reply = next((row[name] for name in _REPLIES if row.get(name)), None)
        if reply is not None:  # which the truth value is a verdict on, as in sets for KTO
            refuse_unwanted(row)
            value = reply
    value = prompts.reply_in(value)
    answers = answers_of(value, more)
    if layout.options:
        text, answers = with_options(row, text, answers, value)
    pictures = pictures_of(row, layout) if "images" in there or layout.numbered else ()
    if "<" in text:
        text, answers = with_image_ids(text, len(pictures)), tuple(with_image_ids(a, len(pictures)) for a in answers)
    return QuestionRow(
        id_of(layout.get(row, "id"), default_id),
        text,
        _in_places(places, _with_own(pictures, prompt.pictures if prompt else ())),
        answers,
        _kind(row, layout) if "kind" in there else "",
        meta,
        PLAIN,
        _with_own(clips_of(row, layout) if "videos" in there else (), prompt.clips if prompt else ()),
    )


def _with_own(of_columns: tuple[Shown, ...], of_prompt: tuple[Shown, ...]) -> tuple[Shown, ...]:
    """The pictures, or videos, of a question, which stand in columns or in its message. Raises BadRow for both."""
    if of_columns and of_prompt:
        raise BadRow("images in two places", "its prompt holds images, and so does another column: keep one of them")
    return of_columns or of_prompt


def _in_places(places: int, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
    """The pictures of a question whose text has so many places of them. Raises BadRow where one is missing."""
    if places > len(pictures):
        why = f"its text has {places} <image> tags, and it has {len(pictures)} images"
        raise BadRow("fewer images than tags", f"{why}: name their column by --columns images=COLUMN")
    return pictures


def _verl(row: Row, layout: Layout, default_id: str) -> QuestionRow:
    extra = row.get("extra_info")
    extra = extra if isinstance(extra, Mapping) else {}
    reward = row.get("reward_model")
    truth, more = reward, None
    if isinstance(reward, Mapping):
        truth, more = reward.get("ground_truth"), reward.get("candidate_answers")
    if "answers" in layout.named or truth is None:
        truth = layout.get(row, "answers")
    text = layout.get(row, "text") if "text" in layout.named else extra.get("question")
    prompt = prompts.prompt_in(row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        text = first((row.get("prompt"), layout.get(row, "text"))) if prompt is None else prompt.question()
    refuse_template(text_of(text, "prompt"))
    refuse_cipher(text)
    places = prompt.places if prompt else image_places(text)
    # A column `index` counts the rows of one file, and is not an id unless it was named so.
    columns = row if "id" in layout.named else {k: v for k, v in row.items() if k != "index"}
    index = first((layout.get(columns, "id"), extra.get("index")))
    meta = _rest(row, layout, _VERL) | {"data_source": row.get("data_source")}
    meta |= {name: plain_value(value) for name, value in extra.items() if name != "question"}
    reference = first((reference_of(extra, _AS_NAMED.layout(extra)), reference_of(row, layout)))
    if reference is not None:
        meta[REFERENCE] = list(reference)
    return QuestionRow(
        id_of(index, default_id),
        text_of(without_image_tags(text_of(text, "prompt")), "prompt"),
        _in_places(places, _with_own(pictures_of(row, layout), prompt.pictures if prompt else ())),
        answers_of(truth, more),
        _kind(row, layout) or str(row.get("data_source") or ""),
        {name: value for name, value in meta.items() if value is not None},
        "veRL",
        _with_own(clips_of(row, layout), prompt.clips if prompt else ()),
    )


def _in_objects(row: Row) -> Row:
    """A row of veRL's whose columns hold JSON in a text, as tables without nested types do, with what is in them."""
    out = dict(row)
    for name in ("prompt", "reward_model", "extra_info"):
        value = row.get(name)
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError):
                out[name] = parse_json(value)
    return out


def _livevqa(row: Row, default_id: str) -> list[QuestionRow]:
    out = []
    name = id_of(row.get("id"), default_id)
    about = {key: plain_value(row[key]) for key in ("source", "time") if row.get(key) is not None}
    for level in (1, 2):
        text = row.get(f"level{level}_qa")
        if text is None:
            continue
        if not isinstance(text, Mapping):
            raise BadRow("no question", f"'level{level}_qa' must be an object")
        path = next((p for p in (text.get("img_path"), row.get("img_path"), text.get("img_url")) if p), None)
        truth = text.get("Ground_Truth_List") or _option_text(text)
        meta = about | {"level": level} | {k: plain_value(text[k]) for k in ("options", "Ground_Truth") if k in text}
        out.append(
            QuestionRow(
                f"{name}-level{level}",
                text_of(text.get("question"), "question"),
                pictures_in(path) if path else (),
                answers_of(truth),
                str(text.get("question_type") or ""),
                meta,
                "LiveVQA",
            )
        )
    return out


def _option_text(text: Mapping[str, Any]) -> Any:
    """The text of the option whose letter is the truth, for a question that is asked without its options."""
    options, truth = options_of({"options": text.get("options")}), text.get("Ground_Truth")
    return options.get(right_option(options, truth), truth) if isinstance(truth, str) else truth


def _conversation(row: Row, layout: Layout, default_id: str) -> QuestionRow:
    talk = conversation(row, layout)
    prompt = prompts.first_prompt(talk.messages)
    pictures = tuple(part for part in prompt if isinstance(part, Picture))
    clips = tuple(part for part in prompt if isinstance(part, Clip))
    text = prompts.question_text(prompt)
    value = layout.get(row, "answers")
    # a verdict on the reply, or the reply itself, as items
    if value is None or ("answers" not in layout.named and (isinstance(value, bool) or looks_like_items(value))):
        refuse_unwanted(row)
        value = prompts.final_answer(talk.messages)
    if value is None:
        raise BadRow("no answer", "it needs an answer: a column, or <answer>...</answer> in the last message")
    return QuestionRow(
        id_of(layout.get(row, "id"), default_id),
        text_of(text, "question"),
        pictures,
        answers_of(value, layout.get(row, "more_answers")),
        _kind(row, layout),
        _rest(row, layout, _ITEMS if talk.shape == "Responses" else ()),
        talk.shape,
        clips,
    )


def _demonstration(row: Row) -> QuestionRow:
    """What a demonstration as this project writes it begins with, and the answer that it ends with. Raises BadRow."""
    example = our_example(row)
    parts = example.observations[0]
    answer = answer_in(example.turns[-1])
    if answer is None:
        raise BadRow("no answer", "it needs <answer>...</answer> in its last turn")
    return QuestionRow(
        example.id,
        text_of(prompts.question_text(parts), "question"),
        tuple(part for part in parts if isinstance(part, Picture)),
        answers_of(answer),
        "",
        {},
        example.shape,
        tuple(part for part in parts if isinstance(part, Clip)),
    )


def _kind(row: Row, layout: Layout) -> str:
    value = layout.get(row, "kind")
    return value if isinstance(value, str) else ""


def _rest(row: Row, layout: Layout, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Columns that no field takes, as far as JSON holds them and they are short."""
    rest = {}
    for name in layout.rest:
        if name in beside:
            continue
        value = plain_value(row[name])
        if value is not None and not (isinstance(value, str) and len(value) > _LONGEST_META):
            rest[name] = value
    return rest
