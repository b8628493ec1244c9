"""Rows of the published files as questions, one function a benchmark."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any

from hypereyes_jax.data.benchmarks.types import ReadOptions
from hypereyes_jax.data.sources.columns import Fields
from hypereyes_jax.data.sources.fields import answers_of, id_of, pictures_in, text_of
from hypereyes_jax.data.sources.media import picture
from hypereyes_jax.data.sources.question_rows import QuestionRow, question_rows
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.judging.judges import normalise
from hypereyes_jax.env.judging.published import LETTER, OPTIONS

_CANARY = "MMSearch-Plus"  # the data set's name: it keeps its texts out of crawled corpora
_OPTION = re.compile(r"^\s*([A-Z])[.)]\s+\S")


def any_row(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of any layout that sources of questions have."""
    return question_rows(row, Fields(options.columns), default_id)


def mmsearch(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """MMSearch's end-to-end rows (`query`, `query_image` or null, `gt_answer`), or the visual subset of WebWatcher."""
    if "file_path" in row:
        return webwatcher(row, default_id, options)
    question = QuestionRow(
        id_of(row.get("sample_id"), default_id),
        text_of(row.get("query"), "query"),
        pictures_in(row.get("query_image")),
        answers_of(row.get("gt_answer"), row.get("alternative_gt_answers")),
        str(row.get("area") or ""),
        _kept(row, "subfield", "timestamp"),
        "MMSearch",
    )
    return [question]


def webwatcher(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of WebWatcher's subsets: `prompt` (options inside, if any), `file_path`, `answers`, `question_id`."""
    text = text_of(row.get("prompt"), "prompt")
    answers = answers_of(row.get("answers"))
    choices = [line.strip() for line in text.splitlines() if _OPTION.match(line)]
    meta: dict[str, Any] = {}
    if len(choices) > 1:
        meta = {OPTIONS: choices, LETTER: _letter_of(choices, answers)}
    path = text_of(row.get("file_path"), "file_path")
    return [
        QuestionRow(id_of(row.get("question_id"), default_id), text, (picture(path),), answers, "", meta, "WebWatcher")
    ]


def fvqa(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of FVQA: veRL's columns, with `candidate_answers` as JSON in a text and `data_id`."""
    if not isinstance(row.get("reward_model"), dict):
        raise BadRow("no answer", "an FVQA row needs 'reward_model', with 'ground_truth' and 'candidate_answers'")
    return question_rows(row, Fields({}), default_id)


def livevqa(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """Both levels of a LiveVQA item, with their options in the text if asked so; or WebWatcher's subset."""
    if "file_path" in row:
        return webwatcher(row, default_id, options)
    if "level1_qa" not in row and "level2_qa" not in row:
        raise BadRow("no question", "a LiveVQA item needs 'level1_qa' or 'level2_qa'")
    out = []
    for question in question_rows(row, Fields({}), default_id):
        meta = dict(question.meta)
        letter = meta.pop("Ground_Truth", "")
        choices = [str(option) for option in meta.get(OPTIONS) or ()]
        if choices:
            meta |= {OPTIONS: choices, LETTER: str(letter)}
        text = question.text
        if options.choices and choices:
            text = "\n".join((text, "Choose one of these options:", *choices))
        out.append(question._replace(text=text, meta=meta))
    return out


def browsecomp_vl(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of BrowseComp-VL: `question`, `image_path` (below the folder of the set, or in a tar file), `answers`."""
    path = text_of(row.get("image_path"), "image_path").removeprefix("browsecomp-vl/")
    return [
        QuestionRow(
            default_id,
            text_of(row.get("question"), "question"),
            (picture(path),),
            answers_of(row.get("answers")),
            str(row.get("domain") or ""),
            {},
            "BrowseComp-VL",
        )
    ]


def mmsearch_plus(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of MMSearch-Plus, decrypted; a row that was saved decrypted is taken as it is."""
    question = text_of(row.get("question"), "question")
    plain = decrypt(question)
    value = row.get("answer")
    answers = list(value) if isinstance(value, list | tuple) else [value]
    if plain is not None:
        answers = [decrypt(text) if isinstance(text, str) and text else text for text in answers]
        if any(text is None for text in answers):
            raise BadRow("not decrypted", "its question is encrypted and an answer is not")
    count = row.get("num_images")
    columns = [row.get(f"img_{number}") for number in range(1, 6)]
    pictures = pictures_in(columns)
    if isinstance(count, int) and count != len(pictures):
        raise BadRow("images missing", f"it should have {count} images and has {len(pictures)}")
    return [
        QuestionRow(
            id_of(row.get("id"), default_id),
            question if plain is None else plain,
            pictures,
            answers_of([text for text in answers if text]),
            str(row.get("category") or ""),
            _kept(row, "subtask", "difficulty"),
            "MMSearch-Plus",
        )
    ]


def imeb(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of IMEB. Its format is not published: the authors' own RL columns by default, others by `columns`."""
    questions = any_row(row, default_id, options)
    domain = row.get("domain")
    about = _kept(row, "num_entities")
    kind = domain if isinstance(domain, str) and "kind" not in options.columns else None
    return [question._replace(kind=kind or question.kind, meta=question.meta | about) for question in questions]


def decrypt(text: str, canary: str = _CANARY) -> str | None:
    """A text of MMSearch-Plus: base64 of its UTF-8 bytes XOR SHA-256(canary), repeated. None for what is none."""
    try:
        data = base64.b64decode(text, validate=True)
        return _xor(data, canary).decode("utf-8")
    except (binascii.Error, ValueError):
        return None


def _xor(data: bytes, canary: str) -> bytes:
    key = hashlib.sha256(canary.encode()).digest()
    return bytes(byte ^ key[place % len(key)] for place, byte in enumerate(data))


def _letter_of(choices: list[str], answers: tuple[str, ...]) -> str:
    """The letter of the option that an accepted answer names; "" if none does."""
    right = {normalise(answer) for answer in answers}
    fitting = [choice.strip()[0] for choice in choices if normalise(choice.strip()[2:]) in right]
    return fitting[0] if len(fitting) == 1 else ""


def _kept(row: Row, *names: str) -> dict[str, Any]:
    """Columns for `meta`, as far as the row has them as JSON values."""
    values = {name: row[name] for name in names if isinstance(row.get(name), str | int | float)}
    return json.loads(json.dumps(values))
