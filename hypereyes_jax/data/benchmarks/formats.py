"""Rows of the published files as questions, one function a benchmark."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from hypereyes_jax.data.benchmarks.types import ReadOptions
from hypereyes_jax.data.sources.columns import Fields
from hypereyes_jax.data.sources.conversation_marks import is_cipher
from hypereyes_jax.data.sources.fields import answers_of, id_of, listed_in, pictures_in, text_of
from hypereyes_jax.data.sources.media import picture
from hypereyes_jax.data.sources.options import lettered_lines, options_of, right_option
from hypereyes_jax.data.sources.question_rows import QuestionRow, question_rows
from hypereyes_jax.data.sources.types import BadRow, Row
from hypereyes_jax.env.judging.published import LETTER, OPTIONS

_CANARY = "MMSearch-Plus"  # the data set's name: it keeps its texts out of crawled corpora


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
    meta, answers = _with_letter(lettered_lines(text), answers_of(row.get("answers")))
    path = text_of(row.get("file_path"), "file_path")
    return [
        QuestionRow(id_of(row.get("question_id"), default_id), text, (picture(path),), answers, "", meta, "WebWatcher")
    ]


def fvqa(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of FVQA: veRL's columns, with `candidate_answers` as JSON in a text and `data_id`."""
    if not row.get("reward_model"):
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
        letter, shown = str(meta.pop("Ground_Truth", "")), options_of({"options": meta.pop(OPTIONS, None)})
        about, answers = _with_letter(shown, question.answers, letter)
        text = question.text
        if options.choices and shown:
            text = "\n".join((text, "Choose one of these options:", *about[OPTIONS]))
            question = question._replace(answers=answers)
        out.append(question._replace(text=text, meta=meta | about))
    return out


def browsecomp_vl(row: Row, default_id: str, options: ReadOptions) -> list[QuestionRow]:
    """A row of BrowseComp-VL: `question`, `image_path` (below the folder of the set, or in a tar file), `answers`."""
    path = text_of(row.get("image_path"), "image_path").replace("\\", "/").removeprefix("browsecomp-vl/")
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
    if plain is None and is_cipher(question.strip()):
        raise BadRow("not decrypted", f"its question is encrypted by another word than {_CANARY!r}")
    value = listed_in(row.get("answer"))
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
            answers_of(answers[0] if len(answers) == 1 else [text for text in answers if text]),
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


def _with_letter(
    options: dict[str, str], answers: tuple[str, ...], letter: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options and the right one's letter for `meta`, and answers among which are its text and its letter.

    Args:
      letter: of the right option, as the row has it; without one it is the option that an answer names.
    """
    if not options:
        return {}, answers
    named = [right_option(options, answer) for answer in ((letter,) if letter else answers)]
    letters = {name for name in named if name}
    right = letters.pop() if len(letters) == 1 else ""
    meta = {OPTIONS: [f"{name}. {text}" for name, text in options.items()], LETTER: right}
    if not right:
        return meta, answers
    texts = [answer for answer in answers if answer.upper() != right]
    return meta, tuple(dict.fromkeys((*texts, options[right], right)))


def _kept(row: Row, *names: str) -> dict[str, Any]:
    """Columns for `meta`, as far as the row has them as JSON values."""
    values = {name: row[name] for name in names if isinstance(row.get(name), str | int | float)}
    return json.loads(json.dumps(values))
